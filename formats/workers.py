"""Processes that work on regions side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nissl.formats.image_plan import ImagePlan
from nissl.formats.quality import PlaneQuality
from nissl.formats.regions import Region
from nissl.formats.stack import PlaneSource
from nissl.formats.stream import Progress, stream


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's inside a Slurm job or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Shared:
    """What all workers share with the parent: voxels finished, and whether to stop."""

    finished: Any
    stop: Any

    def count(self, voxels: int) -> None:
        with self.finished.get_lock():
            self.finished.value += voxels
        if self.stop.value:
            raise InterruptedError("the build was stopped")


_shared: _Shared  # set once in each worker process


def _start_worker(shared: _Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def work_on_region(
    source: PlaneSource, folder: Path, plan: ImagePlan, region: Region, entry: int, levels: range, threads: int
) -> list[PlaneQuality]:
    with ThreadPoolExecutor(threads) as pool:
        return stream(source, folder, plan, region, entry, levels, pool, threads, _shared.count)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: before they can ignore it, they would die of it, noisily."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_processes(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    regions: Sequence[Region],
    entry: int,
    levels: range,
    jobs: int,
    progress: Progress,
) -> list[PlaneQuality]:
    processes = min(jobs, len(regions))
    # `spawn`, because the parent may hold threads and open HDF5 files, neither of which survives a fork.
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context.Value("Q", 0), context.Value("b", 0))
    reported = 0
    with ProcessPoolExecutor(processes, context, _start_worker, (shared,)) as pool:
        threads = max(1, jobs // processes)
        with _without_interrupts():
            futures = [
                pool.submit(work_on_region, source, folder, plan, region, entry, levels, threads) for region in regions
            ]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                now = shared.finished.value
                progress(now - reported)
                reported = now
                for future in done:
                    future.result()
        except BaseException:
            shared.stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    per_region = [future.result() for future in futures]
    totals = per_region[0]
    for planes in per_region[1:]:
        totals = [a + b for a, b in zip(totals, planes, strict=True)]
    return totals
