"""How long work shows itself: a bar on a terminal, JSON lines for programs, nothing where neither is wanted."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_INTERVAL_S = 0.5  # between two JSON lines of one stage


class Display:
    """Call it with (stage, done, total); use it as a context manager."""

    def __init__(self, *, as_json: bool, unit: str = "bytes", about: Mapping[str, str] | None = None) -> None:
        """about: what the work is about where a command does several, as in {"sample": "0042"}."""
        self._json = as_json
        self._about = dict(about or {})
        self._last: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if not as_json and sys.stderr.isatty():
            counts = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
            console = Console(stderr=True)
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn(), console=console
            )

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._json:
            now = time.monotonic()
            if done >= total or now - self._last.get(stage, 0.0) >= _INTERVAL_S:
                self._last[stage] = now
                say_json({"event": "progress", **self._about, "stage": stage, "done": done, "total": total})
        elif self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(" ".join((*self._about.values(), stage)), total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def say_json(record: dict[str, Any]) -> None:
    """One JSON line on standard output, at once."""
    print(json.dumps(record), flush=True)


def human_bytes(count: float) -> str:
    """A size as people read it, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
