"""What an image is going to be, before a voxel of it is written: its levels, their grids, type and codec. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nissl.formats import ome
from nissl.formats.codec import IMAGE_CODEC, Codec
from nissl.formats.grid import CHUNK_EDGE, SHARD_EDGE, Index, ShardGrid, level_shapes, shard_grid
from nissl.formats.pyramid import Reduction
from nissl.formats.shards import ShardIdentity
from nissl.formats.stack import PlaneSource


@dataclass(frozen=True)
class ImagePlan:
    """An image to be written: everything but its voxels."""

    name: str
    axes: tuple[str, ...]
    dtype: np.dtype[Any]
    voxel_size_um: tuple[float, float, float]
    codec: Codec
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
    codec: Codec | None = None,
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
    return ImagePlan(name, axes, np.dtype(source.dtype), voxel_size_um, codec or IMAGE_CODEC, grids)
