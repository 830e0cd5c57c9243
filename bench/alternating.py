"""Timing works that take turns, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """One run."""

    seconds: float
    busy_seconds: float
    """Processor time of this process's threads and of the processes that it ended, user and system."""


def timed(work: Callable[[], None]) -> Timing:
    os.sync()  # what the run before left to be written is not this run's to wait for
    start, busy = time.perf_counter(), _busy_seconds()
    work()
    return Timing(time.perf_counter() - start, _busy_seconds() - busy)


def take_turns(works: Mapping[str, Callable[[], Timing]], runs: int) -> dict[str, list[Timing]]:
    """Each work `runs` times; every round starts with another one."""
    names = list(works)
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for run in range(runs):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            timings[name].append(works[name]())
    return timings


def median_seconds(timings: Sequence[Timing]) -> float:
    return statistics.median(timing.seconds for timing in timings)


def median_busy_seconds(timings: Sequence[Timing]) -> float:
    return statistics.median(timing.busy_seconds for timing in timings)


def sync_tree(path: Path) -> None:
    """Make a file, or all files and folders at and below a folder, durable."""
    for name in (path, *path.rglob("*")):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _busy_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
