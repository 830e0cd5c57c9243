"""What a Dask worker does for a crew: it says who it is, takes regions, and stops when told.

Imported where Dask is installed: by `dask_crew`, and on the workers.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from nissl import __version__
from nissl.formats.fence import Fence
from nissl.formats.stream import RegionWork, stream

REGION = "nissl-region"
"""The resource of which a worker has one per thread, and of which a region takes one.

So each thread writes a region of its own. With both threads of a worker on one region the same image took 80 to 100 s
instead of 50: they only share the compressing, reading and halving are one thread's. HDF5's lock costs less than that.
"""

_REPORT_S = 0.5


@dataclass(frozen=True)
class Place:
    """Where a region was written."""

    host: str
    threads: int
    slurm_job_id: str | None


@dataclass(frozen=True)
class Done:
    """A region written: what `stream` returned, and where it ran."""

    result: Any
    place: Place


class TakesRegions(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Makes a worker one that regions go to: also a worker that joins later, if it has the same files and version."""

    def __init__(self, fence: Fence, version: str = __version__) -> None:
        self.name = fence.folder.name
        self._fence = fence
        self._version = version

    async def setup(self, worker: Worker) -> None:
        if self._version == __version__ and self._fence.is_visible():
            await worker.set_resources(**{REGION: worker.state.nthreads})


def unseen(files: Sequence[Path], folder: Path, fence: Fence, dask_worker: Worker) -> str | None:
    """The first path that this worker does not see as the crew does, None where all is well.

    Leaves a note inside the fence, for the crew to see that it is the same folder, and that the worker may write there.
    """
    for file in files:
        if not os.access(file, os.R_OK):  # a folder where the source is one
            return str(file)
    if not fence.is_visible():
        return str(folder)
    try:
        fence.leave_note(dask_worker.address)
    except OSError as error:
        return f"{folder} as a folder to write into ({error.strerror})"
    return None


def write_region(work: RegionWork, fence: Fence, region: int, topic: str, *, alone: bool) -> Done:
    """Write the region numbered `region`, reporting voxels on a topic of Dask's.

    alone: whether no other region will come to this worker, so that all its threads may compress chunks of this one.
    """
    worker = get_worker()
    threads = worker.state.nthreads if alone else 1
    attempt = f"{worker.address} {time.time_ns()}"
    voxels, reported = 0, time.monotonic()

    def progress(more: int) -> None:
        nonlocal voxels, reported
        check()
        voxels += more
        if time.monotonic() - reported >= _REPORT_S:
            reported = time.monotonic()
            worker.log_event(topic, [region, attempt, voxels])

    with fence.inside(worker.address) as check, ThreadPoolExecutor(threads) as pool:
        result = stream(work, pool, threads, progress)
    return Done(result, Place(socket.gethostname(), worker.state.nthreads, os.environ.get("SLURM_JOB_ID")))
