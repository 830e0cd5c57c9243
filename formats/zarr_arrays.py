"""Zarr arrays, v2 and v3, and OME-Zarr images as sources of planes: folders, or what lies in a `.zip`.

Read with zarr-python, which knows the codecs of both formats. It takes a chunk without a file for fill value; a file
that is only a git-annex pointer or a dangling link is therefore looked for first, and refused: absent is not zero.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nissl.formats.arrays import array_source, datasets_in
from nissl.formats.pixel_size import PixelSize, from_ome_zarr
from nissl.formats.shards import ANNEX_POINTER, LONGEST_ANNEX_POINTER
from nissl.formats.stack import PlaneSource, Reading, StackError, leave_out

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


@dataclass(frozen=True)
class ZarrArray:
    """An `ArrayFile`: an array in a folder or in a `.zip`."""

    store: Path
    path: str
    """Where in the store it lies, "" for the store itself."""
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        return _said(self.store, self.path)

    def open(self) -> Any:  # noqa: ANN401
        import zarr

        return zarr.open_array(_store(self.store), path=self.path, mode="r")

    def close(self, array: Any) -> None:  # noqa: ANN401
        array.store.close()


def claims(name: str) -> bool:
    """Whether `name` is a folder with Zarr in it, or meant to be one, or a `.zip`."""
    store, _ = split_name(name)
    return store.suffix.lower() in (".zarr", ".zip") or any((store / document).exists() for document in _DOCUMENTS)


def split_name(name: str) -> tuple[Path, str]:
    """A folder or a `.zip`, and where in the `.zip` the array lies if that is said: `scan.zip:scan.zarr/0`."""
    file, colon, path = name.rpartition(":")
    if colon and file.lower().endswith(".zip"):
        return Path(file), path.strip("/")
    return Path(name), ""


def open_source(names: Sequence[str], how: Reading) -> PlaneSource:
    """The array, or level 0 of the first image, that `names[0]` holds. Raises StackError where there is none."""
    found = _find(names[0])
    if found.store.is_dir():
        folder = found.store / found.path
        require_present(folder)
        files = (folder,) if found.multiscale is None else (*_documents(found.store), folder)
    else:
        files = (found.store,)
    place = ZarrArray(found.store, found.path, files)
    return leave_out(array_source(found.array, place, found.axes, how, found.array.chunks), how.skip)


def pixel_size(names: Sequence[str]) -> PixelSize:
    """The scale of level 0 of an OME-Zarr image."""
    found = _find(names[0])
    origin = f"OME-Zarr scale of {Path(names[0]).name}"
    return PixelSize(origin=origin) if found.multiscale is None else from_ome_zarr(found.multiscale, origin)


def require_present(folder: Path) -> None:
    """Raise StackError naming a file below `folder` whose content is not here, or that is empty."""
    for file in _files(folder):
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            raise StackError(
                f"{file} is a link to content that is not here: get it first, as with `datalad get`; "
                "Zarr would read fill value"
            ) from None
        if not size and not file.name.startswith("."):
            raise StackError(f"{file} is empty: copy or write it again; Zarr would read fill value")
        if size <= LONGEST_ANNEX_POINTER:
            with file.open("rb") as stream:
                if stream.read(len(ANNEX_POINTER)) == ANNEX_POINTER:
                    raise StackError(
                        f"{file} is a pointer to content that is not here: get it first, as with `datalad get`"
                    )


@dataclass(frozen=True)
class _Found:
    store: Path
    path: str
    array: zarr.Array[Any]
    axes: tuple[str, ...] | None
    multiscale: dict[str, Any] | None


def _find(name: str) -> _Found:
    """The array that is meant, and what its metadata says about it."""
    import zarr

    store, path = split_name(name)
    store = store.absolute()
    said = _said(store, path)
    if not store.exists():
        raise StackError(f"{store} does not exist: check the path")
    try:
        item = zarr.open(_store(store), path=path or None, mode="r")
        if isinstance(item, zarr.Array):
            return _Found(store, path, item, _dimension_names(item), None)
        multiscale = _multiscale(item, said)
        level = str(multiscale["datasets"][0]["path"])
        array = item[level]
        if not isinstance(array, zarr.Array):
            raise StackError(f"{said} names {level!r} as its first level, which is no array: write it again")
        axes = multiscale.get("axes")
        if not axes:
            raise StackError(f"{said} does not say its axes (OME-Zarr before 0.3): convert it to 0.4 or 0.5")
        names = tuple(str(axis["name"]) if isinstance(axis, dict) else str(axis) for axis in axes)
        return _Found(store, f"{path}/{level}".strip("/"), array, names, multiscale)
    except StackError:
        raise
    except zarr.errors.NodeNotFoundError:
        inside = f", or name the folder in it, as in {store}:scan.zarr" if store.is_file() else ""
        raise StackError(f"{said} holds no Zarr array and no OME-Zarr image: check the path{inside}") from None
    # zarr-python answers broken documents with many kinds of error, KeyError, TypeError and ValueError among them.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise StackError(f"{said} cannot be read as Zarr ({reason}): write it again, or copy it again") from None


def _multiscale(group: zarr.Group, said: str) -> dict[str, Any]:
    """The first multiscale of an OME-Zarr image, of version 0.5 or one before it."""
    attributes: dict[str, Any] = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    if multiscales := ome.get("multiscales"):
        found: dict[str, Any] = multiscales[0]
        return found
    inside = datasets_in(key for key, _ in group.members())
    what = "a series of images" if "bioformats2raw.layout" in ome else "a plate" if "plate" in ome else "a group"
    raise StackError(f"{said} is {what}, not an array or an image: name one in it; it has: {inside}")


def _dimension_names(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """The array's axes, by Zarr v3 or by xarray, where they are those of an image."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    lower = tuple(str(name).lower() for name in names)
    # Names such as dim_0 say nothing about the axes: the array is then taken as one without names.
    return lower if {"y", "x"} <= set(lower) else None


def _store(path: Path) -> Store:
    from zarr.storage import LocalStore, ZipStore

    if path.is_dir():
        return LocalStore(path, read_only=True)
    if not zipfile.is_zipfile(path):
        raise StackError(f"{path} is no zip file: copy it again")
    return ZipStore(path, mode="r", read_only=True)


def _said(store: Path, path: str) -> str:
    return str(store / path) if store.is_dir() or not path else f"{store}:{path}"


def _documents(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in _DOCUMENTS if (folder / name).is_file())


def _files(folder: Path) -> Iterator[Path]:
    """All files below `folder`, links too; a folder at a time, for there may be millions."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path))
            else:
                yield Path(entry.path)
