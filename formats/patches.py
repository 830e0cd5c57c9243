"""Patches of many sections, as fast as the disk and the codec give them: for training and for work over whole sections.

A `PatchReader` finds each inner chunk in the shard's index, reads it with one `pread`, decodes it in place and copies
what the patches need of it straight into the caller's buffer. It is a map-style dataset for `torch.utils.data`
(`len`, `[]`, `__getitems__`) and an iterable; torch is not imported.
"""

from __future__ import annotations

import collections
import math
import operator
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.codec import Codec, thread_buffer
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.image import Image, open_image, shard_path
from nissl.formats.patch_plan import NeededChunk, Patches, Places, Plan, grid, needed_chunks, plan_patches, random
from nissl.formats.shards import ShardReader

__all__ = ["PatchPlace", "PatchReader", "grid", "random"]

OPEN_SHARDS = 256
"""Shards that one reader keeps open; a quarter of the 1024 descriptors that a process usually may have."""

READ_AHEAD = 16
"""Patches that iteration reads at once: neighbours in a grid then share the chunks that they both touch."""


@dataclass(frozen=True)
class PatchPlace:
    """Where a patch comes from."""

    image: Path
    level: int
    box: Box
    """In voxels of `level`, axes as the image's."""


@dataclass(frozen=True)
class _Section:
    """What reading one section needs, without open files: small enough to be sent to a worker process."""

    image: Path
    folder: Path
    """Of the level."""
    grid: ShardGrid
    codec: Codec


