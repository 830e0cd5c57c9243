"""The dual shard: one file that is a Zarr v3 shard and an HDF5 file.

HDF5 stores the chunks; the Zarr index lies in HDF5's user block and names the chunks' places. HDF5 skips its user
block, Zarr ignores bytes that its index does not name. In the user block the index survives an HDF5 `r+` open;
appended at the end of the file it would be cut off, because HDF5 truncates a file to the end that it knows.

A shard is written under a temporary name, synced and renamed: whole or absent, and never written again. A chunk that
holds only the fill value 0 is stored in neither view; a shard of nothing else is no file at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

# HDF5 writes a filter's name into the file if it knows the filter. It always does, then: the same voxels must be the
# same bytes, whatever else this process has imported.
import hdf5plugin  # noqa: F401
import numpy as np
from numpy.typing import DTypeLike, NDArray

from nissl.errors import NisslError, NoSpaceError
from nissl.formats.codec import (
    HDF5_CHECKSUM_BYTES,
    Codec,
    PayloadError,
    hdf5_checksum,
    thread_buffer,
    with_hdf5_checksum,
)
from nissl.formats.grid import Index, ShardGrid
from nissl.formats.shard_index import (
    MISSING,
    decode_index,
    empty_index,
    encode_index,
    index_nbytes,
    user_block_nbytes,
)

DATASET = "voxels"
"""Name of the one HDF5 dataset in a shard."""

_CLOSED = -1

_WRITE_BACK_BYTES = 32 << 20

ANNEX_POINTER = b"/annex/objects/"
"""How what git-annex leaves in the place of an unlocked file begins, where its content is elsewhere."""

LONGEST_ANNEX_POINTER = 32 << 10
"""Bytes of the largest file that git-annex takes for a pointer."""


class AbsentShardError(NisslError):
    """A shard that the dataset knows is not on this machine. Its voxels are unknown, not zero."""


class DamagedShardError(NisslError):
    """A shard's index or chunk contradicts its checksum, or the file is cut short."""


@dataclass(frozen=True)
class ShardIdentity:
    """What a shard found alone says about itself: HDF5 attributes of its dataset."""

    array: str
    """Path of the array within its image, with the image's name: `sub-01_BF.ome.zarr/0`."""
    level: int
    axes: tuple[str, ...]
    voxel_size_um: tuple[float, ...]
    """Spacing along the spatial axes of `axes`, in um."""


