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


def hdf5_checksum(payload: bytes) -> bytes:
    """What HDF5's Fletcher-32 filter appends to `payload`."""
    return int(imagecodecs.h5checksum_fletcher32(payload)).to_bytes(HDF5_CHECKSUM_BYTES, "little")


def decode(payload: ReadableBuffer) -> bytes:
    """The bytes of one chunk. Raises `zstandard.ZstdError` where the frame or its checksum is damaged."""
    if "decompressor" not in _threads.__dict__:
        _threads.decompressor = zstandard.ZstdDecompressor()
    voxels: bytes = _threads.decompressor.decompress(payload)
    return voxels
