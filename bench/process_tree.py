"""A command, its seconds, and the memory of it and of all processes that it starts, sampled from /proc (Linux)."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLES_PER_SECOND = 50


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    peak_bytes: int
    """Largest sum, over the processes alive at a time, of resident memory; pages that they share count for each."""
    peak_anonymous_bytes: int
    """The same without pages of files: memory that the kernel cannot take back when it needs it."""
    largest_process_bytes: int
    """Largest peak of a single process, by the kernel's own account."""
    said: str
    """Its standard output."""


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run `command` in `folder`. Ends the program with what it complained of where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    try:
        said, complained = process.communicate()
    finally:
        seconds = time.perf_counter() - start
        sampler.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{complained[-3000:]}")
    return Usage(seconds, sampler.peak, sampler.anonymous, sampler.largest, said)


class _Sampler(threading.Thread):
    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._done = threading.Event()
        self.peak = self.anonymous = self.largest = 0

    def run(self) -> None:
        while not self._done.wait(1 / _SAMPLES_PER_SECOND):
            found = [_memory(process) for process in _tree(self._root)]
            self.peak = max(self.peak, sum(memory["VmRSS"] for memory in found))
            self.anonymous = max(self.anonymous, sum(memory["RssAnon"] + memory["RssShmem"] for memory in found))
            self.largest = max([self.largest, *(memory["VmHWM"] for memory in found)])

    def stop(self) -> None:
        self._done.set()
        self.join()


def _tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    found = [root]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def _memory(process: int) -> dict[str, int]:
    """Bytes as in `man 5 proc_pid_status`; 0 of a process that has just ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        status = ""
    fields = ("VmRSS", "VmHWM", "RssAnon", "RssShmem")
    found = {field: re.search(rf"{field}:\s*(\d+) kB", status) for field in fields}
    return {field: 1024 * int(match[1]) if match else 0 for field, match in found.items()}
