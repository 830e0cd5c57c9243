"""Files of labels as a source of planes: NumPy, HDF5, TIFF. Read block by block, never as a whole.

Labels are unsigned numbers with 0 for background. What programs save as smaller or as signed integers is widened to
uint32 or read as unsigned; a negative number is refused where it is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers filters: label volumes often come with blosc or zstd
import numpy as np
from numpy.typing import NDArray

from nissl.formats.stack import PlaneSource, StackError, read_slab
from nissl.formats.tiff import open_tiff_stack

_HDF5 = (".h5", ".hdf5", ".hdf")
_TIFF = (".tif", ".tiff", ".btf")


def open_label_files(names: Sequence[str]) -> PlaneSource:
    """The labels in a `.npy` file, in a dataset of an HDF5 file (`seg.h5:main/labels`), or in a stack of TIFF files.

    Axes are z, y, x; an array of two axes is one plane. Raises StackError where there are none, or no labels.
    """
    if not names:
        raise StackError("no files given: name a .npy file, a dataset as in seg.h5:labels, or TIFF files")
    path, dataset = split_name(names[0])
    if path.suffix.lower() in _TIFF:
        return as_labels(open_tiff_stack([Path(name).absolute() for name in names]))
    if len(names) > 1:
        raise StackError(f"{len(names)} files given, {names[0]} among them: only TIFF stacks may have several files")
    if not path.is_file():
        raise StackError(f"{path} does not exist: check the path")
    if path.suffix.lower() == ".npy":
        return as_labels(_numpy_file(path.absolute()))
    if path.suffix.lower() in _HDF5:
        return as_labels(_hdf5_file(path.absolute(), dataset))
    raise StackError(f"{path} is not a kind of file that labels are read from: .npy, .h5, .tif")


def absolute_name(name: str) -> str:
    """`name` as `open_label_files` takes it, to be understood in any folder."""
    path, dataset = split_name(name)
    return f"{path.absolute()}:{dataset}" if dataset else str(path.absolute())


def split_name(name: str) -> tuple[Path, str]:
    """A file, and the dataset within it where one is named."""
    file, colon, dataset = name.rpartition(":")
    if colon and Path(file).suffix.lower() in _HDF5:
        return Path(file), dataset.strip("/")
    return Path(name), ""


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


@dataclass
class ArraySource:
    """An array of labels as a source of planes: in memory, or opened where it is read."""

    file: Path | None
    dataset: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    array: Any = field(default=None, repr=False, compare=False)
    """What is sliced: an ndarray, a memory map, an HDF5 dataset; of two axes or three."""

    channels: int | None = None
    whole_rows: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return () if self.file is None else (self.file,)

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.read_slab(range(plane, plane + 1), rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        plane, row, column = (slice(extent.start, extent.stop) for extent in (planes, rows, columns))
        try:
            array = self._array()
            voxels = array[plane, row, column] if len(array.shape) == 3 else array[row, column][np.newaxis]
        except (OSError, ValueError, KeyError) as error:
            raise StackError(f"{self.file} cannot be read at plane {planes.start + 1}: {error}") from None
        return np.ascontiguousarray(voxels, dtype=self.dtype)

    def close(self) -> None:
        if self.file is None:
            return
        if isinstance(self.array, h5py.Dataset):
            self.array.file.close()
        self.array = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"array": None} if self.file is not None else {})

    def _array(self) -> Any:  # noqa: ANN401 - anything that slices
        if self.array is None:
            assert self.file is not None  # noqa: S101 - only what has a file is closed
            if self.dataset:
                self.array = h5py.File(self.file, "r")[self.dataset]
            else:
                self.array = np.load(self.file, mmap_mode="r")
        return self.array


def array_source(array: Any, file: Path | None = None, dataset: str = "") -> ArraySource:  # noqa: ANN401
    """An array, or a part of a file that has been opened, as a source. Raises StackError where it has other axes.

    An array in memory is copied to every process that reads it: save a large one as a file first.
    """
    shape = tuple(int(n) for n in array.shape)
    name = f"{file}:{dataset}" if dataset else str(file or "the array")
    if len(shape) not in (2, 3) or not all(shape):
        axes = " x ".join(map(str, shape)) or "no axes at all"
        raise StackError(f"{name} is {axes}: labels have the axes z, y, x, or y, x for a single plane")
    planes, height, width = (1, *shape)[-3:]
    native = np.dtype(array.dtype).newbyteorder("=")
    return ArraySource(file, dataset, (planes, height, width), native, array if file is None else None)


def _numpy_file(path: Path) -> ArraySource:
    try:
        return array_source(np.load(path, mmap_mode="r"), path)
    except (ValueError, OSError, EOFError) as error:
        raise StackError(f"{path} cannot be read as a NumPy array ({error}): save it again with numpy.save") from None


def _hdf5_file(path: Path, dataset: str) -> ArraySource:
    try:
        with h5py.File(path, "r") as file:
            if not dataset:
                found: list[str] = []
                file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
                raise StackError(
                    f"{path} needs the name of a dataset behind a colon; it has: {', '.join(sorted(found)) or 'none'}"
                )
            item = file.get(dataset)
            if not isinstance(item, h5py.Dataset):
                raise StackError(f"{path} has no dataset {dataset!r}: look with `h5ls -r {path}`")
            return array_source(item, path, dataset)
    except OSError as error:
        raise StackError(f"{path} cannot be read as HDF5 ({error}): check it with `h5ls {path}`") from None
