"""A shard's Zarr index rebuilt from its HDF5 side.

The index repeats what HDF5 knows: as long as HDF5's side is whole, a lost index is not a lost shard. Whatever fills
the user block is a function of that side, so the file is byte for byte what it was before the damage.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nissl.errors import NisslError
from nissl.formats.check import Part, check_shard
from nissl.formats.codec import HDF5_CHECKSUM_BYTES
from nissl.formats.grid import Index, ShardGrid
from nissl.formats.hdf5_view import Hdf5View, read_hdf5_view
from nissl.formats.image import Level
from nissl.formats.shard_index import empty_index, encode_index
from nissl.formats.shards import ShardIdentity, sync_folder


class RepairError(NisslError):
    """A shard that cannot be repaired from what is left of it."""


def repair_index(
    path: Path,
    level: Level,
    shard: Index,
    identity: ShardIdentity,
    *,
    pool: ThreadPoolExecutor | None = None,
) -> bool:
    """Rebuild the index of the shard at `path`; returns whether it needed that. Raises RepairError like `rebuilt`."""
    with rebuilt(path, level, shard, identity, pool=pool) as whole:
        if whole is None:
            return False
        # Renamed, never written in place: the file may be one with git-annex's object (annex.thin).
        whole.rename(path)
        sync_folder(path.parent)
    return True


@contextlib.contextmanager
def rebuilt(
    path: Path,
    level: Level,
    shard: Index,
    identity: ShardIdentity,
    *,
    pool: ThreadPoolExecutor | None = None,
) -> Iterator[Path | None]:
    """A new file beside `path` that is the shard with its index rebuilt, for the caller to rename; None if it is whole.

    Every chunk is verified first. Raises RepairError where anything but the index is damaged, or the shard is absent.
    """
    if path.is_symlink():
        raise RepairError(f"{path} is a link to a locked annex file: run `git annex unlock` on it first")
    checked = check_shard(path, level, shard, identity, sample=None, pool=pool)
    if checked.absent:
        raise RepairError(f"{path} is not on this machine, there is nothing to repair: get it with `datalad get`")
    beyond = [finding for finding in checked.findings if finding.part is not Part.INDEX]
    if beyond:
        more = f" (and {len(beyond) - 1} more)" if len(beyond) > 1 else ""
        raise RepairError(
            f"the index cannot be rebuilt, the HDF5 side is damaged too: {beyond[0].sentence}{more}: use another copy"
        )
    if not checked.findings:
        yield None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(path, temporary)
        shutil.copymode(path, temporary)
        with temporary.open("r+b") as file:
            file.write(user_block(read_hdf5_view(path), level.grid))
            file.flush()
            os.fsync(file.fileno())
        left = check_shard(temporary, level, shard, identity).findings
        if left:
            raise RepairError(f"the index cannot be rebuilt: afterwards, {left[0].sentence}")
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def user_block(view: Hdf5View, grid: ShardGrid) -> bytes:
    """The user block that belongs to what HDF5 knows: the Zarr index, then zeros. Pure."""
    index = empty_index(grid.chunk_count)
    for chunk, (offset, size) in view.places.items():
        index[np.ravel_multi_index(chunk, grid.chunks_per_shard)] = (offset, size - HDF5_CHECKSUM_BYTES)
    return encode_index(index).ljust(view.user_block_nbytes, b"\0")
