"""An image opened from disk: its levels, and boxes of voxels stitched from dual shards."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.codec import Codec, codec_of, thread_buffer
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.shards import ShardReader


class NotAnImageError(NisslError):
    """A folder that is not an OME-Zarr image of dual shards."""


@dataclass(frozen=True)
class Level:
    """One level of an image: an array of dual shards in `folder`."""

    folder: Path
    grid: ShardGrid
    dtype: np.dtype[Any]
    codec: Codec
    _readers: dict[Index, ShardReader | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> Index:
        return self.grid.array_shape

    def shard_path(self, shard: Index) -> Path:
        return shard_path(self.folder, shard)

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, in this level's voxels and axes; parts outside the array are refused.

        Raises AbsentShardError when a needed shard is not on this machine (it is never read as zeros),
        DamagedShardError when an index or a chunk fails its checksum.
        """
        if box.empty or box.intersect(Box((0,) * self.grid.rank, self.shape)) != box:
            raise NisslError(f"box {box} does not lie inside the image, which is {self.shape}")
        voxels = np.zeros(box.shape, dtype=self.dtype)
        little_endian = self.dtype.newbyteorder("<")
        buffer = thread_buffer("voxels", math.prod(self.grid.chunk_shape) * self.dtype.itemsize)
        content = np.frombuffer(buffer, dtype=little_endian).reshape(self.grid.chunk_shape)
        for chunk in self.grid.chunks_in(box):
            shard, within = self.grid.locate(chunk)
            reader = self._reader(shard)
            if reader is None or not reader.chunk_into(within, buffer):
                continue
            chunk_box = self.grid.chunk_box(chunk)
            common = chunk_box.intersect(box)
            voxels[common.relative_to(box.start).slices] = content[common.relative_to(chunk_box.start).slices]
        return voxels

    def _reader(self, shard: Index) -> ShardReader | None:
        """The shard's reader, None for a shard of fill value only, which has no file."""
        if shard not in self._readers:
            try:
                self._readers[shard] = ShardReader(self.shard_path(shard), self.grid, self.codec)
            except FileNotFoundError:
                self._readers[shard] = None
        return self._readers[shard]

    def close(self) -> None:
        for reader in self._readers.values():
            if reader is not None:
                reader.close()
        self._readers.clear()


@dataclass(frozen=True)
class Image:
    """A pyramid of dual shards; level 0 is the full resolution."""

    folder: Path
    axes: tuple[str, ...]
    voxel_size_um: tuple[float, float, float]
    """(z, y, x) of level 0."""
    levels: tuple[Level, ...]
    ome: dict[str, Any]
    """The OME document itself, for what this class does not name."""

    def close(self) -> None:
        for level in self.levels:
            level.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_image(folder: Path) -> Image:
    """Open the OME-Zarr image in `folder`. Raises NotAnImageError where it is none that Nissl can read."""
    group = read_document(folder / "zarr.json")
    try:
        ome = group["attributes"]["ome"]
        multiscale = ome["multiscales"][0]
        axes = tuple(axis["name"] for axis in multiscale["axes"])
        scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
        spacing = tuple(float(s) for axis, s in zip(axes, scale, strict=True) if axis != "c")
        paths = [folder / dataset["path"] for dataset in multiscale["datasets"]]
        levels = tuple(level_of(path, read_document(path / "zarr.json")) for path in paths)
        if len(spacing) != 3:
            raise KeyError("three spatial axes")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotAnImageError(f"{folder} is not an OME-Zarr image of dual shards ({error!r})") from None
    return Image(folder, axes, (spacing[0], spacing[1], spacing[2]), levels, ome)


def shard_path(level_folder: Path, shard: Index) -> Path:
    """Where Zarr's default chunk key encoding puts a shard: `c/0/0/0`."""
    return level_folder.joinpath("c", *map(str, shard))


def grid_of(array: dict[str, Any]) -> ShardGrid:
    """The grid that an array's `zarr.json` describes. Raises KeyError or ValueError where it is not sharded as ours."""
    sharding = array["codecs"][0]
    if sharding["name"] != "sharding_indexed" or sharding["configuration"]["index_location"] != "start":
        raise ValueError("the array is not sharded with its index at the start")
    return ShardGrid(
        array_shape=tuple(array["shape"]),
        shard_shape=tuple(array["chunk_grid"]["configuration"]["chunk_shape"]),
        chunk_shape=tuple(sharding["configuration"]["chunk_shape"]),
    )


def level_of(folder: Path, array: dict[str, Any]) -> Level:
    """The array in `folder` that its `zarr.json` describes. Raises KeyError, ValueError or TypeError like `grid_of`."""
    grid = grid_of(array)
    inner = array["codecs"][0]["configuration"]["codecs"]
    return Level(folder, grid, np.dtype(array["data_type"]), codec_of(inner))


def read_document(path: Path) -> dict[str, Any]:
    """A Zarr v3 `zarr.json`. Raises NotAnImageError where it cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotAnImageError(f"{path} is missing: {path.parent} is not a Zarr v3 image") from None
    except (ValueError, OSError) as error:
        raise NotAnImageError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise NotAnImageError(f"{path} is not a Zarr document")
    return document