class PatchReader:
    """The patches of a plan over one or many sections, by index.

    images: OME-Zarr folders or open images; all with the same axes, channels and data type.
    shape: of a patch in voxels of `level`, (y, x), which takes one focus plane, or (z, y, x); colours come with all
    channels in front.
    plan: `random(count, seed)` or `grid(stride)`; what index i is follows from the plan, the epoch, and the sections'
    shapes and order alone.
    rank, world: this reader has each `world`-th patch of the plan, from the `rank`-th on. Ranks are disjoint; their
    lengths differ by one where `world` does not divide the plan. Leave them out under a sampler that shares by itself.
    threads: that read and decode for `[]` and iteration.

    May be shared between threads, pickled, and used after a fork: each process opens its own files.

    Reading raises AbsentShardError when a needed shard is not on this machine (it is never read as zeros) and
    DamagedShardError when an index or a chunk fails its checksum; voxels that the image stores as missing chunks are 0.
    """

    def __init__(
        self,
        images: Path | Image | Sequence[Path | Image],
        shape: Index,
        plan: Plan,
        *,
        level: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        open_shards: int = OPEN_SHARDS,
    ) -> None:
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise NisslError(f"a patch has a shape (y, x) or (z, y, x) of at least one voxel, not {shape}")
        self.level = level
        self._threads = threads
        self._open_shards = open_shards
        several = [images] if isinstance(images, Path | Image) else list(images)
        self._sections, self.dtype, channels = _sections_of(several, level)
        self._flat = len(shape) == 2
        self._box: Index = (1, *shape)[-3:]
        self._voxels: Index = channels + self._box
        self.patch_shape: Index = channels + tuple(shape)
        """Of one patch as it is read, channels first: (y, x), (z, y, x), (c, y, x) or (c, z, y, x)."""
        self._patches: Patches = plan_patches(
            [section.grid.array_shape[-3:] for section in self._sections],
            self._box,
            plan,
            epoch=epoch,
            rank=rank,
            world=world,
        )
        self._process: _Process | None = None

    def __len__(self) -> int:
        """Patches of this rank."""
        return len(self._patches)

    def __getitem__(self, index: SupportsIndex) -> NDArray[Any]:
        """Patch `index`, of `patch_shape`. Raises IndexError beyond the last, as sequences do."""
        voxels: NDArray[Any] = self.read_batch([operator.index(index)], threads=self._threads)[0]
        return voxels

    def __getitems__(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        """Several patches at once: what torch's DataLoader asks for where a dataset offers it."""
        return list(self.read_batch(indices, threads=self._threads))

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Every patch of this rank once, in order; within a torch DataLoader's worker, only that worker's."""
        share = self._patches.share(*_torch_worker())
        for first in range(0, len(share), READ_AHEAD):
            yield from self.read_batch(share[first : first + READ_AHEAD], threads=self._threads)

    def read_batch(
        self, indices: Sequence[int], out: NDArray[Any] | None = None, threads: int | None = None
    ) -> NDArray[Any]:
        """The patches with these indices, shape (len(indices), *patch_shape), in `out` where it is given.

        Each inner chunk that the batch needs is read and decoded once, by one of `threads` threads; what is read does
        not depend on their number. After an error the content of `out` is undefined.
        """
        shape = (len(indices), *self.patch_shape)
        if out is None:
            out = np.empty(shape, dtype=self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.writeable:
            raise NisslError(f"the buffer is {out.dtype} {out.shape}, this batch is {self.dtype} {shape}")
        whole = range(len(self))
        places = self._patches.places([whole[index] for index in indices])
        needed = needed_chunks([section.grid for section in self._sections], places, self._voxels[-3:])
        # A plane of z is dropped from a patch (y, x); this puts it back, as a view of the same memory.
        self._here().read(needed, np.expand_dims(out, -3) if self._flat else out, threads or self._threads)
        return out

    def place(self, index: int) -> PatchPlace:
        """Where patch `index` comes from."""
        places: Places = self._patches.places([range(len(self))[index]])
        section = self._sections[int(places.sections[0])]
        start = (0,) * (len(self._voxels) - 3) + tuple(places.starts[0].tolist())
        stop = tuple(map(operator.add, start, self._voxels))
        return PatchPlace(section.image, self.level, Box(start, stop))

    def at_epoch(self, epoch: int) -> PatchReader:
        """The same reader with the patches of another epoch; files that are open stay so."""
        other = PatchReader.__new__(PatchReader)
        other.__dict__.update(self.__dict__, _patches=replace(self._patches, epoch=epoch))
        return other

    def close(self) -> None:
        """Close files and threads. Reading again opens them again."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def __enter__(self) -> PatchReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def _here(self) -> _Process:
        """Files and threads of this process: a fork copies neither threads nor the state of locks to rely on."""
        if self._process is None or self._process.pid != os.getpid():
            self._process = _Process(self._sections, self.dtype, self._open_shards)
        return self._process


class _Process:
    """Open shards and threads of one reader in one process."""

    def __init__(self, sections: Sequence[_Section], dtype: np.dtype[Any], open_shards: int) -> None:
        self.pid = os.getpid()
        self._sections = sections
        self._little_endian = dtype.newbyteorder("<")
        self._limit = open_shards
        self._lock = threading.Lock()
        self._shards: collections.OrderedDict[tuple[int, Index], ShardReader | None] = collections.OrderedDict()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def read(self, needed: Sequence[NeededChunk], out: NDArray[Any], threads: int) -> None:
        """Fill `out`, shape (patches, *patch with z), from these chunks."""
        work = collections.deque(needed)
        helpers = min(threads, len(work)) - 1
        if helpers < 1:
            self._drain(work, out)
            return
        pool = self._helpers(helpers)
        running = [pool.submit(self._drain, work, out) for _ in range(helpers)]
        try:
            self._drain(work, out)
        finally:
            # Nobody may write into the caller's buffer any more once this returns, or raises.
            errors = [error for one in running if (error := one.exception()) is not None]
        if errors:
            raise errors[0]

    def close(self) -> None:
        with self._lock:
            self._shards.clear()
            pool, self._pool = self._pool, None
        if pool is not None:
            pool[1].shutdown()

    def _drain(self, work: collections.deque[NeededChunk], out: NDArray[Any]) -> None:
        """Read chunks until none is left."""
        try:
            while True:
                try:
                    needed = work.popleft()
                except IndexError:
                    return
                self._read_chunk(needed, out)
        except BaseException:
            work.clear()  # the other threads need not go on
            raise

    def _read_chunk(self, needed: NeededChunk, out: NDArray[Any]) -> None:
        grid = self._sections[needed.section].grid
        shard = self._shard(needed.section, needed.shard)
        itemsize = self._little_endian.itemsize
        buffer = thread_buffer("voxels", math.prod(grid.chunk_shape) * itemsize)
        wanted = itemsize * needed.voxels_up_to_the_last(grid.chunk_shape)
        if shard is None or not shard.chunk_into(needed.chunk, buffer, wanted):
            for patch, target, _ in needed.pieces:
                out[patch][target] = 0
            return
        voxels = np.frombuffer(buffer, dtype=self._little_endian).reshape(grid.chunk_shape)
        for patch, target, source in needed.pieces:
            out[patch][target] = voxels[source]

    def _shard(self, section: int, shard: Index) -> ShardReader | None:
        """The shard's reader, None for a shard of fill value only, which has no file."""
        key = (section, shard)
        with self._lock:
            if key in self._shards:
                self._shards.move_to_end(key)
                return self._shards[key]
        of = self._sections[section]
        try:
            reader = ShardReader(shard_path(of.folder, shard), of.grid, of.codec)
        except FileNotFoundError:
            reader = None
        with self._lock:
            self._shards[key] = reader
            while len(self._shards) > self._limit:
                self._shards.popitem(last=False)  # closed when the last thread that reads from it lets it go
        return reader

    def _helpers(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool[0] < threads:
                self._pool = (threads, ThreadPoolExecutor(threads, thread_name_prefix="nissl-patches"))
            return self._pool[1]


def _sections_of(
    images: Sequence[Path | Image], level: int
) -> tuple[tuple[_Section, ...], np.dtype[Any], tuple[int, ...]]:
    """The sections, and the data type and the shape of the channels that they share."""
    if not images:
        raise NisslError("there is no image to read patches from")
    opened = [image if isinstance(image, Image) else open_image(image) for image in images]
    kinds = []
    for image in opened:
        if not 0 <= level < len(image.levels):
            raise NisslError(f"{image.folder} has no level {level}: its levels are 0 to {len(image.levels) - 1}")
        one = image.levels[level]
        kinds.append((image.axes, one.shape[:-3], one.dtype))
        if kinds[-1] != kinds[0]:
            axes, channels, dtype = kinds[-1]
            raise NisslError(
                f"{image.folder} has axes {axes}, channels {channels} and voxels of {dtype}, "
                f"{opened[0].folder} has {kinds[0][0]}, {kinds[0][1]} and {kinds[0][2]}: read them apart"
            )
    levels = [image.levels[level] for image in opened]
    sections = tuple(
        _Section(image.folder, one.folder, one.grid, one.codec) for image, one in zip(opened, levels, strict=True)
    )
    _, channels, dtype = kinds[0]
    return sections, dtype, channels


def _torch_worker() -> tuple[int, int]:
    """(number, count) of this worker process of a DataLoader; (0, 1) outside of one."""
    data = sys.modules.get("torch.utils.data")  # a worker of torch has imported it; nobody else needs it
    worker = None if data is None else data.get_worker_info()
    return (0, 1) if worker is None else (worker.id, worker.num_workers)
