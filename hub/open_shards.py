"""Shards that are kept open: as many as there are, bounded in file descriptors and in memory for their indexes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from nissl.formats.grid import ShardGrid
from nissl.formats.served_shard import ServedShard, identity

MOST_SHARDS = 256
MOST_INDEX_BYTES = 256 << 20


class OpenShards:
    """Readers by path; the ones not used for longest are closed first. Safe to share between threads.

    A reader that somebody still reads from while it is pushed out is closed by its last user.
    """

    def __init__(self, most: int = MOST_SHARDS, most_index_bytes: int = MOST_INDEX_BYTES) -> None:
        self._most, self._most_index_bytes = most, most_index_bytes
        self._open: OrderedDict[tuple[str, ShardGrid], ServedShard] = OrderedDict()
        self._index_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, path: str, grid: ShardGrid) -> ServedShard | None:
        """The open reader of the file that lies at `path` now, None where there is none.

        A shard that was dropped, or set aside for damage and fetched again, is another file: a look at the path tells.
        """
        key = (path, grid)
        reader = self._open.get(key)
        if reader is None:
            return None
        try:
            same = identity(os.stat(path)) == reader.identity  # noqa: PTH116 - a `Path` costs more than the call
        except OSError:
            same = False
        with self._lock:
            if same and key in self._open:
                self._open.move_to_end(key)
            elif self._open.get(key) is reader:
                self._forget(key)
        return reader if same else None

    def open(self, path: str, grid: ShardGrid) -> ServedShard:
        """A reader of the shard at `path`, whose index is read now. Raises what `ShardReader` raises."""
        reader = ServedShard(Path(path), grid)
        key = (path, grid)
        with self._lock:
            if key in self._open:
                self._forget(key)
            self._open[key] = reader
            self._index_bytes += _index_bytes(grid)
            while len(self._open) > self._most or (self._index_bytes > self._most_index_bytes and len(self._open) > 1):
                self._forget(next(iter(self._open)))
        return reader

    def close(self) -> None:
        with self._lock:
            self._open.clear()
            self._index_bytes = 0

    def _forget(self, key: tuple[str, ShardGrid]) -> None:
        del self._open[key]
        self._index_bytes -= _index_bytes(key[1])


def _index_bytes(grid: ShardGrid) -> int:
    return 16 * grid.chunk_count
