"""Decoded voxels that wait on disk until they are read again, where memory would not hold them.

The file has no name: nothing is left when its process is killed. Without room for it the caller decodes again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Block = tuple[int, int, int]
"""A block's place in the caller's order: layer, band, stripe."""


class Scratch:
    """Blocks of voxels in slots of one nameless file; used by one thread."""

    def __init__(self, folder: Path | None, slot_bytes: int) -> None:
        """folder: on which file system; the system's temporary folder where it is None or is not there.

        slot_bytes: the size of the largest block.
        """
        self._folder = folder if folder is not None and folder.is_dir() else None
        self._slot_bytes = slot_bytes
        self._file: IO[bytes] | None = None
        self._least_free = 0
        self._slots: dict[Block, int] = {}
        self._free: list[int] = []
        self._count = 0
        self._reserved: Block | None = None

    def __contains__(self, block: Block) -> bool:
        return block in self._slots

    def forget(self, unwanted: Callable[[Block], bool]) -> None:
        """Free the slots of all blocks that are `unwanted`."""
        for block in [block for block in self._slots if unwanted(block)]:
            self._free.append(self._slots.pop(block))

    def reserve(self, block: Block) -> bool:
        """Whether there is room to `store` this block next."""
        self._reserved = block
        if self._free:
            return True
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
                # What is being built needs room too, and other processes have scratch files of their own.
                self._least_free = self._room() // 2
            if self._room() - self._slot_bytes < self._least_free:
                return False
            os.posix_fallocate(self._file.fileno(), self._count * self._slot_bytes, self._slot_bytes)
        except OSError:  # no such folder, no room, no such call on this file system
            return False
        self._free.append(self._count)
        self._count += 1
        return True

    def store(self, block: Block, voxels: NDArray[Any]) -> None:
        """Keep `voxels` (C order) as the block that was reserved last."""
        assert self._file is not None  # noqa: S101
        assert self._reserved == block  # noqa: S101
        slot = self._free.pop()
        left = voxels.data.cast("B")
        offset = slot * self._slot_bytes
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[written:], offset + written
        self._slots[block] = slot

    def load(
        self, block: Block, shape: tuple[int, int, int, int], dtype: np.dtype[Any], planes: range, rows: range
    ) -> NDArray[Any]:
        """Planes and rows of a kept block of `shape` (samples, planes, rows, columns), all its columns."""
        assert self._file is not None  # noqa: S101
        samples, depth, height, width = shape
        voxels = np.empty((samples, len(planes), len(rows), width), dtype=dtype)
        start = self._slots[block] * self._slot_bytes
        for sample in range(samples):
            for place, plane in enumerate(planes):
                wanted = voxels[sample, place].data.cast("B")
                row = (sample * depth + plane) * height + rows.start
                offset = start + row * width * dtype.itemsize
                while wanted:
                    got = os.preadv(self._file.fileno(), [wanted], offset)
                    if not got:
                        raise OSError("the scratch file is shorter than it was")
                    wanted, offset = wanted[got:], offset + got
        return voxels

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._slots.clear()
        self._free.clear()
        self._count = 0

    def _room(self) -> int:
        assert self._file is not None  # noqa: S101
        state = os.fstatvfs(self._file.fileno())
        return state.f_bavail * state.f_frsize
