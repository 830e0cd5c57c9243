"""Builders of sources in every kind, and a further kind of source as somebody else would write it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, WrapperStore

from nissl.formats.arrays import array_source
from nissl.formats.npy import NumpyFile
from nissl.formats.pixel_size import PixelSize
from nissl.formats.stack import PlaneSource, Reading, leave_out

# A further kind of source: `scan_3x600x700_uint16.raw`, voxels without a header, as some cameras write them.


class RawFiles:
    """A kind of source; an installed module with these three functions is one too."""

    def claims(self, name: str) -> bool:
        return name.endswith(".raw")

    def open_source(self, names: Sequence[str], how: Reading) -> PlaneSource:
        place = RawFile(Path(names[0]).absolute())
        return leave_out(array_source(place.open(), place, how=how), how.skip)

    def pixel_size(self, names: Sequence[str]) -> PixelSize:
        return PixelSize(origin=names[0])


class RawFile(NumpyFile):
    """An array in such a file."""

    def open(self) -> Any:  # noqa: ANN401
        *shape, dtype = re.split("[x_]", self.path.stem.split("_", 1)[1])
        return np.memmap(self.path, dtype, "r", shape=tuple(map(int, shape)))


def write_hdf5(path: Path, voxels: NDArray[Any], chunks: tuple[int, ...] | None, dataset: str = "raw") -> str:
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=voxels, chunks=chunks, compression="gzip" if chunks else None)
    return f"{path}:{dataset}"


def write_zarr(path: Path, voxels: NDArray[Any], chunks: tuple[int, ...] | None, version: int, **more: Any) -> str:  # noqa: ANN401
    zarr.create_array(path, data=voxels, chunks=chunks or voxels.shape, zarr_format=version, **more)  # type: ignore[arg-type]
    return str(path)


def write_ome_zarr(
    folder: Path,
    voxels: NDArray[Any],
    axes: str = "zyx",
    version: str = "0.5",
    scale: Sequence[float] | None = None,
    unit: str | None = "micrometer",
    chunks: tuple[int, ...] | None = None,
) -> str:
    """An OME-Zarr image of two levels, with zarr-python and by the letter of the specification."""
    kind = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kind.get(axis, "space")} | ({"unit": unit} if unit and axis in "zyx" else {})
        for axis in axes
    ]
    factors = list(scale or [1.0] * len(axes))
    coarse = [f * 2 if a in "yx" else f for f, a in zip(factors, axes, strict=True)]
    multiscale = {
        "axes": described,
        "datasets": [
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": by}]}
            for name, by in (("full", factors), ("half", coarse))
        ],
        "name": "scan",
    }
    attributes: dict[str, Any]
    if version == "0.4":
        attributes = {"multiscales": [multiscale | {"version": "0.4"}]}
    else:
        attributes = {"ome": {"version": version, "multiscales": [multiscale]}}
    group = zarr.create_group(folder, zarr_format=2 if version == "0.4" else 3, attributes=attributes)
    names = {} if version == "0.4" else {"dimension_names": tuple(axes)}
    half = voxels[tuple(slice(None, None, 2) if axis in "yx" else slice(None) for axis in axes)]
    for name, level in (("full", voxels), ("half", half)):
        cut = tuple(map(min, chunks, level.shape)) if chunks else level.shape
        group.create_array(name, data=level, chunks=cut, **names)  # type: ignore[arg-type]
    return str(folder)


def edit_json(path: Path, **changes: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class _CountingStore(WrapperStore[LocalStore]):
    """A store that counts how often each chunk is fetched."""

    def __init__(self, store: LocalStore, fetched: Counter[str]) -> None:
        super().__init__(store)
        self.fetched = fetched

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if key.startswith("c/"):
            self.fetched[key] += 1
        return await super().get(key, *arguments, **options)


@dataclass(frozen=True)
class CountedZarr:
    """A Zarr v3 array as an `ArrayFile`, read by zarr-python, which counts how often each chunk is fetched."""

    path: Path
    fetched: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> Any:  # noqa: ANN401
        return zarr.open_array(_CountingStore(LocalStore(self.path, read_only=True), self.fetched), mode="r")

    def close(self, array: Any) -> None:  # noqa: ANN401
        array.store.close()
