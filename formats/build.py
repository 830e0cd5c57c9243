"""Source in, pyramid of dual shards out: streaming, in parallel, with bounded memory.

The image is cut into regions of whole level-0 shards. A region's planes are read band by band; each band is compressed
into its shards and, halved again and again, into chunks of the upper levels, in one pass. Where a region covers only a
part of an upper shard, its chunks go into a *part*, itself a dual shard with only those chunks; parts are joined by
copying the compressed bytes. Levels too coarse for that (a region would fill less than a chunk) are reduced from the
level above them, which is small by then.

Regions run in separate processes (HDF5's lock and Python's do not matter then); within a region, chunks are compressed
by threads.

Labels go the same way. Their inner chunks may be several planes deep: then so many planes go down together, as a slab.
Where z is halved too, two slabs make one of the next level: such levels are written one by one, each from the finer.
"""

from __future__ import annotations

import collections
import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats import ome
from nissl.formats.codec import ZstdCodec
from nissl.formats.grid import CHUNK_EDGE, SHARD_EDGE, Box, Index, ShardGrid, level_shapes, shard_grid
from nissl.formats.image import Level, open_image, shard_path
from nissl.formats.pyramid import Cascade, Reduction, halve_labels
from nissl.formats.quality import PlaneQuality, look
from nissl.formats.shards import ShardIdentity, ShardReader, ShardWriter, sync_folder, write_json
from nissl.formats.stack import PlaneSource, read_slab

Progress = Callable[[int], None]
"""Called with the number of level-0 voxels finished since the last call, from one thread."""

_PARTS = ".parts"

_WINDOW_SAMPLE = 1 << 23
"""Voxels that are enough to choose a display window."""

_BAND_BYTES = 16 << 20
"""Of a slab several planes deep so much is read at a time: files of one plane are then not opened for every row."""


@dataclass(frozen=True)
class ImagePlan:
    """An image to be written: everything but its voxels."""

    name: str
    axes: tuple[str, ...]
    dtype: np.dtype[Any]
    voxel_size_um: tuple[float, float, float]
    codec: ZstdCodec
    grids: tuple[ShardGrid, ...]
    """One per level."""
    reduction: Reduction = Reduction.MEAN
    halved_axes: int = 2
    """2 where every level halves y and x, 3 where it halves z too."""

    @property
    def chunk_depth(self) -> int:
        """Planes in an inner chunk."""
        return self.grids[0].chunk_shape[-3]

    def identity(self, level: int) -> ShardIdentity:
        step = 2**level
        z, y, x = self.voxel_size_um
        if self.halved_axes == 3:
            z *= step
        return ShardIdentity(f"{self.name}/{level}", level, self.axes, (z, y * step, x * step))


def plan_image(
    source: PlaneSource,
    name: str,
    voxel_size_um: tuple[float, float, float],
    *,
    codec: ZstdCodec | None = None,
    chunk_edge: int = CHUNK_EDGE,
    shard_edge: int = SHARD_EDGE,
) -> ImagePlan:
    """Lay out the pyramid that `source` will become; `chunk_edge` must be even, `shard_edge` a multiple of it."""
    if chunk_edge % 2:
        raise ValueError(f"chunk edge {chunk_edge} is odd: a pyramid halves it")
    shape: Index = source.shape
    axes: tuple[str, ...] = ome.SPATIAL
    if source.channels is not None:
        shape, axes = (source.channels, *shape), ("c", *axes)
    grids = tuple(
        shard_grid(level, chunk_edge=chunk_edge, shard_edge=shard_edge)
        for level in level_shapes(shape, smallest=chunk_edge)
    )
    return ImagePlan(name, axes, np.dtype(source.dtype), voxel_size_um, codec or ZstdCodec(), grids)


@dataclass(frozen=True)
class Region:
    """A rectangle of whole level-0 shards, in voxels of level 0."""

    rows: range
    columns: range

    def at(self, level: int) -> Region:
        """The same region at `level`; its near edges divide exactly, its far edges round up with the image."""

        def reduce(extent: range) -> range:
            return range(extent.start >> level, -(-extent.stop >> level))

        return Region(reduce(self.rows), reduce(self.columns))

    @property
    def name(self) -> str:
        return f"{self.rows.start}_{self.columns.start}"


