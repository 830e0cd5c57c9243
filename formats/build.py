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

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nissl.formats import ome
from nissl.formats.grid import Box
from nissl.formats.image import Level, open_image
from nissl.formats.image_plan import ImagePlan
from nissl.formats.journal import Journal
from nissl.formats.level_sources import HalvedSource, LevelSource, SlabLevelSource
from nissl.formats.quality import PlaneQuality
from nissl.formats.regions import Region, regions_of, streamed_levels
from nissl.formats.shards import write_json
from nissl.formats.shelf import join_parts
from nissl.formats.stack import PlaneSource
from nissl.formats.stream import Progress, RegionResult, RegionWork
from nissl.formats.workers import Crew, LocalCrew

BUILDER_VERSION = 1
"""Raised when the same source and plan become other bytes: nobody then resumes what an older version has begun."""

_WINDOW_SAMPLE = 1 << 20
"""Voxels that are enough to choose a display window."""


def build_image(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    *,
    crew: Crew | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> list[PlaneQuality]:
    """Write the pyramid of `source` into the new folder `folder` and return the quality of each plane.

    crew: who does it, all cores of this machine by default. Memory stays below a few rows of chunks per core.
    journal: where the image is large enough to have several regions, what is finished is written down in it, and what
    an earlier run has finished of the same source and plan is kept. Raises StackError where a plane turns out
    unreadable, NoSpaceError on a full disk; `folder` is then the caller's to remove.
    """
    planes = write_levels(source, folder, plan, crew=crew, progress=progress, journal=journal)
    window = display_window(Level(folder / str(len(plan.grids) - 1), plan.grids[-1], plan.dtype, plan.codec))
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
    crew: Crew | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> list[PlaneQuality]:
    """Write the arrays of the pyramid, but not the group that makes them an image; otherwise like `build_image`.

    Returns the quality of each plane of an image, nothing for labels. The first call of `progress` says how much an
    earlier run has done.
    """
    crew = crew or LocalCrew()
    report = progress or (lambda _: None)
    regions = list(regions_of(source, plan))
    if len(regions) == 1:
        journal = None  # there is nothing to resume
    if journal is not None:
        journal.resume(folder, len(regions))
    for number, grid in enumerate(plan.grids):
        write_json(folder / str(number) / "zarr.json", ome.array_document(grid, plan.dtype, plan.codec, plan.axes))
    streamed = streamed_levels(plan, regions) if plan.halved_axes == 2 else 1
    works = [RegionWork(source, folder, plan, region, 0, range(streamed)) for region in regions]
    results = _done(works, crew, report, journal)
    if plan.halved_axes == 2:
        if journal is None:
            join_parts(folder, plan)
        else:
            join_parts(folder, plan, journal.joined, journal.add_joined)
        _reduce_rest(folder, plan, streamed, crew.cores, journal)
    else:
        _halve_volume(folder, plan, crew, journal)
    if journal is not None:
        journal.end(folder)
    # In the regions' order, not in that of their finishing: sums of floats depend on it.
    return [functools.reduce(operator.add, parts) for parts in zip(*(r.planes for r in results), strict=True)]


def _done(works: Sequence[RegionWork], crew: Crew, report: Progress, journal: Journal | None) -> list[RegionResult]:
    """Have `works` done, but for what the journal knows to be done already; the results are in the same order."""
    results: dict[str, RegionResult] = {}
    if journal is not None:
        works = [replace(work, attempt=journal.attempt) for work in works]
        results = {work.name: result for work in works if (result := journal.result(work)) is not None}
    report(sum(work.voxels for work in works if work.name in results))

    def finished(work: RegionWork, result: RegionResult) -> None:
        if journal is not None:
            journal.add(work, result)
        results[work.name] = result

    left = [work for work in works if work.name not in results]
    if left:
        crew.run(left, report, finished)
    return [results[work.name] for work in works]


def _halve_volume(folder: Path, plan: ImagePlan, crew: Crew, journal: Journal | None) -> None:
    """Write the levels above 0 of a volume that is halved in z too, each from the one before."""
    for level in range(1, len(plan.grids)):
        finer = Level(folder / str(level - 1), plan.grids[level - 1], plan.dtype, plan.codec)
        depth, height, width = plan.grids[level].array_shape
        halved = HalvedSource(finer, (depth, height, width))
        regions = regions_of(halved, plan, level)
        works = [RegionWork(halved, folder, plan, region, level, range(level, level + 1)) for region in regions]
        _done(works, crew, lambda _: None, journal)


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


def _reduce_rest(folder: Path, plan: ImagePlan, streamed: int, cores: int, journal: Journal | None) -> None:
    """Write the levels below the streamed ones, from the last of those."""
    if streamed == len(plan.grids):
        return
    last = streamed - 1
    kind = LevelSource if plan.chunk_depth == 1 else SlabLevelSource
    source = kind(Level(folder / str(last), plan.grids[last], plan.dtype, plan.codec))
    height, width = plan.grids[0].array_shape[-2:]
    everything = Region(range(height), range(width))
    work = RegionWork(source, folder, plan, everything, last, range(streamed, len(plan.grids)))
    _done([work], LocalCrew(cores), lambda _: None, journal)
