"""What a source of planes must offer, and how the files of a stack are put in order.

A source is read by several processes at once: it is a small picklable value, and opens its files where it is used.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError


class StackError(NisslError):
    """A stack that cannot become an image as it is: the message names the plane, the file and the remedy."""


class PlaneSource(Protocol):
    """A z-stack that can be read in parts."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is read from, in plane order; a folder stands for all files in it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(planes, height, width) in voxels."""

    @property
    def channels(self) -> int | None:
        """Samples per voxel of a colour image (3 for RGB), None for a grey one."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def whole_rows(self) -> bool:
        """Whether reading a part of a row costs as much as reading all of it (strips instead of tiles)."""

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        """Voxels of one plane, shape (channels or 1, rows, columns), in native byte order."""

    def close(self) -> None:
        """Close the files that reading opened in this process."""


@runtime_checkable
class SlabSource(Protocol):
    """A source of grey planes that reads several of them at once for less than one after the other."""

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        """Voxels, shape (planes, rows, columns), in native byte order."""


@dataclass(frozen=True)
class Reading:
    """How a source is to be opened."""

    skip: frozenset[int] = frozenset()
    """Plane numbers, from 1, to leave out."""
    colour: bool = True
    """Whether a trailing axis of 3 or 4 can be colour; labels have none."""
    scratch: Path | None = None
    """A folder for decoded voxels that would not fit into memory; the system's temporary folder where it is None."""


def read_slab(source: PlaneSource, planes: range, rows: range, columns: range) -> NDArray[Any]:
    """Voxels of consecutive planes of `source`, in native byte order.

    Shape (planes, rows, columns); of a source with channels only one plane at a time, (channels, rows, columns).
    """
    if isinstance(source, SlabSource):
        return source.read_slab(planes, rows, columns)
    if len(planes) == 1:
        return source.read(planes.start, rows, columns)
    return np.concatenate([source.read(plane, rows, columns) for plane in planes])


@dataclass
class _Without:
    """A source of which some planes are left out."""

    source: PlaneSource
    kept: tuple[int, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return self.source.files

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.kept), *self.source.shape[1:]

    @property
    def channels(self) -> int | None:
        return self.source.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def whole_rows(self) -> bool:
        return self.source.whole_rows

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.source.read(self.kept[plane], rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        wanted = self.kept[planes.start : planes.stop]
        runs = [list(run) for _, run in itertools.groupby(enumerate(wanted), lambda pair: pair[1] - pair[0])]
        parts = [read_slab(self.source, range(run[0][1], run[-1][1] + 1), rows, columns) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        self.source.close()


def leave_out(source: PlaneSource, skip: Collection[int]) -> PlaneSource:
    """`source` without the planes numbered `skip`, from 1. Raises StackError where they are not its planes, or all."""
    total = source.shape[0]
    require_planes(skip, total)
    kept = tuple(plane for plane in range(total) if plane + 1 not in skip)
    return _Without(source, kept) if len(kept) < total else source


def require_planes(skip: Collection[int], total: int) -> None:
    """Raise StackError where `skip` names a plane beyond the `total` that there are, or all of them."""
    unknown = sorted(number for number in skip if not 1 <= number <= total)
    if unknown:
        raise StackError(f"--skip {unknown[0]}: the stack has planes 1 to {total}")
    if len(set(skip)) == total:
        raise StackError(f"all {total} planes are left out with --skip: nothing remains to ingest")


def order_planes(files: Sequence[Path]) -> list[Path | None]:
    """The files in the order of the numbers in their names (`z2` before `z10`), with None where a number is missing.

    The plane number is the one number in which the names differ; names that differ otherwise have no gaps to find.
    Where all names are the same the folders are compared, as in `plane_1/image.tif`, `plane_2/image.tif`.
    """
    alike = len(files) > 1 and len({path.name for path in files}) == 1
    ordered = sorted(files, key=lambda path: (_pieces(str(path) if alike else path.name), str(path)))
    numbers = _plane_numbers([str(path) if alike else path.name for path in ordered])
    if numbers is None:
        return list(ordered)
    planes: list[Path | None] = []
    for number, path in zip(numbers, ordered, strict=True):
        while planes and numbers[0] + len(planes) < number:
            planes.append(None)
        planes.append(path)
    return planes


def _pieces(name: str) -> list[tuple[int, int, str]]:
    """`z10.tif` as comparable pieces, numbers by value."""
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name)]


def _plane_numbers(names: list[str]) -> list[int] | None:
    """The plane number of each name, None where the names do not follow one pattern with one varying number."""
    if len(names) < 3:  # two files say nothing about what lies between them
        return None
    pieces = [_pieces(name) for name in names]
    if len({len(parts) for parts in pieces}) != 1:
        return None
    varying = [column for column in range(len(pieces[0])) if len({parts[column] for parts in pieces}) > 1]
    if not varying or any(len({parts[column] for column in varying}) > 1 for parts in pieces):
        return None  # but `plane_2/z2.tif` says one number twice
    if pieces[0][varying[0]][0] != 0:
        return None
    numbers = [parts[varying[0]][1] for parts in pieces]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    # A stack numbered 0, 5, 10 (a z position in um, say) has no gaps; a gap is a step that most others are not.
    usual = max(set(steps), key=steps.count)
    return numbers if usual == 1 and min(steps) > 0 else None
