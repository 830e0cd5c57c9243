"""The one compression that Zarr v3 and HDF5 share byte for byte: a bare zstd frame.

Zarr's `zstd` codec and HDF5's registered filter 32015 both store exactly one zstd frame per chunk. Frames carry their
content checksum, so a flipped bit is an error in every reader. (`gzip` would not do: the two wrap deflate differently.)
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import zstandard

ReadableBuffer = bytes | memoryview

HDF5_ZSTD_FILTER = 32015
"""Number of the zstd filter in The HDF Group's registry of filters."""

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


def decode(payload: ReadableBuffer) -> bytes:
    """The bytes of one chunk. Raises `zstandard.ZstdError` where the frame or its checksum is damaged."""
    if "decompressor" not in _threads.__dict__:
        _threads.decompressor = zstandard.ZstdDecompressor()
    voxels: bytes = _threads.decompressor.decompress(payload)
    return voxels
