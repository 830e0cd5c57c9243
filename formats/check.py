"""What is wrong with a shard or an image on disk: looked at, never changed.

The same chunks are named twice in a shard, by the Zarr index and by HDF5, and checked three times, by their codec's
checksum, HDF5's Fletcher-32 and the index's crc32c. A check compares the two and verifies the three, then compares
what the file says about itself with what the image's metadata says about it.

A shard that is not on this machine is absent, not damaged.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import h5py

from nissl.formats import ome
from nissl.formats.codec import HDF5_CHECKSUM_BYTES, Codec, PayloadError, hdf5_checksum
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.hdf5_view import Hdf5View, read_hdf5_view
from nissl.formats.image import Image, Level, NotAnImageError, open_image, shard_path
from nissl.formats.image_plan import ImagePlan
from nissl.formats.shard_index import index_nbytes, user_block_nbytes
from nissl.formats.shards import (
    DATASET,
    AbsentShardError,
    DamagedShardError,
    ShardIdentity,
    ShardReader,
    hdf5_shape,
)
from nissl.formats.workers import available_cores

SAMPLE = 16
"""Chunks of a shard that are read unless all are: enough to notice a disk that returns rubbish, not a single bit."""

_HDF5_FLETCHER32_FILTER = 3

Places = Mapping[Index, tuple[int, int]]
"""(offset, nbytes) of chunks, by their index within the shard."""

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""


class Part(StrEnum):
    """What of a file or a dataset is wrong, and so what can help."""

    INDEX = "index"
    """The user block with the Zarr index, which can be rebuilt from the HDF5 side."""
    CHUNK = "chunk"
    HDF5 = "hdf5"
    SHARD = "shard"
    """A whole file: unreadable, missing, or in a place where none belongs."""
    METADATA = "metadata"
    VIRTUAL = "virtual"
    ANNEX = "annex"
    DATASET = "dataset"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    path: Path
    chunk: Index | None
    """Index within the shard."""
    problem: str
    """What is wrong with `path`, as the end of a sentence that begins with it."""
    part: Part
    remedy: str = ""
    """What to do, where the one who found it knew."""

    @property
    def sentence(self) -> str:
        where = f"{self.path}" if self.chunk is None else f"{self.path}, chunk {self.chunk},"
        return f"{where} {self.problem}" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Checked:
    """What a check has found and how much it has looked at; the sum of two is that of both."""

    findings: tuple[Finding, ...] = ()
    absent: tuple[Path, ...] = ()
    """Shards that are not on this machine."""
    shards: int = 0
    """Shards that are here."""
    chunks: int = 0
    """Chunks that these hold."""
    chunks_read: int = 0
    """Of these, how many were read and verified."""

    def __add__(self, other: Checked) -> Checked:
        return Checked(
            self.findings + other.findings,
            self.absent + other.absent,
            self.shards + other.shards,
            self.chunks + other.chunks,
            self.chunks_read + other.chunks_read,
        )


def check_image(
    folder: Path,
    *,
    virtual: Path | None = None,
    sample: int | None = SAMPLE,
    jobs: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Checked:
    """Check the image, or the labels, in `folder`: metadata, every shard, and the virtual HDF5 file at `virtual`.

    sample: chunks to read of each shard, None for all. jobs: threads, all cores by default. Nothing is raised for
    damage: it is in the result.
    """
    try:
        image = open_image(folder)
    except NotAnImageError as error:
        text = str(error).removeprefix(f"{folder / 'zarr.json'} ").removeprefix(f"{folder} ")
        return Checked((Finding(folder / "zarr.json", None, text, Part.METADATA),))
    with image:
        checked = Checked((*metadata_findings(image), *_strays(image)))
        if virtual is not None:
            checked += Checked(tuple(_virtual_findings(virtual, image)))
        present = [
            (number, level, shard)
            for number, level in enumerate(image.levels)
            for shard in level.grid.shards()
            if os.path.lexists(level.shard_path(shard))
        ]
        with ThreadPoolExecutor(jobs or available_cores()) as pool:
            for done, (number, level, shard) in enumerate(present):
                progress(done, len(present))
                identity = identity_of(image, number)
                path = level.shard_path(shard)
                checked += check_shard(path, level, shard, identity, sample=sample, pool=pool)
        progress(len(present), len(present))
    return checked


def check_shard(
    path: Path,
    level: Level,
    shard: Index,
    identity: ShardIdentity,
    *,
    sample: int | None = SAMPLE,
    pool: ThreadPoolExecutor | None = None,
) -> Checked:
    """Check the file at `path` as the shard `shard` of `level`. It must exist, but its content may be absent.

    identity: what it should say about itself. sample: chunks to read, None for all.
    """
    grid, findings = level.grid, list[Finding]()
    named: Places | None = None
    try:
        with ShardReader(path, grid) as reader:
            named = reader.places()
    except AbsentShardError:
        return Checked(absent=(path,))
    except DamagedShardError:
        short = path.stat().st_size < index_nbytes(grid.chunk_count)
        why = "is too short for a Zarr index" if short else "has a Zarr index that contradicts its checksum"
        findings.append(Finding(path, None, why, Part.INDEX))
    except OSError as error:
        return Checked((Finding(path, None, f"cannot be read ({error.strerror})", Part.SHARD),), shards=1)
    view: Hdf5View | None = None
    try:
        view = read_hdf5_view(path)
    except DamagedShardError as error:
        why = str(error).removeprefix(f"HDF5 cannot read {path} ")
        findings.append(Finding(path, None, f"cannot be read as HDF5 {why}", Part.HDF5))
    size = path.stat().st_size
    places: dict[Index, tuple[int, int]] = {}
    if view is not None:
        findings += [Finding(path, None, problem, Part.HDF5) for problem in _hdf5_problems(view, level, shard)]
        findings += [
            Finding(path, None, problem, Part.HDF5) for problem in _identity_problems(view, grid, shard, identity)
        ]
        if size != view.end_of_file:
            problem = f"has {size} bytes, but HDF5 has written {view.end_of_file}"
            findings.append(Finding(path, None, problem, Part.HDF5))
        if _padding(path, grid, view).strip(b"\0"):
            problem = "has something else than zeros between its Zarr index and HDF5's part"
            findings.append(Finding(path, None, problem, Part.INDEX))
        if named is not None:
            findings += [
                Finding(path, chunk, problem, Part.INDEX) for chunk, problem in disagreements(named, view.places)
            ]
        places = view.places
    elif named is not None:
        places = {chunk: (offset, nbytes + HDF5_CHECKSUM_BYTES) for chunk, (offset, nbytes) in named.items()}
    part = Part.HDF5 if view is not None else Part.INDEX
    findings += [
        Finding(path, chunk, problem, part)
        for chunk, problem in misplaced(places, range(user_block_nbytes(grid.chunk_count), size), grid, shard)
    ]
    broken = {finding.chunk for finding in findings}
    wanted = [chunk for chunk in evenly(sorted(places), sample) if chunk not in broken or part is Part.HDF5]
    findings += _chunk_findings(path, {chunk: places[chunk] for chunk in wanted}, level, pool)
    return Checked(tuple(findings), shards=1, chunks=len(places), chunks_read=len(wanted))


def identity_of(image: Image, level: int) -> ShardIdentity:
    """What the shards of one level of an image say about themselves; of the array's path they say the end."""
    first, grids = image.levels[0], tuple(one.grid for one in image.levels)
    plan = ImagePlan(
        str(image.folder.absolute()),
        image.axes,
        first.dtype,
        image.voxel_size_um,
        first.codec,
        grids,
        halved_axes=len(halved_axes(image)),
    )
    return plan.identity(level)


