"""Who works on regions: a crew. Here, the threads and processes of this machine.

HDF5's lock and Python's do not matter between processes; within a region, chunks are compressed by threads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Protocol

from nissl.errors import NisslError
from nissl.formats.stream import Progress, RegionResult, RegionWork, stream


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's inside a Slurm job or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Finished = Callable[[RegionWork, RegionResult], None]
"""Called once for each region when all its files are written and durable, with what `stream` returned."""


class WorkerLostError(NisslError):
    """A worker process ended in the middle of its work."""


class Crew(Protocol):
    """Those who work on regions."""

    @property
    def cores(self) -> int:
        """Cores of this machine to use for work that is not worth handing out."""

    @property
    def record(self) -> dict[str, Any]:
        """Who they were, for provenance."""

    def run(self, works: Sequence[RegionWork], progress: Progress, finished: Finished) -> None:
        """Have all regions written, in any order. The first error ends it; regions under way have then stopped."""


@dataclass(frozen=True)
class LocalCrew:
    """This machine: one region is written by threads, several by processes."""

    cores: int = field(default_factory=available_cores)

    @property
    def record(self) -> dict[str, Any]:
        return {"cores": self.cores}

    def run(self, works: Sequence[RegionWork], progress: Progress, finished: Finished) -> None:
        if len(works) > 1:
            _in_processes(works, self.cores, progress, finished)
            return
        with ThreadPoolExecutor(self.cores) as pool:
            for work in works:
                finished(work, stream(work, pool, self.cores, progress))


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


def _work_on(work: RegionWork, threads: int) -> RegionResult:
    with ThreadPoolExecutor(threads) as pool:
        return stream(work, pool, threads, _shared.count)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: before they can ignore it, they would die of it, noisily."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_processes(works: Sequence[RegionWork], cores: int, progress: Progress, finished: Finished) -> None:
    processes = min(cores, len(works))
    # `spawn`, because the parent may hold threads and open HDF5 files, neither of which survives a fork.
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context.Value("Q", 0), context.Value("b", 0))
    reported = 0
    with ProcessPoolExecutor(processes, context, _start_worker, (shared,)) as pool:
        threads = max(1, cores // processes)
        with _without_interrupts():
            futures = {pool.submit(_work_on, work, threads): work for work in works}
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                now = shared.finished.value
                progress(now - reported)
                reported = now
                for future in done:
                    finished(futures[future], future.result())
        except BrokenProcessPool:
            raise WorkerLostError(
                "a worker process was killed, probably because the machine ran out of memory: run the command again, "
                f"with fewer than {cores} cores (--jobs)"
            ) from None
        except BaseException:
            shared.stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)
            raise
