"""Datasets of HDF5 files as sources of planes: `scan.h5:path/to/dataset`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers filters: volumes often come with blosc or zstd

from nissl.formats.arrays import array_source, datasets_in
from nissl.formats.pixel_size import PixelSize, from_element_size
from nissl.formats.stack import PlaneSource, Reading, StackError, leave_out

_SUFFIXES = (".h5", ".hdf5", ".hdf")


@dataclass(frozen=True)
class Hdf5Dataset:
    """An `ArrayFile`."""

    path: Path
    dataset: str
    files: tuple[Path, ...]
    """The file, one that it links to, and those whose parts a virtual dataset shows."""

    @property
    def name(self) -> str:
        return f"{self.path}:{self.dataset}"

    def open(self) -> Any:  # noqa: ANN401 - h5py has no types
        return h5py.File(self.path, "r")[self.dataset]

    def close(self, array: Any) -> None:  # noqa: ANN401
        array.file.close()


def claims(name: str) -> bool:
    """Whether `name` is that of an HDF5 file, with a dataset behind a colon or without."""
    return split_name(name)[0].suffix.lower() in _SUFFIXES


def split_name(name: str) -> tuple[Path, str]:
    """A file, and the dataset within it where one is named."""
    file, colon, dataset = name.rpartition(":")
    if colon and Path(file).suffix.lower() in _SUFFIXES:
        return Path(file), dataset.strip("/")
    return Path(name), ""


def open_source(names: Sequence[str], how: Reading) -> PlaneSource:
    """The dataset `names[0]`. Raises StackError where there is none."""
    with _dataset(names[0]) as (path, dataset, item):
        home = Path(item.file.filename)  # another file where the name leads through an external link
        files = (path, *([home] if home != path else []), *_parts(home, dataset, item))
        place = Hdf5Dataset(path, dataset, tuple(dict.fromkeys(files)))
        labels = [dimension.label for dimension in item.dims] if item.shape else []
        axes = labels if all(labels) and labels else None
        return leave_out(array_source(item, place, axes, how, _chunks(item)), how.skip)


def pixel_size(names: Sequence[str]) -> PixelSize:
    """The attribute `element_size_um` that Fiji's HDF5 plugin writes, z, y, x."""
    with _dataset(names[0]) as (path, dataset, item):
        return from_element_size(item.attrs.get("element_size_um"), f"element_size_um of {path.name}:{dataset}")


@contextmanager
def _dataset(name: str) -> Iterator[tuple[Path, str, Any]]:
    path, dataset = split_name(name)
    path = path.absolute()
    if not path.is_file():
        raise StackError(f"{path} does not exist: check the path")
    try:
        with h5py.File(path, "r") as file:
            if not dataset:
                found: list[str] = []
                file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
                raise StackError(
                    f"{path} needs the name of a dataset behind a colon; it has: {datasets_in(iter(sorted(found)))}"
                )
            item = file.get(dataset)
            if not isinstance(item, h5py.Dataset):
                raise StackError(f"{path} has no dataset {dataset!r}: look with `h5ls -r {path}`")
            if item.shape is None:
                raise StackError(f"{path}:{dataset} is a dataset without voxels: write it again")
            yield path, dataset, item
    except OSError as error:
        raise StackError(f"{path} cannot be read as HDF5 ({error}): check it with `h5ls {path}`") from None


def _parts(path: Path, dataset: str, item: Any) -> tuple[Path, ...]:  # noqa: ANN401
    """The files that a virtual dataset shows, each of them here: HDF5 shows fill value for those that are not."""
    if not item.is_virtual:
        return ()
    parts = []
    for source in dict.fromkeys(source.file_name for source in item.virtual_sources()):
        part = path if source == "." else path.parent / source
        if part != path and not (part.is_file() and h5py.is_hdf5(part)):
            raise StackError(
                f"{path}:{dataset} shows {part}, which is not here: get it first, as with `datalad get`; "
                "HDF5 would read zeros"
            )
        if part != path:
            parts.append(part)
    return tuple(parts)


def _chunks(item: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    chunks: tuple[int, ...] | None = item.chunks
    return chunks
