"""One region of an image, from source to shards in one pass, with bounded memory."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats.attempt import Attempt
from nissl.formats.codec import Codec, thread_buffer, with_hdf5_checksum
from nissl.formats.grid import Index
from nissl.formats.image_plan import ImagePlan
from nissl.formats.pyramid import Cascade, Reduction
from nissl.formats.quality import PlaneQuality, look
from nissl.formats.regions import Region
from nissl.formats.shelf import Shelf
from nissl.formats.stack import PlaneSource, read_slab
from nissl.formats.written import WrittenFile

Progress = Callable[[int], None]
"""Called with the number of the source's voxels read since the last call, from one thread."""

_BAND_BYTES = 16 << 20
"""Of a slab several planes deep so much is read at a time: files of one plane are then not opened for every row."""


@dataclass(frozen=True)
class RegionWork:
    """One region to be written: a picklable value, for whichever process takes it."""

    source: PlaneSource
    folder: Path
    """The image's."""
    plan: ImagePlan
    region: Region
    entry: int
    """The level whose voxels the source has."""
    levels: range
    """The levels to write: `entry`, or coarser ones."""
    attempt: Attempt | None = None
    """The run that this is done for, where others may take over; None where nobody keeps a journal."""

    @property
    def name(self) -> str:
        """Tells it from all other work on the same image."""
        return f"{self.levels.start}-{self.levels.stop}/{self.region.name}"

    @property
    def voxels(self) -> int:
        """Voxels to read."""
        part = self.region.at(self.entry)
        return self.source.shape[0] * len(part.rows) * len(part.columns)


@dataclass(frozen=True)
class RegionResult:
    """What became of a region: a small picklable value."""

    planes: tuple[PlaneQuality, ...]
    """Quality of its part of each plane; for labels, and for levels above 0, nothing."""
    files: tuple[WrittenFile, ...] = ()
    """What it wrote, where somebody keeps a journal."""


def stream(work: RegionWork, pool: ThreadPoolExecutor, threads: int, progress: Progress) -> RegionResult:
    """Write a region. When this returns, all its files are whole and durable.

    Raises InterruptedError where another run has taken over (`RegionWork.attempt`).
    """
    source, plan, region, entry, levels = work.source, work.plan, work.region, work.entry, work.levels
    judged = plan.reduction is Reduction.MEAN
    shelf = Shelf(work.folder, plan, region)
    require_turn = work.attempt.require_current if work.attempt is not None else lambda: None
    planes = source.shape[0]
    quality: list[PlaneQuality | None] = [None] * planes
    waiting: collections.deque[tuple[int, Index, Future[tuple[bytes | None, PlaneQuality | None]]]] = (
        collections.deque()
    )

    def drain(limit: int) -> None:
        while len(waiting) > limit:
            level, chunk, future = waiting.popleft()
            payload, seen = future.result()
            if payload is not None:
                shelf.write(level, chunk, payload)
            if seen is not None:
                before = quality[chunk[-3]]
                quality[chunk[-3]] = seen if before is None else before + seen

    def emit_from(layer: int) -> Callable[[int, int, NDArray[Any]], None]:
        def emit(step: int, row: int, rows: NDArray[Any]) -> None:
            level = entry + step
            if level not in levels:
                return
            edge = plan.grids[level].chunk_shape[-1]
            place = region.at(level)
            stacked = (0, layer) if plan.axes[0] == "c" else (layer,)  # a chunk holds all samples of a colour
            for left in range(0, rows.shape[2], edge):
                chunk = (*stacked, (place.rows.start + row) // edge, (place.columns.start + left) // edge)
                voxels = rows[:, :, left : left + edge]
                shape = (math.prod(plan.grids[level].chunk_shape[:-2]), edge, edge)
                waiting.append((level, chunk, pool.submit(_encode, voxels, shape, plan.codec, judged and level == 0)))
                drain(4 * threads)

        return emit

    first = region.at(entry)
    widths = [len(region.at(level).columns) for level in range(entry, levels.stop)]
    edge, depth = plan.grids[0].chunk_shape[-1], plan.chunk_depth
    tall = _band(edge, depth, len(first.columns) * plan.dtype.itemsize)
    try:
        for layer, start in enumerate(range(0, planes, depth)):
            slab = range(start, min(start + depth, planes))
            cascade = Cascade(widths, edge, emit_from(layer), plan.reduction)
            for top in range(first.rows.start, first.rows.stop, tall):
                require_turn()
                rows = range(top, min(top + tall, first.rows.stop))
                cascade.push(read_slab(source, slab, rows, first.columns))
                progress(len(slab) * len(rows) * len(first.columns))
            cascade.finish()
        drain(0)
        paths = shelf.close(require_turn)
    except BaseException:
        for _, _, future in waiting:
            future.cancel()
        shelf.abort()
        raise
    finally:
        source.close()
    # Read back by the process that wrote: from the page cache, and there is no other moment at which it is certain what
    # the files should be.
    files = pool.map(lambda path: WrittenFile.of(path, work.folder), paths) if work.attempt is not None else ()
    return RegionResult(tuple(plane for plane in quality if plane is not None), tuple(files))


def _band(edge: int, depth: int, row_bytes: int) -> int:
    """Rows to read at a time: one row of chunks of a single plane, as many as fit into the memory for a slab."""
    return edge if depth == 1 else edge * max(1, _BAND_BYTES // (depth * edge * row_bytes))


def _encode(
    voxels: NDArray[Any], shape: tuple[int, int, int], codec: Codec, judge: bool
) -> tuple[bytes | None, PlaneQuality | None]:
    """One inner chunk (channels or planes, rows, columns), padded to `shape` with fill value at the array's edge.

    The payload is ready for both views, None where there is only fill value.
    """
    little_endian = voxels.dtype.newbyteorder("<")
    # Copied before anything looks at it, into memory that this thread keeps: it is then in the processor's cache, and
    # no fresh pages are needed for every chunk.
    chunk = np.frombuffer(thread_buffer("chunk", math.prod(shape) * voxels.itemsize), little_endian).reshape(shape)
    if voxels.shape != shape:
        chunk[...] = 0
    here = chunk[tuple(slice(0, n) for n in voxels.shape)]
    np.copyto(here, voxels)
    quality = look(here) if judge else None
    return with_hdf5_checksum(codec.encode(chunk.data)) if here.any() else None, quality
