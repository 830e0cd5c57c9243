"""Lists: arrays of one long axis in dual shards, written as a whole, read by position, searched with few reads.

A list is a Zarr v3 array of shape (entries, ...) that any Zarr or HDF5 reader opens. An entry is found in a sorted list
by bisection over inner chunks: a list of a billion entries takes 17 reads of less than 64 kB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats import ome
from nissl.formats.codec import Codec, ZstdCodec
from nissl.formats.grid import Box, list_grid
from nissl.formats.image import Level, level_of, read_document, shard_path
from nissl.formats.shards import ShardIdentity, ShardWriter, write_json

CHUNK_ENTRIES = 8192
SHARD_ENTRIES = 2048 * CHUNK_ENTRIES
"""Entries in an inner chunk and in a shard: 64 kB and 128 MB raw of single numbers."""


def write_list(
    folder: Path,
    values: NDArray[np.uint64],
    axes: tuple[str, ...],
    name: str,
    *,
    codec: Codec | None = None,
    chunk: int = CHUNK_ENTRIES,
    shard: int = SHARD_ENTRIES,
) -> None:
    """Write `values`, which may be a memory map larger than memory, into the new folder `folder`.

    axes: a name for each axis of `values`. name: what its shards say they belong to.
    """
    codec = codec or ZstdCodec()
    grid = list_grid((max(1, len(values)), *values.shape[1:]), chunk=chunk, shard=shard)
    document = ome.array_document(grid, values.dtype, codec, axes)
    document["shape"] = list(values.shape)  # a list may be empty, a grid may not
    write_json(folder / "zarr.json", document)
    if not len(values):
        return
    identity = ShardIdentity(name, 0, axes, ())
    for number in grid.shards():
        with ShardWriter(shard_path(folder, number), grid, number, values.dtype, codec, identity) as writer:
            start = grid.shard_box(number).start[0]
            for within in grid.chunks_of(number):
                first = start + within[0] * chunk
                part = np.asarray(values[first : first + chunk])
                if not part.any():
                    continue
                if len(part) < chunk:
                    part = np.concatenate([part, np.zeros((chunk - len(part), *part.shape[1:]), dtype=part.dtype)])
                writer.write_chunk(within, codec.encode(np.ascontiguousarray(part, dtype="<u8").data))


@dataclass(frozen=True)
class StoredList:
    """A list on disk."""

    level: Level | None
    """The array that holds it, None for an empty list."""
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> NDArray[np.uint64]:
        """Entries from `start` up to `stop`. Raises AbsentShardError or DamagedShardError where they cannot be read."""
        rest = self.shape[1:]
        if self.level is None or start >= stop:
            return np.empty((0, *rest), dtype=np.uint64)
        return self.level.read(Box((start, *(0 for _ in rest)), (stop, *rest)))

    def find(self, value: int) -> int | None:
        """The position of `value` in a sorted list of single numbers, None where it does not occur."""
        if self.level is None:
            return None
        chunk = self.level.grid.chunk_shape[0]
        low, high = 0, math.ceil(len(self) / chunk)
        while low < high:
            middle = (low + high) // 2
            start = middle * chunk
            part = self.read(start, min(start + chunk, len(self)))
            if value < int(part[0]):
                high = middle
            elif value > int(part[-1]):
                low = middle + 1
            else:
                within = int(np.searchsorted(part, np.uint64(value)))
                return start + within if int(part[within]) == value else None
        return None

    def close(self) -> None:
        if self.level is not None:
            self.level.close()


def open_list(folder: Path) -> StoredList:
    """The list in `folder`. Raises NotAnImageError where no array of dual shards lies there."""
    document: dict[str, Any] = read_document(folder / "zarr.json")
    shape = tuple(document["shape"])
    if not shape[0]:
        return StoredList(None, shape)
    return StoredList(level_of(folder, document), shape)