def halved_axes(image: Image) -> tuple[str, ...]:
    """The axes that every level halves: y and x, in a volume z too."""
    depths = [level.shape[-3] for level in image.levels[:2]]
    return ome.SPATIAL if depths[-1] < depths[0] else ome.SPATIAL[1:]


def disagreements(named: Places, stored: Places) -> Iterator[tuple[Index, str]]:
    """Chunks about which the Zarr index (`named`) and HDF5 (`stored`, with Fletcher-32) differ, and how. Pure."""
    for chunk in sorted({*named, *stored}):
        if chunk not in named:
            yield chunk, "is stored for HDF5 but not named by the Zarr index"
        elif chunk not in stored:
            yield chunk, "is named by the Zarr index but not stored for HDF5"
        else:
            (offset, nbytes), (place, size) = named[chunk], stored[chunk]
            if (offset, nbytes) != (place, size - HDF5_CHECKSUM_BYTES):
                yield (
                    chunk,
                    f"is {nbytes} bytes at {offset} for Zarr, but {size - HDF5_CHECKSUM_BYTES} at {place} for HDF5",
                )


def misplaced(places: Places, room: range, grid: ShardGrid, shard: Index) -> Iterator[tuple[Index, str]]:
    """Chunks that lie outside the file's `room`, over another chunk, or outside the array. Pure."""
    real = set(grid.chunks_of(shard))
    end, before = room.start, None
    for chunk, (offset, nbytes) in sorted(places.items(), key=lambda item: item[1]):
        if chunk not in real:
            yield chunk, "lies outside the array"
        if offset < room.start or offset + nbytes > room.stop:
            yield chunk, f"should lie at {offset} to {offset + nbytes}, outside the file's {room.stop} bytes"
        elif offset < end:
            yield chunk, f"begins at {offset}, inside chunk {before}"
        if offset + nbytes > end:
            end, before = offset + nbytes, chunk


