"""The Zarr v3 shard index, as it lies in the user block of an HDF5 file.

Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html (`index_location: start`):
one little-endian uint64 pair (offset, nbytes) per inner chunk in C order, both 2^64-1 for a chunk that is not stored,
then the crc32c of these bytes, little-endian. Offsets count from the start of the file.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray

MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
_SMALLEST_USER_BLOCK = 512  # HDF5: a user block is 0 or a power of two of at least 512 bytes


def index_nbytes(chunk_count: int) -> int:
    """Bytes of an index of `chunk_count` entries with its checksum."""
    return 16 * chunk_count + _CHECKSUM_BYTES


def user_block_nbytes(chunk_count: int) -> int:
    """Size of the HDF5 user block that holds such an index."""
    return max(_SMALLEST_USER_BLOCK, 1 << (index_nbytes(chunk_count) - 1).bit_length())


def empty_index(chunk_count: int) -> NDArray[np.uint64]:
    """An index, shape (chunk_count, 2), in which every chunk is missing."""
    return np.full((chunk_count, 2), MISSING, dtype=np.uint64)


def encode_index(index: NDArray[np.uint64]) -> bytes:
    entries = index.astype("<u8").tobytes()
    return entries + int(google_crc32c.value(entries)).to_bytes(_CHECKSUM_BYTES, "little")


def decode_index(data: bytes) -> NDArray[np.uint64]:
    """Entries, shape (chunks, 2). Raises ValueError, saying why, where `data` is not a whole and undamaged index."""
    entries, stored = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(data) < _CHECKSUM_BYTES or len(entries) % 16:
        raise ValueError(f"{len(data)} bytes cannot be a shard index")
    if int(google_crc32c.value(entries)) != int.from_bytes(stored, "little"):
        raise ValueError("the index does not agree with its checksum")
    return np.frombuffer(entries, dtype="<u8").reshape(-1, 2).astype(np.uint64)
