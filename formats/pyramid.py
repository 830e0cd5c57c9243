"""One plane on its way down the pyramid: rows come in at the top, rows of chunks leave at every level.

Nothing larger than one row of chunks per level is held, however large the plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STRIP_BYTES = 1 << 18  # rows reduced at a time: the intermediate sums stay in the processor's cache


def halve(voxels: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 2x2 in the last two axes, shape rounded up; at an odd edge the mean of what is there.

    Integers are rounded half up, as in most microscopy pyramids.
    """
    *stacked, height, width = voxels.shape
    if height % 2 or width % 2:
        pad = [(0, 0)] * len(stacked) + [(0, height % 2), (0, width % 2)]
        voxels = np.pad(voxels, pad, mode="edge")
        height, width = voxels.shape[-2:]
    reduced = np.empty((*stacked, height // 2, width // 2), dtype=voxels.dtype)
    step = max(2, _STRIP_BYTES // max(1, width * voxels.itemsize) // 2 * 2)
    wide = _wide_enough(voxels.dtype)
    for top in range(0, height, step):
        strip = voxels[..., top : top + step, :]
        rows = np.add(strip[..., 0::2, :], strip[..., 1::2, :], dtype=wide)
        sums = rows[..., 0::2] + rows[..., 1::2]
        if voxels.dtype.kind == "f":
            sums /= 4
        else:
            sums += wide.type(2)
            sums >>= wide.type(2)
        reduced[..., top // 2 : (top + step) // 2, :] = sums
    return reduced


def _wide_enough(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type in which four voxels can be added."""
    if dtype.kind == "f":
        return np.dtype(max(dtype, np.dtype(np.float32)))
    return np.dtype(f"{dtype.kind}{min(8, 2 * dtype.itemsize)}")


Emit = Callable[[int, int, NDArray[Any]], None]
"""Takes (level, first row in that level's region, rows of shape (channels, up to chunk edge, width))."""


class Cascade:
    """Reduces one plane of one region level by level, as its rows arrive.

    widths: the region's width at each level, the first being that of the rows pushed in. emit: called with each row of
    chunks, at every level, from top to bottom. chunk_edge must be even, so that only a plane's last row can be odd.
    """

    def __init__(self, widths: Sequence[int], chunk_edge: int, emit: Emit) -> None:
        self._widths = widths
        self._edge = chunk_edge
        self._emit = emit
        self._pending: list[NDArray[Any] | None] = [None] * len(widths)
        self._filled = [0] * len(widths)
        self._row = [0] * len(widths)

    def push(self, rows: NDArray[Any]) -> None:
        """Rows of level 0, shape (channels, rows, width)."""
        self._push(0, rows)

    def finish(self) -> None:
        """No rows follow: let out what is left at every level."""
        for level in range(len(self._widths)):
            pending = self._pending[level]
            if pending is not None:
                self._pending[level] = None
                self._let_out(level, pending[:, : self._filled[level]])

    def _push(self, level: int, rows: NDArray[Any]) -> None:
        done = 0
        count = rows.shape[1]
        while done < count:
            pending = self._pending[level]
            if pending is None:
                if count - done >= self._edge:  # a whole row of chunks: no need to gather
                    self._let_out(level, rows[:, done : done + self._edge])
                    done += self._edge
                    continue
                pending = np.empty((rows.shape[0], self._edge, rows.shape[2]), dtype=rows.dtype)
                self._pending[level], self._filled[level] = pending, 0
            filled = self._filled[level]
            take = min(self._edge - filled, count - done)
            pending[:, filled : filled + take] = rows[:, done : done + take]
            self._filled[level] += take
            done += take
            if self._filled[level] == self._edge:
                self._pending[level] = None
                self._let_out(level, pending)

    def _let_out(self, level: int, rows: NDArray[Any]) -> None:
        self._emit(level, self._row[level], rows)
        self._row[level] += rows.shape[1]
        if level + 1 < len(self._widths):
            self._push(level + 1, halve(rows))
