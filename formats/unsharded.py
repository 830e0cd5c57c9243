"""A sharded Zarr v3 array shown as a plain one of inner chunks. Pure: documents in, documents out.

An inner chunk lies in its shard exactly as a plain array would store it as a file, so that only `zarr.json` has to be
written anew: the grid becomes that of the inner chunks, the inner codecs become the array's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nissl.formats.grid import Index, ShardGrid
from nissl.formats.image import grid_of

_MOST_CHUNKS = 1 << 22
"""Inner chunks of a shard, whose index is then 64 MiB: a volume's shard has 4096, a section's 7424."""

_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_DEFAULT_KEYS = {"name": "default", "configuration": {"separator": "/"}}


@dataclass(frozen=True)
class Unsharded:
    """A sharded array as one of inner chunks."""

    document: dict[str, Any]
    """`zarr.json` of the plain array."""
    grid: ShardGrid
    chunks_per_axis: Index
    """Inner chunks that hold at least one voxel of the array, along each axis; 0 along an axis without entries."""

    def locate(self, chunk: Index) -> tuple[Index, Index] | None:
        """(shard, chunk within the shard) of an inner chunk counted over the array, None where it lies outside."""
        if len(chunk) != len(self.chunks_per_axis):
            return None
        if any(position >= count for position, count in zip(chunk, self.chunks_per_axis, strict=True)):
            return None
        return self.grid.locate(chunk)


def unshard(array: Mapping[str, Any]) -> Unsharded:
    """The plain array that the sharded one described by `array`, its `zarr.json`, can be shown as.

    Raises ValueError, KeyError or TypeError where it is not sharded as Nissl's arrays are.
    """
    (sharding,) = array["codecs"]
    shape = tuple(array["shape"])
    # A list may be empty, a grid may not.
    grid = grid_of({**array, "shape": [max(1, n) for n in shape]})
    inner = sharding["configuration"]
    if inner["index_codecs"] != _INDEX_CODECS or array["chunk_key_encoding"] != _DEFAULT_KEYS:
        raise ValueError("the array's shards are not indexed, or not named, as Nissl's are")
    if grid.chunk_count > _MOST_CHUNKS or any(type(n) is not int for n in (*shape, *grid.shard_shape)):
        raise ValueError(f"the array's shards are cut into {grid.chunk_count} chunks, {_MOST_CHUNKS} are the most")
    plain = {
        **array,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid.chunk_shape)}},
        "codecs": inner["codecs"],
    }
    counts = tuple(math.ceil(n / c) for n, c in zip(shape, grid.chunk_shape, strict=True))
    return Unsharded(plain, grid, counts)


def consolidate(group: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The group's `zarr.json` with the documents of `nodes` below it, by path, as zarr-python writes and reads it.

    A node whose parent is no group among `nodes` is left out: readers would not find a way to it.
    """
    kept: dict[str, Mapping[str, Any]] = {}
    for path in sorted(nodes, key=lambda path: (path.count("/"), path)):
        parent = path.rpartition("/")[0]
        if not parent or (parent in kept and kept[parent].get("node_type") == "group"):
            kept[path] = nodes[path]
    return {**group, "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": kept}}