def build_image(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[PlaneQuality]:
    """Write the pyramid of `source` into the new folder `folder` and return the quality of each plane.

    jobs: processes or threads to use, all cores by default. Memory stays below a few rows of chunks per job. Raises
    StackError where a plane turns out unreadable, NoSpaceError on a full disk; `folder` is then the caller's to remove.
    """
    planes = write_levels(source, folder, plan, jobs=jobs, progress=progress)
    window = display_window(Level(folder / str(len(plan.grids) - 1), plan.grids[-1], plan.dtype))
    channels = _channels(plan, window)
    write_json(
        folder / "zarr.json",
        ome.group_document(plan.name, plan.axes, plan.voxel_size_um, len(plan.grids), channels, plan.dtype),
    )
    open_image(folder).close()  # the folder is an image from here on: say so now if it were not
    return planes


def write_levels(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[PlaneQuality]:
    """Write the arrays of the pyramid, but not the group that makes them an image; otherwise like `build_image`.

    Returns the quality of each plane of an image, nothing for labels.
    """
    jobs = jobs or available_cores()
    report = progress or (lambda _: None)
    for number, grid in enumerate(plan.grids):
        write_json(folder / str(number) / "zarr.json", ome.array_document(grid, plan.dtype, plan.codec, plan.axes))
    regions = list(_regions(source, plan))
    if plan.halved_axes == 2:
        streamed = _streamed_levels(plan, regions)
        planes = _write(source, folder, plan, regions, 0, range(streamed), jobs, report)
        _join_parts(folder, plan)
        _reduce_rest(folder, plan, streamed, jobs)
        return planes
    planes = _write(source, folder, plan, regions, 0, range(1), jobs, report)
    for level in range(1, len(plan.grids)):
        finer = Level(folder / str(level - 1), plan.grids[level - 1], plan.dtype)
        depth, height, width = plan.grids[level].array_shape
        halved = _HalvedSource(finer, (depth, height, width))
        regions = list(_regions(halved, plan, level))
        _write(halved, folder, plan, regions, level, range(level, level + 1), jobs, lambda _: None)
    return planes


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's inside a Slurm job or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def display_window(level: Level) -> tuple[float, float]:
    """Intensities to show black and full, from the coarsest level: the 0.5th and 99.8th percentile of a sample.

    A level that fits into one chunk may still have thousands of planes: evenly spaced ones stand for all.
    """
    *channels, planes, height, width = level.shape
    step = -(-math.prod(level.shape) // _WINDOW_SAMPLE)
    sample = []
    for plane in range(0, planes, step):
        start, stop = (*(0 for _ in channels), plane, 0, 0), (*channels, plane + 1, height, width)
        sample.append(level.read(Box(start, stop)).ravel())
    level.close()
    voxels = np.concatenate(sample)
    voxels = voxels[:: -(-voxels.size // _WINDOW_SAMPLE)]
    if voxels.dtype.kind == "f":
        voxels = voxels[np.isfinite(voxels)]
    low, high = np.percentile(voxels, (0.5, 99.8)) if voxels.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def _channels(plan: ImagePlan, window: tuple[float, float]) -> tuple[ome.Channel, ...]:
    if plan.axes[0] != "c":
        return (ome.Channel("intensity", "FFFFFF", window),)
    count = plan.grids[0].array_shape[0]
    if count == 3:
        # Colour is shown as the scanner saw it: stretching each channel would change the stain's hue.
        full = (0.0, float(np.iinfo(plan.dtype).max)) if plan.dtype.kind == "u" else window
        named = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
        return tuple(ome.Channel(label, color, full) for label, color in named)
    return tuple(ome.Channel(f"channel {number}", "FFFFFF", window) for number in range(count))


def _regions(source: PlaneSource, plan: ImagePlan, level: int = 0) -> Iterator[Region]:
    """Single shards of `level` where the source can be read in columns, whole rows of shards where it cannot."""
    height, width = plan.grids[0].array_shape[-2:]
    tall, wide = (edge << level for edge in plan.grids[level].shard_shape[-2:])
    if source.whole_rows:
        wide = width
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield Region(range(top, min(top + tall, height)), range(left, min(left + wide, width)))


def _streamed_levels(plan: ImagePlan, regions: Sequence[Region]) -> int:
    """Levels that can be made in one pass: those at which the borders between regions are borders of chunks."""
    edge = plan.grids[0].chunk_shape[-1]
    borders = {extent.start for region in regions for extent in (region.rows, region.columns)}
    fitting = 1
    while fitting < len(plan.grids) and all(border % (edge << fitting) == 0 for border in borders):
        fitting += 1
    return fitting


class _Shelf:
    """The shards, or parts of shards, that one region writes; opened when their first chunk comes."""

    def __init__(self, folder: Path, plan: ImagePlan, region: Region) -> None:
        self._folder = folder
        self._plan = plan
        self._region = region
        self._writers: dict[tuple[int, Index], ShardWriter] = {}

    def write(self, level: int, chunk: Index, payload: bytes) -> None:
        """chunk: counted over the whole array of `level`."""
        grid = self._plan.grids[level]
        shard, within = grid.locate(chunk)
        writer = self._writers.get((level, shard))
        if writer is None:
            path = self._path(level, shard)
            plan = self._plan
            writer = ShardWriter(path, grid, shard, plan.dtype, plan.codec, plan.identity(level))
            self._writers[level, shard] = writer
        writer.write_chunk(within, payload)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()

    def _path(self, level: int, shard: Index) -> Path:
        box = self._plan.grids[level].shard_box(shard)
        mine = self._region.at(level)
        rows, columns = (range(a, b) for a, b in zip(box.start[-2:], box.stop[-2:], strict=True))
        if (
            mine.rows.start <= rows.start
            and rows.stop <= mine.rows.stop
            and (mine.columns.start <= columns.start and columns.stop <= mine.columns.stop)
        ):
            return shard_path(self._folder / str(level), shard)
        return self._folder / _PARTS / str(level) / "-".join(map(str, shard)) / self._region.name


def _write(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    regions: Sequence[Region],
    entry: int,
    levels: range,
    jobs: int,
    progress: Progress,
) -> list[PlaneQuality]:
    """Write `levels` of all regions: one region by threads, several by processes."""
    if len(regions) > 1:
        return _in_processes(source, folder, plan, regions, entry, levels, jobs, progress)
    with ThreadPoolExecutor(jobs) as pool:
        return _stream(source, folder, plan, regions[0], entry, levels, pool, jobs, progress)


def _stream(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    region: Region,
    entry: int,
    levels: range,
    pool: ThreadPoolExecutor,
    threads: int,
    progress: Progress,
) -> list[PlaneQuality]:
    """Write `levels` of one region; the source's voxels are those of level `entry`, at or above them."""
    judged = plan.reduction is Reduction.MEAN
    shelf = _Shelf(folder, plan, region)
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
                rows = range(top, min(top + tall, first.rows.stop))
                cascade.push(read_slab(source, slab, rows, first.columns))
                progress(len(slab) * len(rows) * len(first.columns))
            cascade.finish()
        drain(0)
        shelf.close()
    except BaseException:
        for _, _, future in waiting:
            future.cancel()
        shelf.abort()
        raise
    finally:
        source.close()
    return [plane for plane in quality if plane is not None]


def _band(edge: int, depth: int, row_bytes: int) -> int:
    """Rows to read at a time: one row of chunks of a single plane, as many as fit into the memory for a slab."""
    return edge if depth == 1 else edge * max(1, _BAND_BYTES // (depth * edge * row_bytes))


def _encode(
    voxels: NDArray[Any], shape: tuple[int, int, int], codec: ZstdCodec, judge: bool
) -> tuple[bytes | None, PlaneQuality | None]:
    """One inner chunk (channels or planes, rows, columns), padded to `shape` with fill value at the array's edge.

    No payload where there is only fill value.
    """
    quality = look(voxels) if judge else None
    if not voxels.any():
        return None, quality
    if voxels.shape != shape:
        padded = np.zeros(shape, dtype=voxels.dtype)
        padded[tuple(slice(0, n) for n in voxels.shape)] = voxels
        voxels = padded
    little_endian = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return codec.encode(np.ascontiguousarray(little_endian).data), quality


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


def _work_on_region(
    source: PlaneSource, folder: Path, plan: ImagePlan, region: Region, entry: int, levels: range, threads: int
) -> list[PlaneQuality]:
    with ThreadPoolExecutor(threads) as pool:
        return _stream(source, folder, plan, region, entry, levels, pool, threads, _shared.count)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: before they can ignore it, they would die of it, noisily."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_processes(
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
                pool.submit(_work_on_region, source, folder, plan, region, entry, levels, threads) for region in regions
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


def _join_parts(folder: Path, plan: ImagePlan) -> None:
    """Make whole shards of the parts that several regions wrote, copying compressed chunks as they are."""
    parts = folder / _PARTS
    if not parts.exists():
        return
    for level_folder in sorted(parts.iterdir()):
        level = int(level_folder.name)
        grid = plan.grids[level]
        for shard_folder in sorted(level_folder.iterdir()):
            shard = tuple(map(int, shard_folder.name.split("-")))
            target = shard_path(folder / str(level), shard)
            with ShardWriter(target, grid, shard, plan.dtype, plan.codec, plan.identity(level)) as writer:
                for part in sorted(shard_folder.iterdir()):
                    with ShardReader(part, grid) as reader:
                        for chunk in grid.chunks_of(shard):
                            payload = reader.payload(chunk)
                            if payload is not None:
                                writer.write_chunk(chunk, payload)
    shutil.rmtree(parts)
    sync_folder(folder)


@dataclass
class _LevelSource:
    """A finished level as the source of the levels below it."""

    level: Level

    files: tuple[Path, ...] = ()
    whole_rows: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        planes, height, width = self.level.shape[-3:]
        return planes, height, width

    @property
    def channels(self) -> int | None:
        return self.level.shape[0] if self.level.grid.rank == 4 else None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.level.dtype

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        start = (plane, rows.start, columns.start)
        stop = (plane + 1, rows.stop, columns.stop)
        if self.channels is None:
            return self.level.read(Box(start, stop))
        return self.level.read(Box((0, *start), (self.channels, *stop)))[:, 0]

    def close(self) -> None:
        self.level.close()


@dataclass
class _SlabLevelSource(_LevelSource):
    """A finished level of grey planes, read by the slab: its chunks are several planes deep."""

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        start, stop = (planes.start, rows.start, columns.start), (planes.stop, rows.stop, columns.stop)
        return self.level.read(Box(start, stop))


@dataclass
class _HalvedSource:
    """The next coarser level of a finished level of labels, halved on all three axes, as a source."""

    finer: Level
    shape: tuple[int, int, int]

    files: tuple[Path, ...] = ()
    channels: int | None = None
    whole_rows: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.finer.dtype

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.read_slab(range(plane, plane + 1), rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        extents = (planes, rows, columns)
        stop = tuple(min(2 * extent.stop, n) for extent, n in zip(extents, self.finer.shape, strict=True))
        box = Box(tuple(2 * extent.start for extent in extents), stop)
        return halve_labels(self.finer.read(box), halved_axes=3)

    def close(self) -> None:
        self.finer.close()


def _reduce_rest(folder: Path, plan: ImagePlan, streamed: int, jobs: int) -> None:
    """Write the levels below the streamed ones, from the last of those."""
    if streamed == len(plan.grids):
        return
    last = streamed - 1
    kind = _LevelSource if plan.chunk_depth == 1 else _SlabLevelSource
    source = kind(Level(folder / str(last), plan.grids[last], plan.dtype))
    height, width = plan.grids[0].array_shape[-2:]
    everything = Region(range(height), range(width))
    rest = range(streamed, len(plan.grids))
    with ThreadPoolExecutor(jobs) as pool:
        _stream(source, folder, plan, everything, last, rest, pool, jobs, lambda _: None)
