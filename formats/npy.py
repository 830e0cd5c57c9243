"""`.npy` files as sources of planes, mapped into memory part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats.arrays import array_source
from nissl.formats.pixel_size import PixelSize
from nissl.formats.stack import PlaneSource, Reading, StackError, leave_out


@dataclass(frozen=True)
class NumpyFile:
    """An `ArrayFile`."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> Any:  # noqa: ANN401
        return _Mapped(self.path)

    def close(self, array: Any) -> None:  # noqa: ANN401 - nothing is open between two reads
        del array


class _Mapped:
    """The array in a file, mapped anew for each read.

    One map for all reads would make the whole file count as this process's memory, page by page.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        array = self._map()
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, part: tuple[slice | int, ...]) -> NDArray[Any]:
        return np.array(self._map()[part])

    def _map(self) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._path, mmap_mode="r")
        return array


def claims(name: str) -> bool:
    """Whether `name` is that of a NumPy file."""
    return Path(name).suffix.lower() == ".npy"


def open_source(names: Sequence[str], how: Reading) -> PlaneSource:
    """The array in the file `names[0]`. Raises StackError where there is none."""
    place = NumpyFile(Path(names[0]).absolute())
    try:
        array = place.open()
    except FileNotFoundError:
        raise StackError(f"{place.path} does not exist: check the path") from None
    except (ValueError, OSError, EOFError) as error:
        raise StackError(
            f"{place.path} cannot be read as a NumPy array ({error}): save it again with numpy.save"
        ) from None
    return leave_out(array_source(array, place, how=how), how.skip)


def pixel_size(names: Sequence[str]) -> PixelSize:
    """Nothing: a `.npy` file has no place for it."""
    return PixelSize(origin=names[0])
