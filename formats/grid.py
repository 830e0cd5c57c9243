"""Where voxels lie: boxes, shards, inner chunks and pyramid levels. Pure arithmetic, the one place that computes it.

All shapes and indices are in array order, slowest axis first: (z, y, x), or (c, z, y, x) for images with channels.
Lengths are voxels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

Index = tuple[int, ...]

CHUNK_EDGE = 512
"""Edge of an inner chunk in y and x: 512x512 is a quarter to half a megabyte raw, one request of a viewer."""

SHARD_EDGE = 8192
"""Edge of a shard in y and x; with all focus planes 1 to 4 GiB raw, about 250 files for a section of 100k x 100k."""

VOLUME_CHUNK_EDGE = 64
"""Edge of an inner chunk of a volume on all three axes: whoever follows a body wants its surroundings in z too."""

VOLUME_SHARD_EDGE = 1024
"""Edge of a volume's shard: 4096 chunks, whose index of 64 kB is read once."""

_ISOTROPIC = 0.8
"""Smallest over largest voxel size from which a stack is a volume: 32 x 32 x 40 nm is, 1 x 1 x 5 um is not."""


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: `start` inside, `stop` outside."""

    start: Index
    stop: Index

    @property
    def shape(self) -> Index:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def empty(self) -> bool:
        return any(b <= a for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Box) -> Box:
        return Box(tuple(map(max, self.start, other.start)), tuple(map(min, self.stop, other.stop)))

    def relative_to(self, origin: Index) -> Box:
        """The same box seen from `origin`."""
        return Box(
            tuple(a - o for a, o in zip(self.start, origin, strict=True)),
            tuple(b - o for b, o in zip(self.stop, origin, strict=True)),
        )

    def __str__(self) -> str:
        return " x ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class ShardGrid:
    """How one array is cut: into shards (files), each into inner chunks.

    A shard's shape is a multiple of the chunk's shape along every axis, as Zarr's sharding codec demands.
    """

    array_shape: Index
    shard_shape: Index
    chunk_shape: Index

    def __post_init__(self) -> None:
        if not len(self.array_shape) == len(self.shard_shape) == len(self.chunk_shape):
            raise ValueError(f"shapes of different rank: {self}")
        if any(n < 1 for n in (*self.array_shape, *self.shard_shape, *self.chunk_shape)):
            raise ValueError(f"an empty axis: {self}")
        if any(s % c for s, c in zip(self.shard_shape, self.chunk_shape, strict=True)):
            raise ValueError(f"shard {self.shard_shape} is not a multiple of chunk {self.chunk_shape}")

    @property
    def rank(self) -> int:
        return len(self.array_shape)

    @property
    def shards_per_axis(self) -> Index:
        return tuple(math.ceil(n / s) for n, s in zip(self.array_shape, self.shard_shape, strict=True))

    @property
    def chunks_per_shard(self) -> Index:
        """Inner chunks of a full shard along each axis: the shape of the Zarr shard index."""
        return tuple(s // c for s, c in zip(self.shard_shape, self.chunk_shape, strict=True))

    @property
    def chunk_count(self) -> int:
        """Entries of a shard's index."""
        return math.prod(self.chunks_per_shard)

    def shards(self) -> Iterator[Index]:
        """Every shard's index, in C order."""
        return itertools.product(*map(range, self.shards_per_axis))

    def shard_box(self, shard: Index) -> Box:
        """The voxels of one shard, clipped at the array's edge."""
        start = tuple(i * s for i, s in zip(shard, self.shard_shape, strict=True))
        stop = tuple(min(a + s, n) for a, s, n in zip(start, self.shard_shape, self.array_shape, strict=True))
        return Box(start, stop)

    def chunks_of(self, shard: Index) -> Iterator[Index]:
        """Indices, within `shard`, of the inner chunks that hold at least one voxel of the array; C order."""
        shape = self.shard_box(shard).shape
        return itertools.product(*(range(math.ceil(n / c)) for n, c in zip(shape, self.chunk_shape, strict=True)))

    def locate(self, chunk: Index) -> tuple[Index, Index]:
        """(shard, chunk within the shard) of an inner chunk that is counted over the whole array."""
        per = self.chunks_per_shard
        return (
            tuple(i // n for i, n in zip(chunk, per, strict=True)),
            tuple(i % n for i, n in zip(chunk, per, strict=True)),
        )

    def chunk_box(self, chunk: Index) -> Box:
        """The voxels of an inner chunk that is counted over the whole array, clipped at the array's edge."""
        start = tuple(i * c for i, c in zip(chunk, self.chunk_shape, strict=True))
        stop = tuple(min(a + c, n) for a, c, n in zip(start, self.chunk_shape, self.array_shape, strict=True))
        return Box(start, stop)

    def chunks_in(self, box: Box) -> Iterator[Index]:
        """Inner chunks, counted over the whole array, that touch `box`; C order."""
        return itertools.product(
            *(range(a // c, math.ceil(b / c)) for a, b, c in zip(box.start, box.stop, self.chunk_shape, strict=True))
        )


def shard_grid(shape: Index, *, chunk_edge: int = CHUNK_EDGE, shard_edge: int = SHARD_EDGE) -> ShardGrid:
    """The grid for an image of `shape`: inner chunks of one plane with all its channels, shards of all planes.

    Channels are the samples of a colour: whoever shows a voxel needs them all, and Neuroglancer can only mix channels
    that come in one chunk.

    A small image gets a shard just large enough for it, so that no index lists thousands of chunks that cannot exist.
    """
    if chunk_edge < 1 or shard_edge % chunk_edge:
        raise ValueError(f"shard edge {shard_edge} is not a multiple of chunk edge {chunk_edge}")
    *stacked, height, width = shape
    snug = [min(shard_edge, math.ceil(n / chunk_edge) * chunk_edge) for n in (height, width)]
    return ShardGrid(
        array_shape=shape,
        shard_shape=(*stacked, *snug),
        chunk_shape=(*stacked[:-1], 1, chunk_edge, chunk_edge),
    )


def is_volume(shape: Index, voxel_size_um: tuple[float, float, float], *, chunk_edge: int = VOLUME_CHUNK_EDGE) -> bool:
    """Whether labels of `shape` (z, y, x) are a volume, to be looked at along any axis, and not a stack of planes.

    A volume has voxels of about the same size (z, y, x) on all axes, and at least a chunk's worth of planes.
    """
    nearly = 1e-9  # 0.032 / 0.04 is not quite 0.8
    return shape[0] >= chunk_edge and min(voxel_size_um) >= (_ISOTROPIC - nearly) * max(voxel_size_um)


def volume_grid(shape: Index, *, chunk_edge: int = VOLUME_CHUNK_EDGE, shard_edge: int = VOLUME_SHARD_EDGE) -> ShardGrid:
    """The grid for a volume of `shape` (z, y, x): inner chunks and shards are cubes, shards no larger than needed."""
    if chunk_edge < 1 or shard_edge % chunk_edge:
        raise ValueError(f"shard edge {shard_edge} is not a multiple of chunk edge {chunk_edge}")
    return ShardGrid(
        array_shape=shape,
        shard_shape=tuple(min(shard_edge, math.ceil(n / chunk_edge) * chunk_edge) for n in shape),
        chunk_shape=(chunk_edge,) * len(shape),
    )


def list_grid(shape: Index, *, chunk: int, shard: int) -> ShardGrid:
    """The grid for a list of `shape` (entries, ...): only the first axis is cut, into pieces of `chunk` entries."""
    entries, *rest = shape
    snug = min(shard, math.ceil(entries / chunk) * chunk)
    return ShardGrid(array_shape=shape, shard_shape=(snug, *rest), chunk_shape=(chunk, *rest))


def level_shapes(shape: Index, *, smallest: int = CHUNK_EDGE, halved_axes: int = 2) -> list[Index]:
    """Shapes of the pyramid's levels: the last axes halved, rounded up, until all of them fit into one inner chunk.

    halved_axes: 2 for y and x, so that focus planes are never averaged away and every level keeps all of z; 3 for
    volumes, where z is halved too.
    """
    shapes = [shape]
    while max(shapes[-1][-halved_axes:]) > smallest:
        kept, halved = shapes[-1][:-halved_axes], shapes[-1][-halved_axes:]
        shapes.append((*kept, *(math.ceil(n / 2) for n in halved)))
    return shapes
