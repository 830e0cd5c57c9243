"""A real Dask cluster for tests: scheduler and workers are processes, as `dask scheduler` and `dask worker` start them.

Processes of their own, so that a test can kill one; without nannies, so that a killed worker stays dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60.0
_ROOT = Path(__file__).resolve().parents[1]  # workers need `tests`, where sources for tests are


@dataclass
class DaskCluster:
    folder: Path
    """Logs, and what workers spill."""
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def scheduler_file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        return str(json.loads(self.scheduler_file.read_text())["address"])

    def start_worker(
        self, *options: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """prefix: a command that runs the worker, as `unshare` would."""
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", *options)
        command = ["worker", self.address, "--local-directory", str(self.folder), *options]
        worker = _dask(self.folder / f"worker-{len(self.workers)}.log", command, env, prefix)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers have said in their logs that they are registered."""
        deadline = time.monotonic() + START_S
        while self.log().count("Registered to") < count:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("worker-*.log")))


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 2, allowed_failures: int = 3) -> Iterator[DaskCluster]:
    """A scheduler with so many workers of one thread; leaving stops them all."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures)}
    with contextlib.ExitStack() as stack:
        command = ["scheduler", "--scheduler-file", str(folder / "scheduler.json"), *options]
        cluster = DaskCluster(folder, _dask(folder / "scheduler.log", command, env))
        stack.callback(lambda: _stop([*cluster.workers, cluster.scheduler]))
        deadline = time.monotonic() + START_S
        while not _is_whole(cluster.scheduler_file):
            assert time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.05)
        for _ in range(workers):
            cluster.start_worker()
        cluster.wait_for_workers(workers)
        yield cluster


def _is_whole(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return False


def _dask(
    log: Path, arguments: Sequence[str], env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "dask", *arguments],
            env={**os.environ, "PYTHONPATH": str(_ROOT), **(env or {})},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
