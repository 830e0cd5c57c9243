"""The one compression that Zarr v3 and HDF5 share byte for byte: a bare zstd frame.

Zarr's `zstd` codec and HDF5's registered filter 32015 both store exactly one zstd frame per chunk. Frames carry their
content checksum, so a flipped bit is an error in every Zarr reader. HDF5's usual zstd filter does not look at the
result of decompressing (hdf5plugin 7.1 hands out the garbage as voxels), so HDF5's chunks also end in HDF5's own
Fletcher-32 checksum; the Zarr index leaves these four bytes out. (`gzip` would not do: the two wrap deflate
differently.)
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import imagecodecs
import zstandard

ReadableBuffer = bytes | memoryview

HDF5_ZSTD_FILTER = 32015
"""Number of the zstd filter in The HDF Group's registry of filters."""

HDF5_CHECKSUM_BYTES = 4

_threads = threading.local()  # zstandard's objects must not be shared between threads


@dataclass(frozen=True)
class ZstdCodec:
    """zstd at `level` (1 fast to 22 small), with content checksum and content size in every frame."""

    level: int = 3

    def encode(self, voxels: ReadableBuffer) -> bytes:
        compressors: dict[int, zstandard.ZstdCompressor] = _threads.__dict__.setdefault("compressors", {})
        if self.level not in compressors:
            compressors[self.level] = zstandard.ZstdCompressor(
                level=self.level, write_checksum=True, write_content_size=True
            )
        return compressors[self.level].compress(voxels)

    @property
    def zarr(self) -> dict[str, Any]:
        """The codec as Zarr v3 metadata names it."""
        return {"name": "zstd", "configuration": {"level": self.level, "checksum": True}}


def hdf5_checksum(payload: ReadableBuffer) -> bytes:
    """What HDF5's Fletcher-32 filter appends to `payload`."""
    checksum: int = imagecodecs.h5checksum_fletcher32(payload)  # type: ignore[arg-type]  # it takes any buffer
    return checksum.to_bytes(HDF5_CHECKSUM_BYTES, "little")


def with_hdf5_checksum(payload: bytes) -> bytes:
    """`payload` as it is stored, for HDF5 and Zarr."""
    return payload + hdf5_checksum(payload)


def decode(payload: ReadableBuffer, nbytes: int | None = None) -> bytes:
    """The bytes of one chunk, `nbytes` of them where that is known.

    Raises `zstandard.ZstdError` where the frame or its checksum is damaged, or its size is another.
    """
    _check_header(payload, nbytes)
    voxels: bytes = _decompressor().decompress(payload, allow_extra_data=False)
    return voxels


def decode_into(payload: memoryview, voxels: memoryview) -> None:
    """Decode one chunk into `voxels`, the bytes of exactly one chunk. Raises `zstandard.ZstdError` as `decode` does.

    In place, because a fresh half megabyte that is kept costs as much in page faults as half its decoding.
    """
    _check_header(payload, len(voxels))
    try:
        decoded = imagecodecs.zstd_decode(payload, out=voxels)  # type: ignore[arg-type]  # it takes any buffer
    except imagecodecs.ZstdError as error:
        raise zstandard.ZstdError(str(error)) from None
    if len(decoded) != len(voxels):
        raise zstandard.ZstdError(f"the chunk holds {len(decoded)} bytes instead of {len(voxels)}")


def _check_header(payload: ReadableBuffer, nbytes: int | None) -> None:
    """A damaged header can claim that there is no checksum to look at, or any size to allocate."""
    header = zstandard.get_frame_parameters(payload)
    if not header.has_checksum:
        raise zstandard.ZstdError("the zstd frame has no content checksum")
    if nbytes is not None and header.content_size != nbytes:
        raise zstandard.ZstdError(f"the zstd frame holds {header.content_size} bytes instead of {nbytes}")


def decode_start_into(payload: memoryview, voxels: memoryview) -> None:
    """Decode only the first `len(voxels)` bytes of a chunk, for little more than their share of the time.

    The frame's checksum, which is that of all its content, is not looked at: check `hdf5_checksum(payload)` before.
    Raises `zstandard.ZstdError` where the frame ends before or is damaged in a way that decoding meets.
    """
    # zstd decodes block by block, 128 KiB each, and is not asked for more once `voxels` is full.
    with _decompressor().stream_reader(payload) as stream:
        decoded = stream.readinto(voxels)
    if decoded != len(voxels):
        raise zstandard.ZstdError(f"the chunk holds {decoded} bytes instead of {len(voxels)} or more")


def thread_buffer(name: str, nbytes: int) -> memoryview:
    """`nbytes` of memory that this thread keeps under `name`, and that its next call hands out again."""
    buffers: dict[str, memoryview] = _threads.__dict__.setdefault("buffers", {})
    if name not in buffers or len(buffers[name]) < nbytes:
        buffers[name] = memoryview(bytearray(nbytes))
    return buffers[name][:nbytes]


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's."""
    if "decompressor" not in _threads.__dict__:
        _threads.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _threads.decompressor
    return decompressor
