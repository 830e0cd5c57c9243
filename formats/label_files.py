"""Files of labels as a source of planes, of every kind that images come from. Read block by block, never as a whole.

Labels are unsigned numbers with 0 for background. What programs save as smaller or as signed integers is widened to
uint32 or read as unsigned; a negative number is refused where it is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats.sources import open_source, split_name
from nissl.formats.stack import PlaneSource, StackError, read_slab


def open_label_files(names: Sequence[str], *, scratch: Path | None = None) -> PlaneSource:
    """The labels in TIFF files, a `.npy` file, a dataset of an HDF5 file (`seg.h5:main/labels`), or a Zarr folder.

    Axes are z, y, x; an array of two axes is one plane. scratch: as `open_source` takes it. Raises StackError where
    there are none, or no labels.
    """
    return as_labels(open_source(names, colour=False, scratch=scratch))


def absolute_name(name: str) -> str:
    """`name` as `open_label_files` takes it, to be understood in any folder."""
    path, dataset = split_name(name)
    return f"{path.absolute()}:{dataset}" if dataset else str(path.absolute())


def as_labels(source: PlaneSource) -> PlaneSource:
    """`source` as uint32 or uint64. Raises StackError where its voxels cannot be labels."""
    if source.channels is not None:
        raise StackError(f"{_name(source)} has {source.channels} channels: labels have one number per voxel")
    kind, size = source.dtype.kind, source.dtype.itemsize
    if kind not in "biu":
        raise StackError(f"{_name(source)} holds {source.dtype.name} voxels: save labels as unsigned integers")
    dtype = np.dtype(np.uint64 if size == 8 else np.uint32)
    return source if source.dtype == dtype else _Unsigned(source, dtype)


def _name(source: PlaneSource) -> str:
    return str(source.files[0]) if source.files else "the array"


@dataclass
class _Unsigned:
    """A source of integers, read as labels."""

    source: PlaneSource
    dtype: np.dtype[Any]

    channels: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.source.files

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def whole_rows(self) -> bool:
        return self.source.whole_rows

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.read_slab(range(plane, plane + 1), rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        voxels = read_slab(self.source, planes, rows, columns)
        if voxels.dtype.kind == "i" and (lowest := int(voxels.min())) < 0:
            plane = planes[int(np.argwhere(voxels == lowest)[0][0])]
            raise StackError(
                f"plane {plane + 1} of {_name(self)} holds the number {lowest}: labels start at 0, the background"
            )
        return voxels.astype(self.dtype)

    def close(self) -> None:
        self.source.close()
