"""The regions that an image is built in: rectangles of whole shards, and what they can be made of in one pass. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nissl.formats.image_plan import ImagePlan
from nissl.formats.stack import PlaneSource


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


def regions_of(source: PlaneSource, plan: ImagePlan, level: int = 0) -> Iterator[Region]:
    """Single shards of `level` where the source can be read in columns, whole rows of shards where it cannot."""
    height, width = plan.grids[0].array_shape[-2:]
    tall, wide = (edge << level for edge in plan.grids[level].shard_shape[-2:])
    if source.whole_rows:
        wide = width
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield Region(range(top, min(top + tall, height)), range(left, min(left + wide, width)))


def streamed_levels(plan: ImagePlan, regions: Sequence[Region]) -> int:
    """Levels that can be made in one pass: those at which the borders between regions are borders of chunks."""
    edge = plan.grids[0].chunk_shape[-1]
    borders = {extent.start for region in regions for extent in (region.rows, region.columns)}
    fitting = 1
    while fitting < len(plan.grids) and all(border % (edge << fitting) == 0 for border in borders):
        fitting += 1
    return fitting
