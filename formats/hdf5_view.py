"""A shard as HDF5 sees it: its one dataset, what that says about itself, and where HDF5 has put each chunk.

Read without decoding a voxel, and without the Zarr index: what the two views say can then be compared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nissl.formats.grid import Index
from nissl.formats.shards import DATASET, DamagedShardError

_SUPERBLOCK_BYTES = 48
_END_OF_FILE = slice(28, 36)  # superblock of version 2 and 3: signature 8, sizes and flags 4, base 8, extension 8
_NEW_SUPERBLOCKS = (2, 3)


@dataclass(frozen=True)
class Hdf5View:
    """What HDF5 knows about one shard."""

    shape: Index
    chunk_shape: Index
    dtype: np.dtype[Any]
    filters: tuple[int, ...]
    """Numbers of the filters in the order in which they were applied."""
    attributes: dict[str, Any]
    """Lists, numbers and strings."""
    places: dict[Index, tuple[int, int]]
    """(offset, nbytes) in the file of every stored chunk, with its Fletcher-32, by its index within the shard."""
    unfiltered: tuple[Index, ...]
    """Chunks that HDF5 believes to be stored without one of the filters."""
    user_block_nbytes: int
    end_of_file: int
    """Bytes that the file has according to HDF5."""


def read_hdf5_view(path: Path) -> Hdf5View:
    """The shard at `path` as HDF5 sees it. Raises DamagedShardError where HDF5 cannot read it."""
    try:
        # Without a lock: a shard is never written again, and many a cluster's file system has none.
        with h5py.File(path, "r", locking=False) as file:
            dataset = file[DATASET]
            stored: list[h5py.h5d.StoreInfo] = []
            dataset.id.chunk_iter(stored.append)
            layout = dataset.id.get_create_plist()
            chunks = [tuple(o // c for o, c in zip(s.chunk_offset, dataset.chunks, strict=True)) for s in stored]
            return Hdf5View(
                shape=dataset.shape,
                chunk_shape=dataset.chunks,
                dtype=dataset.dtype,
                filters=tuple(layout.get_filter(number)[0] for number in range(layout.get_nfilters())),
                attributes={name: _attribute(dataset.attrs, name) for name in dataset.attrs},
                places={chunk: (s.byte_offset, s.size) for chunk, s in zip(chunks, stored, strict=True)},
                unfiltered=tuple(chunk for chunk, s in zip(chunks, stored, strict=True) if s.filter_mask),
                user_block_nbytes=file.userblock_size,
                end_of_file=_end_of_file(path, file.userblock_size),
            )
    # h5py turns HDF5's errors into one of these, by the function that failed.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedShardError(f"HDF5 cannot read {path} ({_first_line(error)})") from None


def _end_of_file(path: Path, user_block: int) -> int:
    # h5py tells the file's size, not what the superblock says that it should be. HDF5 has verified the checksum.
    with path.open("rb") as file:
        superblock = os.pread(file.fileno(), _SUPERBLOCK_BYTES, user_block)
    if len(superblock) < _SUPERBLOCK_BYTES or superblock[8] not in _NEW_SUPERBLOCKS:
        raise ValueError("not a superblock of version 2 or 3")
    return int.from_bytes(superblock[_END_OF_FILE], "little")


def _attribute(attributes: h5py.AttributeManager, name: str) -> Any:  # noqa: ANN401 - whatever it holds
    text = h5py.check_string_dtype(attributes.get_id(name).dtype)
    if text is not None and text.length is None:
        # It lies in the global heap, which has no checksum: HDF5 2.0 does not come back from some that are damaged.
        raise ValueError(f"attribute {name} is text of variable length, which no shard has")
    value = attributes[name]
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(plain, list):
        return [item.decode() if isinstance(item, bytes) else item for item in plain]
    return plain.decode() if isinstance(plain, bytes) else plain


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").partition("\n")[0] or type(error).__name__
