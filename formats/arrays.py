"""Arrays as sources of planes: their axes, and chunks that are decoded once though planes are read one by one.

Files of several kinds hold arrays (NumPy, HDF5, Zarr). Each brings an `ArrayFile`, which says where the array lies and
how it is opened; what the axes mean and in what portions it is read is the same for all of them and lies here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.scratch import Scratch
from nissl.formats.stack import Reading, StackError

_BLOCK_BYTES = 64 << 20
"""Of deep or tall chunks so many bytes are decoded at a time, or a single chunk where that is more."""

_COLOURS = (3, 4)


class ArrayFile(Protocol):
    """Where an array lies: a small picklable value, the same in every process."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, or folders of files, that it is read from."""

    def open(self) -> Any:  # noqa: ANN401
        """The array: it has `shape` and `dtype`, perhaps `chunks`, and is sliced as in NumPy."""

    def close(self, array: Any) -> None:  # noqa: ANN401
        """Close what `open` opened."""


@dataclass(frozen=True)
class InMemory:
    """An array in memory. It is copied to every process that reads it: save a large one as a file first."""

    array: NDArray[Any]

    name: str = "the array"
    files: tuple[Path, ...] = ()

    def open(self) -> NDArray[Any]:
        return self.array

    def close(self, array: Any) -> None:  # noqa: ANN401
        del array


