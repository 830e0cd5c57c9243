"""How long work shows itself: a bar on a terminal, JSON lines for programs, nothing where neither is wanted."""

from __future__ import annotations

import collections
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
_WINDOW_S = 30.0  # a region's first bands are slower than its last: shorter, and the rate would swing with them


class Pace:
    """How fast a stage goes, from what it said lately."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, done: int) -> None:
        """now: in seconds, of any clock. What the first call says was done before, and is no part of the rate."""
        self._seen.append((now, done))
        # One sample from before the window stays, for the window to be full.
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second; None where nothing has been done yet."""
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - began) if now > began and done > before else None

    def remaining_s(self, total: int) -> float | None:
        """Seconds until `total`, if it goes on like this; None where nobody can know."""
        done = self._seen[-1][1]
        if done >= total:
            return 0.0
        return None if self.rate is None else (total - done) / self.rate


class Display:
    """Call it with (stage, done, total); use it as a context manager."""

    def __init__(self, *, as_json: bool, unit: str = "bytes", about: Mapping[str, str] | None = None) -> None:
        """about: what the work is about where a command does several, as in {"sample": "0042"}."""
        self._json = as_json
        self._about = dict(about or {})
        self._last: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}
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
            pace = self._paces.setdefault(stage, Pace())
            pace.add(now, done)
            if done >= total or now - self._last.get(stage, 0.0) >= _INTERVAL_S:
                self._last[stage] = now
                rate, remaining_s = pace.rate, pace.remaining_s(total)
                say_json(
                    {
                        "event": "progress",
                        **self._about,
                        "stage": stage,
                        "done": done,
                        "total": total,
                        "rate": None if rate is None else round(rate, 1),
                        "remaining_s": None if remaining_s is None else round(remaining_s, 1),
                    }
                )
        elif self._bars is not None:
            if stage not in self._tasks:
                title = " ".join((*self._about.values(), stage))
                self._tasks[stage] = self._bars.add_task(title, total=total, completed=done)
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
