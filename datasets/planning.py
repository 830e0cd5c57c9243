"""How many files, inodes and bytes a brain will take, before anybody scans it. Pure.

Counted for dual shards, and for what people use instead: unsharded OME-Zarr with the same inner chunks, the scanner's
TIFF planes, and one HDF5 file per plane; each as a dataset with a work tree (where programs read) and as the bare
repository of a hub. Files and folders of a section are counted from its grid; what git and git-annex add was counted on
disk in real datasets (`tests/datasets/test_planning.py` holds the model against one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nissl.formats.grid import CHUNK_EDGE, SHARD_EDGE, ShardGrid, level_shapes, shard_grid
from nissl.formats.shard_index import user_block_nbytes

GIT_INODES = 48
"""`.git` of a packed DataLad dataset without template hooks, but for the annex."""
ANNEX_INODES = 20
"""`.git/annex` without objects: locks, journal, the database of unlocked files."""
_DOCUMENT_BYTES = 1500  # a `zarr.json`
_DOCUMENTS = 11
"""Files of a section beside its image: BIDS documents and tables, DataLad's and git's settings, provenance."""
_DOCUMENT_FOLDERS = 5
_HDF5_BYTES = 3000  # structure of an HDF5 file with one dataset, beside its chunk index
_HDF5_CHUNK_BYTES = 16 + 4  # an entry of the chunk index, and the chunk's Fletcher-32


class Layout(StrEnum):
    """How a section's voxels are kept."""

    DUAL = "dual shards"
    CHUNKS = "OME-Zarr, unsharded"
    TIFF = "TIFF planes, no pyramid"
    HDF5 = "HDF5 per plane, no pyramid"


@dataclass(frozen=True)
class Footprint:
    """What one section takes in one layout."""

    layout: Layout
    annexed: int
    """Files of voxels: shards, chunks or planes."""
    files: int
    """All files in the work tree."""
    folders: int
    """All folders in the work tree, its root included."""
    nbytes: int
    """Bytes of voxels as stored."""

    @property
    def work_inodes(self) -> int:
        """Work tree, annex and git together. With `annex.thin` a file and its object are one inode."""
        return self.files + self.folders + annex_folders(self.annexed, mixed=True) + ANNEX_INODES + GIT_INODES

    @property
    def hub_inodes(self) -> int:
        """The hub's bare repository: objects, their folders, git."""
        return self.annexed + annex_folders(self.annexed, mixed=False) + ANNEX_INODES + GIT_INODES


def annex_folders(objects: int, *, mixed: bool) -> int:
    """Folders that git-annex makes for `objects` objects: one each, below two levels that hashes share.

    mixed: the layout of a work tree (two letters of 32, twice); otherwise that of a bare repository (three hexadecimal
    digits, twice). The expected number of folders that `n` random hashes hit of `m` is m (1 - (1 - 1/m)^n).
    """
    wide = 1024 if mixed else 4096

    def hit(folders: int) -> float:
        return -folders * math.expm1(objects * math.log1p(-1 / folders))

    return objects + round(hit(wide) + hit(wide * wide))


def footprints(
    shape: tuple[int, int, int],
    dtype: np.dtype[np.generic],
    ratio: float,
    channels: int | None = None,
    *,
    chunk_edge: int = CHUNK_EDGE,
    shard_edge: int = SHARD_EDGE,
) -> list[Footprint]:
    """What a section of `shape` (planes, height, width) takes in each layout.

    ratio: how much smaller compression makes the voxels; 1 for none. channels: samples per voxel of a colour section.
    """
    full: tuple[int, ...] = shape if channels is None else (channels, *shape)
    levels = level_shapes(full, smallest=chunk_edge)
    grids = [shard_grid(level, chunk_edge=chunk_edge, shard_edge=shard_edge) for level in levels]
    return [
        _dual(grids, dtype, ratio),
        _chunks(grids, dtype, ratio),
        _planes(Layout.TIFF, full, dtype, ratio),
        _planes(Layout.HDF5, full, dtype, ratio),
    ]


def _dual(grids: list[ShardGrid], dtype: np.dtype[np.generic], ratio: float) -> Footprint:
    shards = sum(math.prod(grid.shards_per_axis) for grid in grids)
    overhead = sum(
        math.prod(grid.shards_per_axis) * (user_block_nbytes(grid.chunk_count) + _HDF5_BYTES)
        + math.prod(_chunk_counts(grid)) * _HDF5_CHUNK_BYTES
        for grid in grids
    )
    files = shards + len(grids) + 1 + 2 + _DOCUMENTS  # a zarr.json per level and one of the image; `.h5` and sidecar
    folders = 1 + sum(1 + _key_folders(grid.shards_per_axis) for grid in grids) + _DOCUMENT_FOLDERS
    return Footprint(Layout.DUAL, shards, files, folders, _stored(grids, dtype, ratio) + overhead)


def _chunks(grids: list[ShardGrid], dtype: np.dtype[np.generic], ratio: float) -> Footprint:
    chunks = sum(math.prod(_chunk_counts(grid)) for grid in grids)
    files = chunks + len(grids) + 1 + 1 + _DOCUMENTS
    folders = 1 + sum(1 + _key_folders(_chunk_counts(grid)) for grid in grids) + _DOCUMENT_FOLDERS
    return Footprint(Layout.CHUNKS, chunks, files, folders, _stored(grids, dtype, ratio))


def _planes(layout: Layout, shape: tuple[int, ...], dtype: np.dtype[np.generic], ratio: float) -> Footprint:
    planes = shape[-3]
    nbytes = round(math.prod(shape) * dtype.itemsize / ratio)
    return Footprint(layout, planes, planes + 1 + _DOCUMENTS, _DOCUMENT_FOLDERS, nbytes)


def _chunk_counts(grid: ShardGrid) -> tuple[int, ...]:
    return tuple(math.ceil(n / c) for n, c in zip(grid.array_shape, grid.chunk_shape, strict=True))


def _key_folders(counts: tuple[int, ...]) -> int:
    """Folders below an array for keys such as `c/0/1/2`: one for `c`, one for every prefix."""
    return 1 + sum(math.prod(counts[:depth]) for depth in range(1, len(counts)))


def _stored(grids: list[ShardGrid], dtype: np.dtype[np.generic], ratio: float) -> int:
    """Compressed bytes of all levels. Chunks at an edge are padded, but padding costs next to nothing."""
    voxels = sum(math.prod(grid.array_shape) for grid in grids)
    return round(voxels * dtype.itemsize / ratio) + _DOCUMENT_BYTES * (len(grids) + 1)
