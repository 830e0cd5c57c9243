"""A shard from which a server hands out chunks as they are stored."""

from __future__ import annotations

import os
from pathlib import Path

from nissl.formats.grid import ShardGrid
from nissl.formats.shards import DamagedShardError, ShardReader

Identity = tuple[int, int, int]
"""Inode, size and time of change: which file a path leads to."""

_NOWAIT = getattr(os, "RWF_NOWAIT", None)  # Linux


def identity(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


class ServedShard(ShardReader):
    """A reader of encoded bytes that can tell what is in memory from what has to come from the disk."""

    def __init__(self, path: Path, grid: ShardGrid) -> None:
        super().__init__(path, grid)
        self.identity = identity(os.fstat(self._descriptor))

    def read_resident(self, offset: int, nbytes: int) -> bytearray | None:
        """`nbytes` from `offset` if all of them lie in the page cache, None where the disk has to be waited for."""
        if _NOWAIT is None or offset + nbytes > self._nbytes:
            return None
        data = bytearray(nbytes)
        try:
            got = os.preadv(self._descriptor, [data], offset, _NOWAIT)
        except OSError:  # nothing of it in memory, or a file system that cannot tell
            return None
        return data if got == nbytes else None

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` from `offset`. Raises DamagedShardError where the file ends before."""
        data = os.pread(self._descriptor, nbytes, offset) if offset + nbytes <= self._nbytes else b""
        if len(data) != nbytes:
            raise DamagedShardError(f"{self.path} is cut short: a chunk lies beyond its end, get it again")
        return data
