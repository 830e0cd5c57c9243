"""The kinds of sources: which files can become an image, or labels.

A further kind is one module with the three functions of `Kind`, and one entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from nissl.formats import hdf5, npy, tiff_files, zarr_arrays
from nissl.formats.pixel_size import PixelSize, Resolved, resolve
from nissl.formats.stack import PlaneSource, Reading, StackError

_VOXELS = {"u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"}


class Kind(Protocol):
    """A kind of source; a module is one."""

    def claims(self, name: str) -> bool:
        """Whether what a user wrote names a source of this kind; it need not exist."""

    def open_source(self, names: Sequence[str], how: Reading) -> PlaneSource:
        """The planes that `names` hold. Raises StackError with one sentence."""

    def pixel_size(self, names: Sequence[str]) -> PixelSize:
        """What the source itself says about the size of its voxels."""


KINDS: tuple[Kind, ...] = (tiff_files, npy, hdf5, zarr_arrays)


def open_source(
    names: Sequence[str], *, skip: Collection[int] = (), colour: bool = True, scratch: Path | None = None
) -> PlaneSource:
    """The planes in TIFF files, a `.npy` file, a dataset `scan.h5:raw`, or a Zarr folder.

    skip: plane numbers, from 1, to leave out. colour: whether a trailing axis of 3 or 4 samples is one.
    scratch: a folder for decoded voxels that memory would not hold. Raises StackError naming the file and the remedy.
    """
    return _kind_of(names).open_source(names, Reading(frozenset(skip), colour, scratch))


def open_image_source(names: Sequence[str], *, skip: Collection[int] = (), scratch: Path | None = None) -> PlaneSource:
    """Like `open_source`; raises StackError also where the voxels are of a type that no image has."""
    source = open_source(names, skip=skip, scratch=scratch)
    if source.dtype.str[1:] not in _VOXELS:
        raise StackError(
            f"{names[0]} holds {np.dtype(source.dtype).name} voxels: "
            "save it as 8, 16 or 32-bit integers, or as 32 or 64-bit floats"
        )
    return source


def pixel_size(names: Sequence[str]) -> Resolved:
    """The pixel size that a source itself says. Raises PixelSizeError where that is not all, StackError as above."""
    return resolve(_kind_of(names).pixel_size(names), Path(names[0]).name)


def split_name(name: str) -> tuple[Path, str]:
    """A file, and what is meant within it where that is said: `scan.h5:raw`, `scan.zip:scan.zarr`."""
    for split in (hdf5.split_name, zarr_arrays.split_name):
        path, inside = split(name)
        if inside or str(path) != str(Path(name)):
            return path, inside
    return Path(name), ""


def _kind_of(names: Sequence[str]) -> Kind:
    if not names:
        raise StackError("no files given: name TIFF files, a .npy file, a dataset as in scan.h5:raw, or a Zarr folder")
    first = names[0]
    kind = next((kind for kind in KINDS if kind.claims(first)), None)
    if kind is None:
        if Path(first).is_dir():
            raise StackError(
                f"{first} is a folder: name the files in it, as in {first}/*.tif, "
                "or give --pattern, as in --pattern '{sample}_z{z}.tif'"
            )
        if not Path(first).exists():
            raise StackError(f"{first} does not exist: check the path")
        raise StackError(f"{first} is not a kind of file that is read: .tif, .npy, .h5, .zarr")
    if len(names) > 1 and kind is not tiff_files:
        raise StackError(f"{len(names)} files given, {first} among them: only TIFF stacks may have several files")
    return kind
