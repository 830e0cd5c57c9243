"""The shards that a region fills, the parts of shards where it covers only some of one, and how parts become whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from nissl.formats.grid import Index
from nissl.formats.image import shard_path
from nissl.formats.image_plan import ImagePlan
from nissl.formats.regions import Region
from nissl.formats.shards import ShardReader, ShardWriter, sync_folder

_PARTS = ".parts"


class Shelf:
    """The shards, or parts of shards, that one region writes; opened when their first chunk comes."""

    def __init__(self, folder: Path, plan: ImagePlan, region: Region) -> None:
        self._folder = folder
        self._plan = plan
        self._region = region
        self._writers: dict[tuple[int, Index], ShardWriter] = {}

    def write(self, level: int, chunk: Index, stored: bytes) -> None:
        """chunk: counted over the whole array of `level`; stored: its encoded bytes, HDF5's checksum behind them."""
        grid = self._plan.grids[level]
        shard, within = grid.locate(chunk)
        writer = self._writers.get((level, shard))
        if writer is None:
            path = self._path(level, shard)
            plan = self._plan
            writer = ShardWriter(path, grid, shard, plan.dtype, plan.codec, plan.identity(level))
            self._writers[level, shard] = writer
        writer.write_stored(within, stored)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()

    def _path(self, level: int, shard: Index) -> Path:
        box = self._plan.grids[level].shard_box(shard)
        mine = self._region.at(level)
        rows, columns = (range(a, b) for a, b in zip(box.start[-2:], box.stop[-2:], strict=True))
        if (
            mine.rows.start <= rows.start
            and rows.stop <= mine.rows.stop
            and (mine.columns.start <= columns.start and columns.stop <= mine.columns.stop)
        ):
            return shard_path(self._folder / str(level), shard)
        return self._folder / _PARTS / str(level) / "-".join(map(str, shard)) / self._region.name


def join_parts(folder: Path, plan: ImagePlan) -> None:
    """Make whole shards of the parts that several regions wrote, copying compressed chunks as they are."""
    parts = folder / _PARTS
    if not parts.exists():
        return
    for level_folder in sorted(parts.iterdir()):
        level = int(level_folder.name)
        grid = plan.grids[level]
        for shard_folder in sorted(level_folder.iterdir()):
            shard = tuple(map(int, shard_folder.name.split("-")))
            target = shard_path(folder / str(level), shard)
            with ShardWriter(target, grid, shard, plan.dtype, plan.codec, plan.identity(level)) as writer:
                for part in sorted(shard_folder.iterdir()):
                    with ShardReader(part, grid) as reader:
                        for chunk in grid.chunks_of(shard):
                            payload = reader.payload(chunk)
                            if payload is not None:
                                writer.write_chunk(chunk, payload)
    shutil.rmtree(parts)
    sync_folder(folder)
