"""One plane on its way down the pyramid: rows come in at the top, rows of chunks leave at every level.

Nothing larger than one row of chunks per level is held, however large the plane. Images are reduced to their mean,
labels to their mode: the mean of two ids is the id of somebody else.
"""

from __future__ import annotations

import enum
import itertools
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


def halve_labels(voxels: NDArray[Any], halved_axes: int = 2) -> NDArray[Any]:
    """The mode of each 2x2 in the last two axes, or of each 2x2x2 in the last three, shape rounded up.

    voxels: unsigned ids, 0 for background. Background is the result only where it has more voxels than every label; of
    labels with equally many voxels the smallest id is the result, so that neither the order of the axes nor that of
    the voxels matters. At an odd edge only what is there counts.
    """
    halved = voxels.shape[-halved_axes:]
    if any(n % 2 for n in halved):
        # Every voxel at the edge then counts twice, which changes no majority and no tie.
        pad = [(0, 0)] * (voxels.ndim - halved_axes) + [(0, n % 2) for n in halved]
        voxels = np.pad(voxels, pad, mode="edge")
    corners: list[NDArray[Any]] = []
    for firsts in itertools.product((0, 1), repeat=halved_axes):
        every_second: tuple[Any, ...] = (..., *(slice(first, None, 2) for first in firsts))
        corners.append(voxels[every_second])
    mixed = corners[1] != corners[0]
    for corner in corners[2:]:
        mixed |= corner != corners[0]
    reduced = corners[0].copy()
    if mixed.any():  # few blocks are: the rest is done
        reduced[mixed] = _modes(np.stack([corner[mixed] for corner in corners]))
    return reduced


def _modes(ids: NDArray[Any]) -> NDArray[Any]:
    """The mode of each column; on a tie the smallest id, with background as the largest."""
    one = ids.dtype.type(1)
    ordered = np.sort(ids - one, axis=0)  # background wraps around to the largest
    best, longest = ordered[0].copy(), np.ones(ids.shape[1], dtype=np.uint8)
    run = longest.copy()
    for before, here in itertools.pairwise(ordered):
        run = np.where(here == before, run + np.uint8(1), np.uint8(1))
        longer = run > longest
        best[longer] = here[longer]
        np.maximum(longest, run, out=longest)
    modes: NDArray[Any] = best + one
    return modes


class Reduction(enum.Enum):
    """How the voxels of a level become one of the next coarser; the values are OME-Zarr's names."""

    MEAN = "mean"
    MODE = "mode"

    def halve(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """`voxels` reduced 2x2 in the last two axes."""
        return halve(voxels) if self is Reduction.MEAN else halve_labels(voxels)


Emit = Callable[[int, int, NDArray[Any]], None]
"""Takes (level, first row in that level's region, rows of shape (channels, up to chunk edge, width))."""


class Cascade:
    """Reduces one plane of one region level by level, as its rows arrive.

    widths: the region's width at each level, the first being that of the rows pushed in. emit: called with each row of
    chunks, at every level, from top to bottom. chunk_edge must be even, so that only a plane's last row can be odd.
    Where inner chunks are several planes deep, these planes go down together, in the place of channels.
    """

    def __init__(
        self, widths: Sequence[int], chunk_edge: int, emit: Emit, reduction: Reduction = Reduction.MEAN
    ) -> None:
        self._reduction = reduction
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
            self._push(level + 1, self._reduction.halve(rows))
