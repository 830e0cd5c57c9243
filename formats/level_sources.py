"""Finished levels as sources of the levels below them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats.grid import Box
from nissl.formats.image import Level
from nissl.formats.pyramid import halve_labels


@dataclass
class LevelSource:
    """A finished level as the source of the levels below it."""

    level: Level

    files: tuple[Path, ...] = ()
    whole_rows: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        planes, height, width = self.level.shape[-3:]
        return planes, height, width

    @property
    def channels(self) -> int | None:
        return self.level.shape[0] if self.level.grid.rank == 4 else None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.level.dtype

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        start = (plane, rows.start, columns.start)
        stop = (plane + 1, rows.stop, columns.stop)
        if self.channels is None:
            return self.level.read(Box(start, stop))
        return self.level.read(Box((0, *start), (self.channels, *stop)))[:, 0]

    def close(self) -> None:
        self.level.close()


@dataclass
class SlabLevelSource(LevelSource):
    """A finished level of grey planes, read by the slab: its chunks are several planes deep."""

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        start, stop = (planes.start, rows.start, columns.start), (planes.stop, rows.stop, columns.stop)
        return self.level.read(Box(start, stop))


@dataclass
class HalvedSource:
    """The next coarser level of a finished level of labels, halved on all three axes, as a source."""

    finer: Level
    shape: tuple[int, int, int]

    files: tuple[Path, ...] = ()
    channels: int | None = None
    whole_rows: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.finer.dtype

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.read_slab(range(plane, plane + 1), rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        extents = (planes, rows, columns)
        stop = tuple(min(2 * extent.stop, n) for extent, n in zip(extents, self.finer.shape, strict=True))
        box = Box(tuple(2 * extent.start for extent in extents), stop)
        return halve_labels(self.finer.read(box), halved_axes=3)

    def close(self) -> None:
        self.finer.close()
