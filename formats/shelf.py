"""The shards that a region fills, the parts of shards where it covers only some of one, and how parts become whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from nissl.formats.grid import Index
from nissl.formats.image import shard_path
from nissl.formats.image_plan import ImagePlan
from nissl.formats.regions import Region
from nissl.formats.shards import ShardReader, ShardWriter, sync_folder
from nissl.formats.written import WrittenFile

_PARTS = ".parts"

Joined = Callable[[WrittenFile], None]
"""Called with each shard that has been joined, when it is durable."""


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
            writer = ShardWriter(path, grid, shard, plan.dtype, plan.codec, plan.identity(level), within=self._folder)
            self._writers[level, shard] = writer
        writer.write_stored(within, stored)

    def close(self, may: Callable[[], None] = lambda: None) -> list[Path]:
        """Publish the shards and parts, and return their paths. may: called before each, to stop it by an exception."""
        published = []
        for writer in self._writers.values():
            may()
            if writer.close():
                published.append(writer.path)
        return published

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


def joined_name(name: str) -> str | None:
    """The name, within the image, of the shard that a part with this name becomes part of; None where it is no part."""
    if not name.startswith(f"{_PARTS}/"):
        return None
    _, level, shard, _ = name.split("/")
    return shard_path(Path(level), tuple(map(int, shard.split("-")))).as_posix()


def join_parts(folder: Path, plan: ImagePlan, have: Collection[str] = (), joined: Joined | None = None) -> None:
    """Make whole shards of the parts that several regions wrote, copying compressed chunks as they are.

    The parts of a shard stay until it is durable and `joined` has been told; so this can be stopped at any moment and
    done again. have: names of shards that an earlier run has joined; parts of them that were written again are not
    needed, and may be a few of many.
    """
    parts = folder / _PARTS
    if not parts.exists():
        return
    for level_folder in sorted(parts.iterdir()):
        level = int(level_folder.name)
        for shard_folder in sorted(level_folder.iterdir()):
            shard = tuple(map(int, shard_folder.name.split("-")))
            target = shard_path(folder / str(level), shard)
            if target.relative_to(folder).as_posix() not in have:
                whole = [part for part in sorted(shard_folder.iterdir()) if not part.name.startswith(".")]
                _join(whole, target, folder, plan, level, shard)
                if joined is not None and target.exists():
                    joined(WrittenFile.of(target, folder))
            shutil.rmtree(shard_folder)
    shutil.rmtree(parts)
    sync_folder(folder)


def _join(parts: list[Path], target: Path, folder: Path, plan: ImagePlan, level: int, shard: Index) -> None:
    grid = plan.grids[level]
    with ShardWriter(target, grid, shard, plan.dtype, plan.codec, plan.identity(level), within=folder) as writer:
        for part in parts:
            with ShardReader(part, grid) as reader:
                for chunk in grid.chunks_of(shard):
                    payload = reader.payload(chunk)
                    if payload is not None:
                        writer.write_chunk(chunk, payload)