def evenly(chunks: Sequence[Index], count: int | None) -> list[Index]:
    """At most `count` of `chunks`, evenly spaced, with the first and the last; all where `count` is None. Pure."""
    if count is None or count >= len(chunks):
        return list(chunks)
    if count < 2:
        return list(chunks[:count])
    return [chunks[i * (len(chunks) - 1) // (count - 1)] for i in range(count)]


def metadata_findings(image: Image) -> list[Finding]:
    """Where the `zarr.json` of an image and of its levels contradict each other, or the format."""
    try:
        documents = [_document(level.folder / "zarr.json") for level in image.levels]
        group = _document(image.folder / "zarr.json")
    except (OSError, ValueError) as error:  # they were readable a moment ago
        return [Finding(image.folder / "zarr.json", None, f"cannot be read ({error})", Part.METADATA)]
    try:
        halved = len(halved_axes(image))
        problems = list(_group_problems(group, image))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return [Finding(image.folder / "zarr.json", None, f"is no OME-Zarr metadata ({error!r})", Part.METADATA)]
    found = [Finding(image.folder / "zarr.json", None, problem, Part.METADATA) for problem in problems]
    for number, (level, document) in enumerate(zip(image.levels, documents, strict=True)):
        above = image.levels[number - 1] if number else None
        problems = [*_array_problems(document, level, image.axes), *_pyramid_problems(level, above, halved)]
        found += [Finding(level.folder / "zarr.json", None, problem, Part.METADATA) for problem in problems]
    return found


def _group_problems(group: Mapping[str, Any], image: Image) -> Iterator[str]:
    said = image.ome
    multiscale = said["multiscales"][0]
    first, count = image.levels[0], len(image.levels)
    if multiscale.get("type") == "mode":
        expected = ome.label_document("", image.voxel_size_um, count, halved_axes(image))
    else:
        expected = ome.group_document("", image.axes, image.voxel_size_um, count, (), first.dtype)
    for key in ("zarr_format", "node_type"):
        if group.get(key) != expected[key]:
            yield f"says {key} {group.get(key)!r} instead of {expected[key]!r}"
    right = expected["attributes"]["ome"]
    wanted = right["multiscales"][0]
    if said.get("version") != right["version"]:
        yield f"says OME-Zarr version {said.get('version')!r} instead of {right['version']!r}"
    if multiscale["axes"] != wanted["axes"]:
        yield f"names the axes {multiscale['axes']} instead of {wanted['axes']}"
    for entry, correct in zip(multiscale["datasets"], wanted["datasets"], strict=True):
        if entry != correct:
            yield f"places level {correct['path']} by {entry} instead of {correct}"


def _array_problems(document: Mapping[str, Any], level: Level, axes: tuple[str, ...]) -> Iterator[str]:
    expected = ome.array_document(level.grid, level.dtype, level.codec, axes)
    for key, value in expected.items():
        if key != "attributes" and document.get(key) != value:
            yield f"says {key} {json.dumps(document.get(key))} instead of {json.dumps(value)}"


def _pyramid_problems(level: Level, above: Level | None, halved: int) -> Iterator[str]:
    if above is None:
        return
    half = (*above.shape[:-halved], *(math.ceil(n / 2) for n in above.shape[-halved:]))
    if level.shape != half:
        yield f"says shape {level.shape}, but half of the level above is {half}"
    if level.dtype != above.dtype:
        yield f"says type {level.dtype}, but the level above is {above.dtype}"


def _strays(image: Image) -> Iterator[Finding]:
    """Files among the shards that are none: what a crash or a hand has left there."""
    for level in image.levels:
        ours = {shard_path(level.folder, shard) for shard in level.grid.shards()}
        for path in sorted((level.folder / "c").rglob("*")):
            if path not in ours and not (path.is_dir() and not path.is_symlink()):
                yield Finding(path, None, "is no shard of this array", Part.SHARD, "move it away")


def _virtual_findings(path: Path, image: Image) -> Iterator[Finding]:
    """Where the virtual file does not show exactly the shards that there are."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            problems = list(_virtual_problems(file, path, image))
    except FileNotFoundError:
        problems = ["is missing: HDF5 programs open the image by it"]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        problems = [f"cannot be read as HDF5 ({str(error).partition(chr(10))[0]})"]
    for problem in problems:
        yield Finding(path, None, problem, Part.VIRTUAL)


def _virtual_problems(file: h5py.File, path: Path, image: Image) -> Iterator[str]:
    if (list(file.attrs["axes"]), tuple(file.attrs["voxel_size"])) != (list(image.axes), image.voxel_size_um):
        yield "says other axes or another voxel size than the image"
    levels = [str(number) for number in range(len(image.levels))]
    if sorted(file) != sorted(levels):
        yield f"has the datasets {sorted(file)}, but the image has the levels {levels}"
        return
    to_image = os.path.relpath(image.folder, path.parent)
    for name, level in zip(levels, image.levels, strict=True):
        dataset = file[name]
        if not dataset.is_virtual or (dataset.shape, dataset.dtype) != (level.shape, level.dtype.newbyteorder("<")):
            yield f"shows level {name} as {dataset.shape} {dataset.dtype}, but it is {level.shape} {level.dtype}"
            continue
        shown = {source.file_name.replace("%%", "%"): source for source in dataset.virtual_sources()}
        there = {}
        for shard in level.grid.shards():
            place = level.shard_path(shard)
            if os.path.lexists(place):
                there[str(Path(to_image, level.folder.name, place.relative_to(level.folder)))] = shard
        for missing in sorted(set(there) - set(shown)):
            yield f"does not show the shard {missing}"
        for lost in sorted(set(shown) - set(there)):
            yield f"shows the shard {lost}, which is gone"
        for both in sorted(set(shown) & set(there)):
            box, source = level.grid.shard_box(there[both]), shown[both]
            seen = [_selected(space) for space in (source.vspace, source.src_space)]
            if seen != [box, box.relative_to(box.start)] or source.dset_name != DATASET:
                yield f"shows the shard {both} in another place than {box}"


def _selected(space: h5py.h5s.SpaceID) -> Box:
    first, last = space.get_select_bounds()
    return Box(tuple(first), tuple(n + 1 for n in last))


def _hdf5_problems(view: Hdf5View, level: Level, shard: Index) -> Iterator[str]:
    grid = level.grid
    used = level.codec.hdf5(level.dtype, math.prod(grid.chunk_shape) * level.dtype.itemsize)
    pairs = (
        ("shape", view.shape, hdf5_shape(grid, shard)),
        ("chunk shape", view.chunk_shape, grid.chunk_shape),
        ("type", view.dtype, level.dtype.newbyteorder("<")),
        ("filters", view.filters, (used.number, _HDF5_FLETCHER32_FILTER)),
        ("user block", view.user_block_nbytes, user_block_nbytes(grid.chunk_count)),
        ("chunks without a filter", view.unfiltered, ()),
    )
    for what, said, right in pairs:
        if said != right:
            yield f"has in HDF5 {what} {said} instead of {right}"


def _identity_problems(view: Hdf5View, grid: ShardGrid, shard: Index, identity: ShardIdentity) -> Iterator[str]:
    box = grid.shard_box(shard)
    array = view.attributes.get("array")
    if not (isinstance(array, str) and array.count("/") and f"/{identity.array}".endswith(f"/{array}")):
        yield f"says in its attribute 'array' {array!r}, but lies at {identity.array}"
    expected = {
        "level": identity.level,
        "axes": list(identity.axes),
        "voxel_size": list(identity.voxel_size_um),
        "voxel_size_unit": "micrometer",
        "origin": list(box.start),
        "extent": list(box.shape),
        "array_shape": list(grid.array_shape),
    }
    for name, right in expected.items():
        said = view.attributes.get(name)
        if said != right:
            yield f"says in its attribute {name!r} {said!r}, but the image says {right!r}"


def _padding(path: Path, grid: ShardGrid, view: Hdf5View) -> bytes:
    with path.open("rb") as file:
        start = index_nbytes(grid.chunk_count)
        return os.pread(file.fileno(), max(0, view.user_block_nbytes - start), start)


def _chunk_findings(path: Path, places: Places, level: Level, pool: ThreadPoolExecutor | None) -> list[Finding]:
    nbytes = math.prod(level.grid.chunk_shape) * level.dtype.itemsize
    with path.open("rb") as file:
        descriptor = file.fileno()

        def look(place: tuple[int, int]) -> str | None:
            return _chunk_problem(descriptor, place, nbytes, level.codec)

        problems = (map if pool is None else pool.map)(look, places.values())
        return [
            Finding(path, chunk, problem, Part.CHUNK)
            for chunk, problem in zip(places, problems, strict=True)
            if problem is not None
        ]


def _chunk_problem(descriptor: int, place: tuple[int, int], nbytes: int, codec: Codec) -> str | None:
    """What is wrong with the chunk that HDF5 has stored at `place`, whose voxels are `nbytes` bytes."""
    offset, size = place
    try:
        if size < HDF5_CHECKSUM_BYTES or offset + size > os.fstat(descriptor).st_size:
            return "lies beyond the end of the file"
        stored = os.pread(descriptor, size, offset)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if len(stored) != size:
        return "lies beyond the end of the file"
    payload, checksum = stored[:-HDF5_CHECKSUM_BYTES], stored[-HDF5_CHECKSUM_BYTES:]
    try:
        codec.decode(payload, nbytes)
    except PayloadError as error:
        return f"is damaged ({error})"
    if hdf5_checksum(payload) != checksum:
        return "is damaged for HDF5 (its Fletcher-32 checksum is wrong)"
    return None


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
