"""The label index: which label lies in which inner chunks, how many voxels it has, and between which corners.

It answers for a few reads what otherwise takes a look at every voxel. Beside the levels of the labels lies a group
`index` of lists (`formats.lists`), each a Zarr v3 array of uint64 in dual shards. By label, sorted, without background:

    ids            (labels)          the labels
    sizes          (labels)          voxels of level 0
    boxes          (labels, 2, 3)    first voxel and the one behind the last, (z, y, x), of level 0
    chunk_offsets  (labels + 1)      label number k lies in chunks[chunk_offsets[k]:chunk_offsets[k + 1]]
    chunks         (pairs)           inner chunks of level 0, numbered in C order over the whole array

and by inner chunk of level 0:

    label_offsets  (chunks + 1)      chunk number k holds labels[label_offsets[k]:label_offsets[k + 1]], sorted
    labels         (pairs)
    counts         (pairs)           voxels of that label in that chunk

The group's attribute `nissl.label_index` says for which array, and for which grid, it was made.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.codec import Codec
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.image import Level, open_image, read_document
from nissl.formats.lists import StoredList, open_list, write_list
from nissl.formats.shards import ShardReader, sync_folder, write_json
from nissl.formats.stream import Progress
from nissl.formats.workers import available_cores

FOLDER = "index"

_BATCH = 512  # chunks that are read before their shards are closed again
_PAIRS_AT_ONCE = 1 << 24  # (label, chunk) pairs sorted in memory, at 16 bytes each and as much again for sorting
_VERSION = 1
_LISTS = ("ids", "sizes", "boxes", "chunk_offsets", "chunks", "label_offsets", "labels", "counts")


class LabelIndexError(NisslError):
    """Labels without an index, or with that of other labels."""


class UnknownLabelError(NisslError):
    """A label that occurs nowhere."""


@dataclass(frozen=True)
class Tally:
    """Labels that occur somewhere, sorted by id, without background."""

    ids: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    """Voxels of each label."""
    boxes: NDArray[np.uint64]
    """Shape (labels, 2, 3): first voxel, and the one behind the last."""
    chunks: NDArray[np.uint64]
    """How many chunks each label lies in."""

    def __len__(self) -> int:
        return len(self.ids)


NOBODY = Tally(
    *(np.empty(shape, dtype=np.uint64) for shape in (0, 0, (0, 2, 3), 0)),
)
"""The tally of a place with background only."""


def tally(voxels: NDArray[Any], origin: Sequence[int] = (0, 0, 0)) -> Tally:
    """What occurs in one inner chunk. voxels: shape (z, y, x), at least one; origin: its first voxel. Pure.

    Counts runs along x instead of voxels: labels are smooth, a run is ten voxels and more.
    """
    starts = np.empty(voxels.shape, dtype=bool)
    starts[..., 0] = True
    np.not_equal(voxels[..., 1:], voxels[..., :-1], out=starts[..., 1:])
    first = np.flatnonzero(starts)
    ids = np.ascontiguousarray(voxels).ravel()[first]
    lengths = np.diff(first, append=voxels.size)
    labelled = ids != 0
    ids, first, lengths = ids[labelled], first[labelled], lengths[labelled]
    if not len(ids):
        return NOBODY
    order = np.argsort(ids, kind="stable")
    ids, first, lengths = ids[order], first[order], lengths[order]
    groups = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    places = np.stack(np.unravel_index(first, voxels.shape), axis=1)
    ends = places + 1
    ends[:, 2] += lengths - 1
    boxes = np.stack([np.minimum.reduceat(places, groups), np.maximum.reduceat(ends, groups)], axis=1)
    return Tally(
        ids[groups].astype(np.uint64),
        np.add.reduceat(lengths, groups).astype(np.uint64),
        (boxes + np.asarray(origin)).astype(np.uint64),
        np.ones(len(groups), dtype=np.uint64),
    )


def merge(tallies: Sequence[Tally]) -> Tally:
    """What occurs in several places that have no voxel and no chunk in common. Pure; the order does not matter."""
    ids = np.concatenate([NOBODY.ids, *(one.ids for one in tallies)])
    if not len(ids):
        return NOBODY
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    groups = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    boxes = np.concatenate([one.boxes for one in tallies])[order]
    corners = (np.minimum.reduceat(boxes[:, 0], groups), np.maximum.reduceat(boxes[:, 1], groups))
    return Tally(
        ids[groups],
        np.add.reduceat(np.concatenate([one.sizes for one in tallies])[order], groups),
        np.stack(corners, axis=1),
        np.add.reduceat(np.concatenate([one.chunks for one in tallies])[order], groups),
    )


def build_label_index(
    folder: Path, *, jobs: int | None = None, progress: Progress | None = None, codec: Codec | None = None
) -> None:
    """Write the index of the labels in `folder` (`labels/<name>` of an image), in the place of an earlier one.

    One pass over the voxels of level 0. Memory grows with the number of labels (about 200 bytes each) and of chunks
    (about 50), not with that of voxels; the lists lie beside the index while it is made, at 24 bytes for each label in
    each chunk. Raises AbsentShardError or DamagedShardError where a shard cannot be read; the earlier index then stays.
    """
    with open_image(folder) as image:
        level = image.levels[0]
    if len(level.shape) != 3 or level.dtype.name not in ("uint32", "uint64"):
        raise LabelIndexError(f"{folder} holds {level.dtype.name} voxels on {len(level.shape)} axes: not labels")
    target = folder / FOLDER
    making = folder / f".{FOLDER}.part"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        everything, label_offsets = _count(level, making, jobs or available_cores(), progress or (lambda _: None))
        labels = _spooled(making / "labels.spool")
        chunk_offsets = _offsets(everything.chunks)
        with (making / "chunks.spool").open("wb") as spool:
            for numbers in _transposed(everything.ids, chunk_offsets, labels, label_offsets):
                spool.write(numbers.tobytes())
        contents: dict[str, tuple[NDArray[np.uint64], tuple[str, ...]]] = {
            "ids": (everything.ids, ("label",)),
            "sizes": (everything.sizes, ("label",)),
            "boxes": (everything.boxes, ("label", "corner", "axis")),
            "chunk_offsets": (chunk_offsets, ("label",)),
            "chunks": (_spooled(making / "chunks.spool"), ("pair",)),
            "label_offsets": (label_offsets, ("chunk",)),
            "labels": (labels, ("pair",)),
            "counts": (_spooled(making / "counts.spool"), ("pair",)),
        }
        for name, (values, axes) in contents.items():
            write_list(making / name, values, axes, f"{folder.name}/{FOLDER}/{name}", codec=codec)
        for spooled in making.glob("*.spool"):
            spooled.unlink()
        write_json(making / "zarr.json", _group_document(level.grid))
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
        sync_folder(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _group_document(grid: ShardGrid) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "nissl": {
                "label_index": {
                    "version": _VERSION,
                    "array": "../0",
                    "array_shape": list(grid.array_shape),
                    "chunk_shape": list(grid.chunk_shape),
                    "chunks_per_axis": list(_chunks_per_axis(grid)),
                }
            }
        },
    }


def _chunks_per_axis(grid: ShardGrid) -> Index:
    return tuple(-(-n // c) for n, c in zip(grid.array_shape, grid.chunk_shape, strict=True))


def _count(level: Level, making: Path, jobs: int, progress: Progress) -> tuple[Tally, NDArray[np.uint64]]:
    """Tally every chunk; spools `labels` and `counts`, returns what occurs in all, and `label_offsets`."""
    per_chunk: list[int] = []
    merged, waiting = NOBODY, 0
    apart: list[Tally] = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        (making / "labels.spool").open("wb") as labels,
        (making / "counts.spool").open("wb") as counts,
    ):
        for found in _tallies(level, pool, progress):
            labels.write(found.ids.tobytes())  # not `tofile`, whose error on a full disk does not say so
            counts.write(found.sizes.tobytes())
            per_chunk.append(len(found))
            apart.append(found)
            waiting += len(found)
            if waiting > max(1 << 20, len(merged)):  # so each label is merged again only a few times
                merged, apart, waiting = merge([merged, *apart]), [], 0
    return merge([merged, *apart]), _offsets(np.array(per_chunk, dtype=np.uint64))


def _tallies(level: Level, pool: ThreadPoolExecutor, progress: Progress) -> Iterator[Tally]:
    """The tally of every inner chunk, in C order."""
    grid = level.grid
    everything = Box((0, 0, 0), level.shape)
    chunks = grid.chunks_in(everything)
    while batch := list(itertools.islice(chunks, _BATCH)):
        with ExitStack() as opened:
            readers: dict[Index, ShardReader | None] = {}
            for shard in {grid.locate(chunk)[0] for chunk in batch}:
                try:
                    readers[shard] = opened.enter_context(ShardReader(level.shard_path(shard), grid, level.codec))
                except FileNotFoundError:  # background only
                    readers[shard] = None
            found = pool.map(lambda chunk: _tally_chunk(readers[grid.locate(chunk)[0]], level, chunk), batch)  # noqa: B023
            for chunk, one in zip(batch, found, strict=True):
                yield one
                depth, height, width = grid.chunk_box(chunk).shape
                progress(depth * height * width)


def _tally_chunk(reader: ShardReader | None, level: Level, chunk: Index) -> Tally:
    voxels = None if reader is None else reader.chunk(level.grid.locate(chunk)[1], level.dtype)
    if voxels is None:
        return NOBODY
    box = level.grid.chunk_box(chunk)
    return tally(voxels[tuple(slice(0, n) for n in box.shape)], box.start)


def _offsets(counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(counts, dtype=np.uint64)])


def _spooled(path: Path) -> NDArray[np.uint64]:
    if not path.stat().st_size:  # nothing to map
        return np.empty(0, dtype=np.uint64)
    return np.memmap(path, dtype=np.uint64, mode="r")


def _transposed(
    ids: NDArray[np.uint64],
    chunk_offsets: NDArray[np.uint64],
    labels: NDArray[np.uint64],
    label_offsets: NDArray[np.uint64],
    limit: int = _PAIRS_AT_ONCE,
) -> Iterator[NDArray[np.uint64]]:
    """`chunks`, in pieces: the chunk numbers of the first labels, of the next ...

    Each piece takes one pass over `labels`, a memory map, so that no more than about `limit` pairs are in memory.
    """
    low = 0
    while low < len(ids):
        high = int(np.searchsorted(chunk_offsets, chunk_offsets[low] + np.uint64(limit), side="right")) - 1
        high = min(max(high, low + 1), len(ids))
        which, where = [], []
        for start in range(0, len(labels), limit):
            part = np.asarray(labels[start : start + limit])
            wanted = np.flatnonzero((part >= ids[low]) & (part <= ids[high - 1]))
            which.append(part[wanted])
            where.append(np.searchsorted(label_offsets, (wanted + start).astype(np.uint64), side="right") - 1)
        order = np.argsort(np.concatenate(which), kind="stable")
        yield np.concatenate(where)[order].astype(np.uint64)
        low = high


@dataclass(frozen=True)
class LabelIndex:
    """The index of some labels, opened; use as a context manager. Lookups take a few reads each, none scans."""

    folder: Path
    """The labels' folder."""
    level: Level
    """Level 0 of the labels: its voxels are read only to be exact about chunks that a box cuts."""
    ids: StoredList
    sizes: StoredList
    boxes: StoredList
    chunk_offsets: StoredList
    chunks: StoredList
    label_offsets: StoredList
    labels: StoredList
    counts: StoredList

    def size_of(self, label: int) -> int:
        """Voxels of `label` at level 0. Raises UnknownLabelError where it does not occur."""
        place = self._place(label)
        return int(self.sizes.read(place, place + 1)[0])

    def box_of(self, label: int) -> Box:
        """The smallest box of level 0, (z, y, x), that holds all of `label`. Raises UnknownLabelError."""
        place = self._place(label)
        start, stop = self.boxes.read(place, place + 1)[0].tolist()
        return Box(tuple(start), tuple(stop))

    def chunks_of(self, label: int) -> list[Index]:
        """The inner chunks of level 0 that hold `label`, in C order. Raises UnknownLabelError."""
        place = self._place(label)
        start, stop = self.chunk_offsets.read(place, place + 2).tolist()
        per_axis = _chunks_per_axis(self.level.grid)
        numbers = self.chunks.read(start, stop).astype(np.int64)
        return [tuple(chunk) for chunk in np.stack(np.unravel_index(numbers, per_axis), axis=1).tolist()]

    def labels_in(self, chunk: Index) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The labels in one inner chunk of level 0, sorted, and how many voxels each has there."""
        number = int(np.ravel_multi_index(chunk, _chunks_per_axis(self.level.grid)))
        start, stop = self.label_offsets.read(number, number + 2).tolist()
        return self.labels.read(start, stop), self.counts.read(start, stop)

    def ids_in_box(self, box: Box, *, exact: bool = True) -> NDArray[np.uint64]:
        """The labels that have a voxel in `box` (level 0, z y x), sorted.

        Chunks that lie inside the box are answered by the index. Of chunks that the box cuts, voxels are read where
        the index leaves a doubt; with exact=False none are read, and all labels of such a chunk are in the answer.
        Raises NisslError where the box is empty or reaches outside, AbsentShardError where a needed shard is not here.
        """
        if box.empty or box.intersect(Box((0, 0, 0), self.level.shape)) != box:
            shape = " x ".join(map(str, self.level.shape))
            raise NisslError(f"box {box} does not lie inside the labels, which are {shape}")
        layers, rows, columns = _whole_chunks(self.level.grid, box)
        sure, doubtful = [NOBODY.ids], []
        for chunk, ids, counts in self._labels_by_chunk(box):
            z, y, x = chunk
            whole = z in layers and y in rows and x in columns
            filled = len(ids) == 1 and int(counts[0]) == math.prod(self.level.grid.chunk_box(chunk).shape)
            if whole or filled or not exact:
                sure.append(ids)
            else:
                doubtful.append((chunk, ids))
        known = np.unique(np.concatenate(sure))
        found = [known]
        for chunk, ids in doubtful:
            if not np.isin(ids, known).all():
                voxels = self.level.read(self.level.grid.chunk_box(chunk).intersect(box))
                found.append(tally(voxels).ids)
        return np.unique(np.concatenate(found))

    def close(self) -> None:
        self.level.close()
        for stored in _lists_of(self):
            stored.close()

    def __enter__(self) -> LabelIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, label: int) -> int:
        place = self.ids.find(label)
        if place is None:
            raise UnknownLabelError(
                f"label {label} does not occur in {self.folder}: `nissl labels ids` lists what does"
            )
        return place

    def _labels_by_chunk(self, box: Box) -> Iterator[tuple[Index, NDArray[np.uint64], NDArray[np.uint64]]]:
        """What `labels_in` says of each chunk that touches `box`; chunks along x are read at once."""
        per_axis = _chunks_per_axis(self.level.grid)
        for row, chunks in itertools.groupby(self.level.grid.chunks_in(box), key=lambda chunk: chunk[:2]):
            columns = [chunk[2] for chunk in chunks]
            number = int(np.ravel_multi_index((*row, columns[0]), per_axis))
            offsets = self.label_offsets.read(number, number + len(columns) + 1).tolist()
            labels, counts = (stored.read(offsets[0], offsets[-1]) for stored in (self.labels, self.counts))
            for x, (start, stop) in zip(columns, itertools.pairwise(offsets), strict=True):
                here = slice(start - offsets[0], stop - offsets[0])
                yield (*row, x), labels[here], counts[here]


def _whole_chunks(grid: ShardGrid, box: Box) -> tuple[range, ...]:
    """Along each axis, the chunks that lie wholly inside `box`; those at the array's edge end there."""
    return tuple(
        range(-(-a // c), -(-b // c) if b == n else b // c)
        for a, b, c, n in zip(box.start, box.stop, grid.chunk_shape, grid.array_shape, strict=True)
    )


def _lists_of(index: LabelIndex) -> tuple[StoredList, ...]:
    return tuple(getattr(index, name) for name in _LISTS)


def open_label_index(folder: Path) -> LabelIndex:
    """The index of the labels in `folder` (`labels/<name>` of an image). Raises LabelIndexError where there is none."""
    level = open_image(folder).levels[0]
    place = folder / FOLDER
    if not (place / "zarr.json").exists():
        raise LabelIndexError(f"{folder} has no index: add the labels again with `nissl labels add`")
    try:
        said = read_document(place / "zarr.json")["attributes"]["nissl"]["label_index"]
        version, made_for = said["version"], (tuple(said["array_shape"]), tuple(said["chunk_shape"]))
    except (KeyError, TypeError) as error:
        raise LabelIndexError(f"{place} is not a label index ({error!r}): add the labels again") from None
    if version != _VERSION:
        raise LabelIndexError(f"{place} is a label index of version {version}: this Nissl reads {_VERSION}, update it")
    if made_for != (level.grid.array_shape, level.grid.chunk_shape):
        raise LabelIndexError(f"{place} was made for other labels than lie there now: add the labels again")
    return LabelIndex(folder, level, **{name: open_list(place / name) for name in _LISTS})