class ShardWriter:
    """Writes one dual shard. Use as a context manager: leaving it normally publishes the file, an exception removes it.

    Chunks may come in any order, each at most once, from one thread. within: a folder above `path` that must exist;
    without it, all folders that are missing are made.
    """

    def __init__(
        self,
        path: Path,
        grid: ShardGrid,
        shard: Index,
        dtype: DTypeLike,
        codec: Codec,
        identity: ShardIdentity,
        *,
        within: Path | None = None,
    ) -> None:
        self.path = path
        self._grid = grid
        self._codec = codec
        self._box = grid.shard_box(shard)
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        self._index = empty_index(grid.chunk_count)
        self._written = 0
        self._dirty = self._advised = 0
        with plain_disk_errors(path):
            _make_folder(path.parent, within)
            try:
                self._file = h5py.File(
                    self._temporary, "w", libver="latest", userblock_size=user_block_nbytes(grid.chunk_count)
                )
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise
            try:
                shape = hdf5_shape(grid, shard)
                self._dataset = _create_dataset(self._file, shape, grid.chunk_shape, np.dtype(dtype), codec)
                # Text of fixed length: text of variable length lies in HDF5's global heap, which has no checksum, and
                # HDF5 2.0 never comes back from reading some heaps in which one bit is flipped.
                attributes = self._dataset.attrs
                attributes["array"] = np.bytes_(identity.array.encode())
                attributes["level"] = identity.level
                attributes["axes"] = np.array(identity.axes, dtype="S")
                attributes["voxel_size"] = identity.voxel_size_um
                attributes["voxel_size_unit"] = np.bytes_(b"micrometer")
                attributes["origin"] = self._box.start
                attributes["extent"] = self._box.shape
                attributes["array_shape"] = grid.array_shape
            except BaseException:
                self.abort()
                raise

    def write_chunk(self, chunk: Index, payload: bytes) -> None:
        """Store the encoded bytes of `chunk` (its index within the shard)."""
        self.write_stored(chunk, with_hdf5_checksum(payload))

    def write_stored(self, chunk: Index, stored: bytes) -> None:
        """Store the encoded bytes of `chunk` that have HDF5's checksum behind them already."""
        origin = tuple(i * c for i, c in zip(chunk, self._grid.chunk_shape, strict=True))
        with plain_disk_errors(self.path):
            self._dataset.id.write_direct_chunk(origin, stored)
        self._written += 1
        self._on_its_way(len(stored))

    def _on_its_way(self, nbytes: int) -> None:
        """Have the kernel start writing what has come together, so that `fsync` has little left to wait for."""
        self._dirty += nbytes
        if self._dirty >= _WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            # Linux answers this advice by starting to write dirty pages, and drops only pages that are clean already.
            descriptor = self._file.id.get_vfd_handle()
            os.posix_fadvise(descriptor, self._advised, 0, os.POSIX_FADV_DONTNEED)
            self._advised += self._dirty
            self._dirty = 0

    def close(self) -> bool:
        """Publish the shard; returns whether there is one (a shard without chunks is not written)."""
        if not self._written:
            self.abort()
            return False
        with plain_disk_errors(self.path):
            places: list[h5py.h5d.StoreInfo] = []
            self._dataset.id.chunk_iter(places.append)
            self._file.close()
            per = self._grid.chunks_per_shard
            for place in places:
                chunk = tuple(o // c for o, c in zip(place.chunk_offset, self._grid.chunk_shape, strict=True))
                self._index[np.ravel_multi_index(chunk, per)] = (place.byte_offset, place.size - HDF5_CHECKSUM_BYTES)
            descriptor = os.open(self._temporary, os.O_RDWR)
            try:
                self._check_address(descriptor, places[0])
                os.pwrite(descriptor, encode_index(self._index), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._temporary.rename(self.path)
            sync_folder(self.path.parent)
        return True

    def _check_address(self, descriptor: int, place: h5py.h5d.StoreInfo) -> None:
        # HDF5 before 1.14.4 reports addresses without the user block; an index of such addresses would be wrong
        # silently.
        if not self._codec.frames(os.pread(descriptor, place.size - HDF5_CHECKSUM_BYTES, place.byte_offset)):
            raise DamagedShardError(
                f"{self.path}: HDF5 {h5py.version.hdf5_version} reports wrong chunk addresses, "
                "install h5py 3.12 or newer"
            )

    def abort(self) -> None:
        """Leave nothing behind."""
        # Closing flushes, and flushing to a full disk fails again: the file goes away in any case.
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


class ShardReader:
    """Reads chunks of one shard with one `pread` each; no HDF5 or Zarr library is in the way.

    codec: of the array's chunks, as its `zarr.json` says; a reader without one gives places and payloads, no voxels.

    Safe to share between threads. Raises AbsentShardError when the content is not on this machine, DamagedShardError
    when the index does not agree with its checksum, FileNotFoundError when no such shard was ever written.
    """

    def __init__(self, path: Path, grid: ShardGrid, codec: Codec | None = None) -> None:
        self.path = path
        self._grid = grid
        self._codec = codec
        self._chunks_per_shard = grid.chunks_per_shard
        self._descriptor = _CLOSED
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if path.is_symlink():
                raise AbsentShardError(_absent(path)) from None
            raise
        try:
            self._nbytes = os.fstat(self._descriptor).st_size
            head = os.pread(self._descriptor, index_nbytes(grid.chunk_count), 0)
            if head.startswith(ANNEX_POINTER):
                raise AbsentShardError(_absent(path))
            try:
                self._index = decode_index(head)
                if len(self._index) != grid.chunk_count:
                    raise ValueError(f"{len(self._index)} entries instead of {grid.chunk_count}")
            except ValueError as error:
                raise DamagedShardError(
                    f"{path} is damaged ({error}): see with `nissl check {path}` what can be done"
                ) from None
        except BaseException:
            self.close()
            raise

    def place(self, chunk: Index) -> tuple[int, int] | None:
        """(offset, nbytes) in the file of `chunk` (its index within the shard), None where it holds only fill value."""
        number = 0  # np.ravel_multi_index does the same in ten times the time
        for position, count in zip(chunk, self._chunks_per_shard, strict=True):
            if not 0 <= position < count:
                raise ValueError(f"{self.path} has no chunk {chunk}, only {self._chunks_per_shard}")
            number = number * count + position
        offset, nbytes = self._index[number].tolist()
        return None if offset == MISSING else (offset, nbytes)

    def places(self) -> dict[Index, tuple[int, int]]:
        """(offset, nbytes) in the file of every chunk that the index names, by its index within the shard."""
        stored = np.flatnonzero(self._index[:, 0] != MISSING)
        chunks = np.stack(np.unravel_index(stored, self._grid.chunks_per_shard), axis=1).tolist()
        places = self._index[stored].tolist()
        return {tuple(chunk): (offset, nbytes) for chunk, (offset, nbytes) in zip(chunks, places, strict=True)}

    def payload(self, chunk: Index) -> bytes | None:
        """The encoded bytes of `chunk`, None where it holds only fill value."""
        place = self.place(chunk)
        if place is None:
            return None
        offset, nbytes = place
        payload = os.pread(self._descriptor, nbytes, offset) if offset + nbytes <= self._nbytes else b""
        if len(payload) != nbytes:
            raise DamagedShardError(f"{self.path} is cut short: chunk {chunk} lies beyond its end, get it again")
        return payload

    def chunk(self, chunk: Index, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """The voxels of `chunk`, in the grid's chunk shape; None where it holds only fill value."""
        payload = self.payload(chunk)
        if payload is None:
            return None
        try:
            nbytes = math.prod(self._grid.chunk_shape) * dtype.itemsize
            voxels = np.frombuffer(self._decoder().decode(payload, nbytes), dtype=dtype.newbyteorder("<"))
            return voxels.reshape(self._grid.chunk_shape)
        except PayloadError as error:
            raise DamagedShardError(f"{self.path} is damaged in chunk {chunk} ({error}): get it again") from None

    def chunk_into(self, chunk: Index, voxels: memoryview, wanted: int | None = None) -> bool:
        """Read `chunk` into `voxels`, the bytes of one chunk in little-endian order; allocates nothing.

        wanted: how many bytes from the chunk's start the caller needs; what follows them in `voxels` is undefined.
        Returns False, and leaves `voxels` as it was, where the chunk holds only fill value.
        """
        codec, place = self._decoder(), self.place(chunk)
        if place is None:
            return False
        offset, nbytes = place
        buffer = thread_buffer("payload", nbytes + HDF5_CHECKSUM_BYTES)
        stored = os.preadv(self._descriptor, [buffer], offset)
        if stored < nbytes:
            raise DamagedShardError(f"{self.path} is cut short: chunk {chunk} lies beyond its end, get it again")
        payload = buffer[:nbytes]
        try:
            # HDF5's checksum stands in for the codec's where that would take decoding all. Where it does not fit (other
            # programs' shards have none), the codec's decides.
            codec.decode_into(payload, voxels, wanted, lambda: buffer[nbytes:stored] == hdf5_checksum(payload))
        except PayloadError as error:
            raise DamagedShardError(f"{self.path} is damaged in chunk {chunk} ({error}): get it again") from None
        return True

    def _decoder(self) -> Codec:
        if self._codec is None:
            raise ValueError(f"the reader of {self.path} was not told how its chunks are encoded")
        return self._codec

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)

    # Whoever shares a reader between threads may drop it from a cache and leave the closing to its last user.
    __del__ = close

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_folder(folder: Path, within: Path | None) -> None:
    if within is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    # Step by step: who writes for an image that has meanwhile been removed must fail, not bring its folder back.
    step = within
    for name in folder.relative_to(within).parts:
        step /= name
        step.mkdir(exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a small JSON document whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(document, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)


def hdf5_shape(grid: ShardGrid, shard: Index) -> Index:
    """Shape of the HDF5 dataset in a shard: the voxels that exist, but never less than a chunk.

    HDF5 refuses a chunk that is larger than its dataset; the voxels beyond the attribute `extent` are then padding.
    """
    return tuple(map(max, grid.shard_box(shard).shape, grid.chunk_shape))


def _create_dataset(
    file: h5py.File, shape: Index, chunk_shape: Index, dtype: np.dtype[Any], codec: Codec
) -> h5py.Dataset:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk(chunk_shape)
    used = codec.hdf5(dtype, math.prod(chunk_shape) * dtype.itemsize)
    layout.set_filter(used.number, h5py.h5z.FLAG_OPTIONAL, used.options)
    layout.set_fletcher32()
    layout.set_obj_track_times(False)  # the same voxels are the same bytes, and so the same annex key
    layout.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED)
    little_endian = h5py.h5t.py_create(dtype.newbyteorder("<"))
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(file.id, DATASET.encode(), little_endian, space, layout))


def _absent(path: Path) -> str:
    return f"{path} is not on this machine: bring it here with `datalad get {path.name}` in {path.parent}"


_FULL = re.compile(r"errno = (28|122)\b")  # how HDF5 words ENOSPC and EDQUOT


@contextlib.contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """A full disk, said plainly; HDF5 hides the error number in its text."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error))
        if full:
            raise NoSpaceError(
                f"no space left on the device while writing {path}: free some space and run the command again"
            ) from None
        raise