@dataclass
class ArraySource:
    """An array as a PlaneSource and SlabSource, opened where it is read."""

    place: ArrayFile
    axes: str
    """The array's own axes in its own order: letters of t, c, z, y, x."""
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    channels: int | None = None
    chunk: tuple[int, int, int] | None = None
    """The least that can be read, (planes, rows, columns); None where that is a voxel."""
    scratch: Path | None = None

    _array: Any = field(default=None, init=False, repr=False, compare=False)
    _decoded: _Decoded | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.place.files

    @property
    def whole_rows(self) -> bool:
        return self.chunk is not None and self.chunk[2] >= self.shape[2]

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        return self.read_slab(range(plane, plane + 1), rows, columns)

    def read_slab(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        """Voxels, shape (planes, rows, columns), of colours (channels, rows, columns) of a single plane.

        Raises StackError where the array cannot be read.
        """
        if self._cuts_chunks(planes, rows):
            voxels = self._by_blocks(planes, rows, columns)
        else:
            voxels = self._decode(planes, rows, columns)
        return voxels[0] if self.channels is None else voxels[:, 0]

    def close(self) -> None:
        if self._array is not None:
            self.place.close(self._array)
        if self._decoded is not None:
            self._decoded.scratch.close()
        self._array = self._decoded = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None, "_decoded": None}

    def _decode(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        """Voxels straight from the array, shape (channels or 1, planes, rows, columns)."""
        extents = {"z": planes, "y": rows, "x": columns}
        wanted: list[slice | int] = []
        for axis in self.axes:
            if axis in extents:
                wanted.append(slice(extents[axis].start, extents[axis].stop))
            else:
                wanted.append(slice(None) if axis == "c" and self.channels is not None else 0)
        try:
            if self._array is None:
                self._array = self.place.open()
            voxels = np.asarray(self._array[tuple(wanted)])
        except NisslError:
            raise
        # Every library answers damaged chunks in its own way: OSError, ValueError, RuntimeError and errors of codecs.
        except Exception as error:  # noqa: BLE001
            reason = str(error) or type(error).__name__
            raise StackError(f"{self.place.name} cannot be read at plane {planes.start + 1}: {reason}") from None
        left = [axis for axis, part in zip(self.axes, wanted, strict=True) if isinstance(part, slice)]
        for axis in "zc":
            if axis not in left:
                left.insert(0, axis)
                voxels = voxels[np.newaxis]
        return np.ascontiguousarray(voxels.transpose([left.index(axis) for axis in "czyx"]), dtype=self.dtype)

    def _cuts_chunks(self, planes: range, rows: range) -> bool:
        """Whether a later request will need chunks of this one again."""
        if self.chunk is None:
            return False
        edges = zip((planes, rows), self.chunk[:2], self.shape[:2], strict=True)
        return any(
            extent.start % edge or (extent.stop % edge and extent.stop != whole) for extent, edge, whole in edges
        )

    def _by_blocks(self, planes: range, rows: range, columns: range) -> NDArray[Any]:
        """Like `_decode`, but of whole chunks, which are kept until other planes or columns are asked for.

        The builder reads a region plane by plane: chunks that are 64 planes deep would be decoded 64 times.
        """
        assert self.chunk is not None  # noqa: S101 - asked only where there are chunks
        depth, height, _ = self.chunk
        samples = self.channels or 1
        width = self._block_width()
        if self._decoded is None or self._decoded.columns != columns:
            if self._decoded is not None:
                self._decoded.scratch.close()
            nbytes = samples * depth * height * min(width, len(columns)) * self.dtype.itemsize
            self._decoded = _Decoded(columns, Scratch(self.scratch, nbytes))
        scratch = self._decoded.scratch
        layers = range(planes.start // depth, -(-planes.stop // depth))
        scratch.forget(lambda block: block[0] not in layers)
        voxels = np.empty((samples, len(planes), len(rows), len(columns)), dtype=self.dtype)
        bands = range(rows.start // height, -(-rows.stop // height))
        stripes = range(columns.start // width, -(-columns.stop // width))
        for block in itertools.product(layers, bands, stripes):
            z, y = _part(block[0], depth, range(self.shape[0])), _part(block[1], height, range(self.shape[1]))
            x = _part(block[2], width, columns)
            mine = _overlap(z, planes), _overlap(y, rows), x
            box = (samples, len(z), len(y), len(x))
            if block not in scratch and not scratch.reserve(block):
                part = self._decode(*mine)  # no room to keep it: no more than is needed now
            elif block not in scratch:
                whole = self._decode(z, y, x)
                part = whole[:, mine[0].start - z.start :, mine[1].start - y.start :]
                part = part[:, : len(mine[0]), : len(mine[1])]
                scratch.store(block, whole)
            else:
                part = scratch.load(block, box, self.dtype, _shifted(mine[0], z), _shifted(mine[1], y))
            voxels[
                :,
                mine[0].start - planes.start : mine[0].stop - planes.start,
                mine[1].start - rows.start : mine[1].stop - rows.start,
                x.start - columns.start : x.stop - columns.start,
            ] = part
        return voxels

    def _block_width(self) -> int:
        """Columns of the widest block of whole chunks that keeps the limit, at least those of one chunk."""
        assert self.chunk is not None  # noqa: S101
        depth, height, width = self.chunk
        chunk_bytes = (self.channels or 1) * depth * height * width * self.dtype.itemsize
        return width * max(1, _BLOCK_BYTES // chunk_bytes)


@dataclass(frozen=True)
class _Decoded:
    """Blocks that were decoded for requests of these columns."""

    columns: range
    scratch: Scratch


def array_source(
    array: Any,  # noqa: ANN401 - anything with a shape and a dtype
    place: ArrayFile | None = None,
    axes: Sequence[str] | None = None,
    how: Reading | None = None,
    chunks: Sequence[int] | None = None,
) -> ArraySource:
    """An array, in memory or that of an opened `place`, as a source.

    axes: what a file says about its axes; without that they are z, y, x, or y, x, or with colours z, y, x, c.
    chunks: the least that can be read, along the array's axes. Raises StackError where the axes are others.
    """
    place = place or InMemory(array)
    how = how or Reading(colour=False)
    shape = tuple(int(n) for n in array.shape)
    named = _named(place.name, axes, shape) if axes is not None else _guessed(place.name, shape, colour=how.colour)
    length = dict(zip(named, shape, strict=True))
    samples = length.get("c", 1)
    if samples not in (1, *_COLOURS):
        raise StackError(f"{place.name} holds {samples} channels: save each as a z-stack of its own")
    if length.get("t", 1) != 1:
        raise StackError(f"{place.name} holds {length['t']} times: save each as a z-stack of its own")
    dtype = _native(place.name, array.dtype)
    chunk = None
    if chunks is not None:
        edge = {axis: min(int(n), length[axis]) for axis, n in zip(named, chunks, strict=True)}
        chunk = (edge.get("z", 1), edge["y"], edge["x"])
    return ArraySource(
        place,
        named,
        (length.get("z", 1), length["y"], length["x"]),
        dtype,
        samples if samples > 1 else None,
        chunk,
        how.scratch,
    )


def _guessed(name: str, shape: tuple[int, ...], *, colour: bool) -> str:
    """The axes of an array that does not say them."""
    said = _says(shape)
    if len(shape) not in (2, 3, 4) or not all(shape):
        raise StackError(f"{name} is {said}: it must have the axes z, y, x, or y, x for a single plane")
    if len(shape) == 4:
        if not colour or shape[-1] not in _COLOURS:
            further = ", or z, y, x, c with 3 or 4 samples of colour at the end" if colour else ""
            raise StackError(f"{name} is {said}: it must have the axes z, y, x{further}")
        return "zyxc"
    if colour and len(shape) == 3 and shape[-1] in _COLOURS:
        raise StackError(
            f"{name} is {said}, which can be {shape[0]} planes of {shape[2]} columns or one plane in colour: "
            "save a plane in colour with four axes, z, y, x, c"
        )
    return "zyx"[-len(shape) :]


def _named(name: str, axes: Sequence[str], shape: tuple[int, ...]) -> str:
    """The axes that a file names, checked."""
    named = "".join(axis.lower() for axis in axes)
    known = all(len(axis) == 1 and axis.lower() in "tczyx" for axis in axes)
    if not known or len(set(named)) != len(named) or not {"y", "x"} <= set(named) or len(named) != len(shape):
        raise StackError(
            f"{name} is {_says(shape)} with axes {', '.join(map(str, axes)) or 'without names'}: "
            "it must have y and x, perhaps z, and t and c where there is one time or one colour"
        )
    if not all(shape):
        raise StackError(f"{name} is {_says(shape)}: there is not a voxel in it")
    return named


def _says(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "without axes"


def _native(name: str, dtype: Any) -> np.dtype[Any]:  # noqa: ANN401 - h5py's and Zarr's own types too
    """The type of voxel that is read, in native byte order; masks of truth values are 0 and 1."""
    stored = np.dtype(dtype)
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if stored.kind not in "iuf":
        raise StackError(f"{name} holds {stored.name} instead of numbers: save voxels as integers or as floats")
    native: np.dtype[Any] = stored.newbyteorder("=")
    return native


def _part(number: int, edge: int, within: range) -> range:
    return _overlap(range(number * edge, (number + 1) * edge), within)


def _overlap(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _shifted(extent: range, origin: range) -> range:
    return range(extent.start - origin.start, extent.stop - origin.start)


def datasets_in(names: Iterator[str]) -> str:
    """Some names, for a message."""
    first = list(itertools.islice(names, 6))
    return ", ".join(first[:5]) + (", ..." if len(first) > 5 else "") if first else "none"
