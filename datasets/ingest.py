"""A stack of planes becomes an image in a section of a brain: checked, with provenance, whole or not at all.

Everything is made in a folder inside the brain's `.git` and moved into place at the end. A run that is killed leaves
nothing in sight, and the same order goes on from what it has finished (`datasets/unfinished.py`).
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from nissl.datasets.brain import Brain, is_installed, is_recorded, register, require_saved
from nissl.datasets.git import require_identity, require_room
from nissl.datasets.locks import clear, exclusive, occupying
from nissl.datasets.names import ImageName
from nissl.datasets.provenance import Making, run_message, sources_of
from nissl.datasets.section import (
    create_section,
    dataset_id,
    has_image,
    image_bytes,
    put_image,
    read_record,
    tidy,
)
from nissl.datasets.sources import SourceFile, changes, checksum, stamp
from nissl.datasets.unfinished import discard, unfinished
from nissl.errors import NisslError, NoSpaceError
from nissl.formats.build import BUILDER_VERSION, build_image
from nissl.formats.codec import IMAGE_CODEC, Codec
from nissl.formats.contact_sheet import contact_sheet, overview
from nissl.formats.grid import CHUNK_EDGE, SHARD_EDGE
from nissl.formats.image import open_image
from nissl.formats.image_plan import ImagePlan, plan_image
from nissl.formats.journal import Journal, Lines
from nissl.formats.labels import list_labels
from nissl.formats.quality import QualityReport, report
from nissl.formats.sources import open_image_source, split_name
from nissl.formats.stack import PlaneSource, StackError
from nissl.formats.workers import Crew, LocalCrew

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total), in bytes.

Stages are `check` (sources against an image that is there), `verify` (what an interrupted run has finished), `write`
and `annex`; and `wait`, with nothing to count, where another run is making the same image. The first call of a stage
says where it starts.
"""


class IngestError(NisslError):
    """A section that already has this image, made from something else."""


@dataclass(frozen=True)
class Order:
    """What is to be ingested: files, and what the image is called and means."""

    files: tuple[Path, ...]
    """As `formats.sources.open_source` takes their names: `a.tif`, `a.npy`, `a.h5:raw`, `a.zarr`."""
    image: ImageName
    voxel_size_um: tuple[float, float, float]
    """(z, y, x)"""
    skip: frozenset[int] = frozenset()
    """Plane numbers, from 1, to leave out."""
    codec: Codec = IMAGE_CODEC
    chunk_edge: int = CHUNK_EDGE
    shard_edge: int = SHARD_EDGE
    """Edges of inner chunks and of shards in y and x, in voxels."""

    def settings(self) -> dict[str, Any]:
        _, dataset = split_name(str(self.files[0]))
        return {
            **({"dataset": dataset} if dataset else {}),
            "voxel_size_um": list(self.voxel_size_um),
            "skip": sorted(self.skip),
            "compression": self.codec.name,
            "chunk_edge": self.chunk_edge,
            "shard_edge": self.shard_edge,
        }

    def command(self) -> tuple[str, ...]:
        """The command line that repeats this in the section's root; it names files by absolute path."""
        options = ["--into", "../..", "--sample", self.image.sample, "--suffix", self.image.suffix]
        if self.image.stain is not None:
            options += ["--stain", self.image.stain]
        options += ["--pixel-size", *map(_length, self.voxel_size_um)]
        for plane in sorted(self.skip):
            options += ["--skip", str(plane)]
        options += ["--compression", self.codec.name]
        if (self.chunk_edge, self.shard_edge) != (CHUNK_EDGE, SHARD_EDGE):
            options += ["--chunk-edge", str(self.chunk_edge), "--shard-edge", str(self.shard_edge)]
        return ("nissl", "ingest", *(str(file.absolute()) for file in self.files), *options)


@dataclass(frozen=True)
class Ingested:
    """What became of an order."""

    status: str
    """`created`, `replaced`, `unchanged`, or `recorded` where only the brain did not know about it yet."""
    section: Path
    image: Path
    shape: tuple[int, ...]
    dtype: str
    levels: int
    nbytes: int
    warnings: tuple[str, ...]


def ingest(
    brain: Brain,
    order: Order,
    *,
    replace: bool = False,
    strict: bool = False,
    crew: Crew | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Ingested:
    """Make the image that `order` describes, in its section of `brain`.

    The same order again changes nothing; another one for the same image needs `replace`, which makes a new version.
    strict: refuse a stack that the quality report warns about. crew: who writes the voxels, by default all cores here.
    Where it is interrupted, whole regions of a large image are kept for the same order to go on with; the exception has
    a note that says how many.
    Raises StackError for a bad stack, IngestError where the image exists and is another, NoSpaceError on a full disk.
    """
    crew = crew or LocalCrew()
    require_identity(brain.path)
    clear(brain.bench)
    require_room(brain.path)
    if not all(length > 0 and math.isfinite(length) for length in order.voxel_size_um):
        sizes = " ".join(f"{length:g}" for length in order.voxel_size_um)
        raise IngestError(f"pixel size {sizes} is not a positive number of um on each axis: give z, y and x in um")
    if order.chunk_edge < 2 or order.chunk_edge % 2 or order.shard_edge < 1 or order.shard_edge % order.chunk_edge:
        raise IngestError(
            f"chunk edge {order.chunk_edge} and shard edge {order.shard_edge} do not fit: "
            "give an even chunk edge, and a shard edge that is a multiple of it"
        )
    require_saved(brain)
    if twice := [file for file, times in Counter(order.files).items() if times > 1]:
        raise StackError(f"{twice[0]} is named {order.files.count(twice[0])} times: name each plane once")
    source = open_image_source(list(map(str, order.files)), skip=order.skip, scratch=brain.unfinished)
    stamps = _stamps(source.files)
    place = brain.unfinished / order.image.stem
    with occupying(place, partial(progress, "wait", 0, 1)):
        known: tuple[SourceFile, ...] | None = None
        if _has_image(brain, order):
            known = _checksum(stamps, progress)
            if not _is_news(brain, order, known, replace):
                discard(place)
                return _finish(brain, order, "unchanged")
        plan = _plan(source, order)
        fingerprint = _fingerprint(plan, order, stamps)
        # The answer to the first two is another order; to a full disk there is none while this fills it.
        final = (StackError, IngestError, NoSpaceError)
        with unfinished(place, order.image, fingerprint, order.command(), final) as folder:
            return _make(brain, order, source, plan, folder, stamps, known, replace, strict, crew, progress)


def _make(
    brain: Brain,
    order: Order,
    source: PlaneSource,
    plan: ImagePlan,
    folder: Path,
    stamps: dict[Path, tuple[int, int]],
    known: tuple[SourceFile, ...] | None,
    replace: bool,
    strict: bool,
    crew: Crew,
    progress: Progress,
) -> Ingested:
    """Build the image in `folder` and put it into its section; arguments as of `_build`, `ingest`."""
    started = datetime.now(UTC)
    known, quality, sheet = _build(source, plan, folder, stamps, known, crew, progress)
    if strict and quality.warnings:
        more = f" (and {len(quality.warnings) - 1} more)" if len(quality.warnings) > 1 else ""
        raise IngestError(f"{quality.warnings[0]}{more}: scan it again, or ingest it as it is without --strict")
    making = Making(order.command(), known, order.settings(), started, datetime.now(UTC), crew.record)
    require_room(brain.path)
    with exclusive(brain.path / ".git" / "nissl" / f"{order.image.section.name}.lock"):
        # Somebody else may have made the section, or the image, while this one was being built.
        exists = _has_image(brain, order)
        if exists and not _is_news(brain, order, known, replace):
            return _finish(brain, order, "unchanged")
        fresh = not is_installed(brain, order.image)
        _put(brain, order, folder, making, quality, sheet, progress)
        try:
            return _finish(brain, order, "replaced" if exists else "created")
        except BaseException:
            if fresh and not is_recorded(brain, order.image):
                section = brain.section(order.image)
                section.rename(folder / section.name)
            raise


def _has_image(brain: Brain, order: Order) -> bool:
    section = brain.section(order.image)
    if not is_installed(brain, order.image):
        return False
    tidy(section)
    return has_image(section, order.image)


def _is_news(brain: Brain, order: Order, now: tuple[SourceFile, ...], replace: bool) -> bool:
    """Whether the image that is there differs from the one ordered. Raises IngestError where it may not be replaced."""
    section = brain.section(order.image)
    difference = _difference(section, order, now)
    if difference is not None and not replace:
        raise IngestError(
            f"{section.name} already has {order.image.image.name}, but {difference}: "
            "give --replace to make a new version of it (the old one stays in the history)"
        )
    labels = list_labels(section / order.image.image)
    if difference is not None and labels:
        raise IngestError(
            f"{order.image.image.name} has labels ({', '.join(labels)}) that describe its present voxels: "
            f"remove them with `git rm -r {order.image.image}/labels` and save that, then replace the image"
        )
    return difference is not None


def _put(
    brain: Brain,
    order: Order,
    folder: Path,
    making: Making,
    quality: QualityReport,
    sheet: bytes,
    progress: Progress,
) -> None:
    """Put the image that was built in `folder` into its section, a new one where there is none."""
    section = brain.section(order.image)
    installed = is_installed(brain, order.image)
    target = section if installed else folder / section.name
    if not installed:
        create_section(target, order.image)
    message = run_message(
        f"Ingest {len(quality.planes)} planes as {order.image.stem}",
        making,
        [str(path) for path in order.image.paths],
        dataset_id(target),
    )
    built = folder / order.image.image.name
    annexed = _Counter("annex", sum(path.stat().st_size for path in built.rglob("*") if path.is_file()), progress)
    annexed.add(0)
    record, judged = making.document(), quality.document()
    put_image(target, order.image, built, order.voxel_size_um, record, judged, sheet, message, annexed.add)
    annexed.finish()
    if not installed:
        section.parent.mkdir(exist_ok=True)
        target.rename(section)


class _Counter:
    """Adds up what a stage has done."""

    def __init__(self, stage: str, total: int, progress: Progress) -> None:
        self._stage, self._total, self._progress = stage, total, progress
        self._done = 0

    def add(self, amount: int) -> None:
        self._done += amount
        self._progress(self._stage, min(self._done, self._total), self._total)

    def finish(self) -> None:
        self._progress(self._stage, self._total, self._total)


def _checksum(stamps: dict[Path, tuple[int, int]], progress: Progress) -> tuple[SourceFile, ...]:
    counter = _Counter("check", sum(size for size, _ in stamps.values()), progress)
    counter.add(0)
    return checksum(list(stamps), counter.add)


def _difference(section: Path, order: Order, now: tuple[SourceFile, ...]) -> str | None:
    """How the image that is there differs from the one ordered, None where it does not."""
    record = read_record(section, order.image)
    try:
        found = changes(sources_of(record), now)
        settings = _settings_of(record)
    except (KeyError, TypeError):
        return f"{order.image.record} does not say from what"
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return f"made from other sources ({found[0]}{more})"
    for name, value in order.settings().items():
        if settings.get(name) != value:
            return f"with {name} {settings.get(name)} instead of {value}"
    return None


def _settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an order said when the image was made. Raises KeyError or TypeError where the record does not say it."""
    settings = dict(record["settings"])
    if "zstd_level" in settings:  # from before there was another compression
        settings["compression"] = f"zstd:{settings.pop('zstd_level')}"
    return settings


def _plan(source: PlaneSource, order: Order) -> ImagePlan:
    return plan_image(
        source,
        order.image.image.name,
        order.voxel_size_um,
        codec=order.codec,
        chunk_edge=order.chunk_edge,
        shard_edge=order.shard_edge,
    )


def _fingerprint(plan: ImagePlan, order: Order, stamps: dict[Path, tuple[int, int]]) -> dict[str, Any]:
    """All that decides what the image becomes."""
    return {
        "builder": BUILDER_VERSION,
        "plan": repr(plan),
        "settings": order.settings(),
        "sources": [[str(file), *stamp] for file, stamp in stamps.items()],
    }


def _build(
    source: PlaneSource,
    plan: ImagePlan,
    folder: Path,
    before: dict[Path, tuple[int, int]],
    known: tuple[SourceFile, ...] | None,
    crew: Crew,
    progress: Progress,
) -> tuple[tuple[SourceFile, ...], QualityReport, bytes]:
    """Build the image in `folder`, or what is missing of it there, checksumming the sources meanwhile.

    Returns the checksums, the quality report, and the contact sheet as a PNG.

    before: the sources' stamps when their checksums, or their structure, were first read.
    """
    planes, height, width = source.shape
    voxel_bytes = (source.channels or 1) * source.dtype.itemsize
    counter = _Counter("write", planes * height * width * voxel_bytes, progress)
    stopped = threading.Event()

    def unless_stopped(_: int) -> None:
        if stopped.is_set():
            raise InterruptedError("the build was stopped")

    with ThreadPoolExecutor(1) as background:
        journal = Lines(folder / "checksums.jsonl")
        checksums = None if known is not None else background.submit(checksum, source.files, unless_stopped, journal)
        try:
            quality = build_image(
                source,
                folder / plan.name,
                plan,
                crew=crew,
                progress=lambda voxels: counter.add(voxels * voxel_bytes),
                journal=Journal(folder, partial(progress, "verify")),
            )
            known = known if checksums is None else checksums.result()
        except BaseException:
            stopped.set()  # else an error would be heard of only when the last file was read
            raise
    assert known is not None  # noqa: S101 - one of the two branches above has set it
    changed = [file.name for file, stamp in _stamps(source.files).items() if before[file] != stamp]
    if changed:
        raise StackError(f"{changed[0]} changed while it was read: ingest the stack again when the scanner is done")
    with open_image(folder / plan.name) as image:
        seen = overview(image)
        windows = [channel["window"] for channel in image.ome["omero"]["channels"]]
    judged = report(quality, [(file.name, file.sha256) for file in known], seen.mean(axis=0))
    sheet = contact_sheet(seen, (windows[0]["start"], windows[0]["end"]), judged.flagged)
    return known, judged, sheet


def _stamps(files: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    return {file: stamp(file) for file in files}


def _finish(brain: Brain, order: Order, status: str) -> Ingested:
    """Record the section in its brain, also where an earlier run was killed before it could."""
    section = brain.section(order.image)
    with open_image(section / order.image.image) as image:
        first = image.levels[0]
        axes, levels = image.axes, len(image.levels)
    warnings = _warnings(section, order.image)
    nbytes = image_bytes(section, order.image)
    row = {
        "image": str(order.image.image),
        "subject": f"sub-{order.image.subject}",
        "sample": f"sample-{order.image.sample}",
        "stain": order.image.stain or "",
        "suffix": order.image.suffix,
        "axes": "".join(axes),
        "shape": "x".join(map(str, first.shape)),
        "dtype": first.dtype.name,
        "voxel_size_um": "x".join(map(_length, order.voxel_size_um)),
        "levels": str(levels),
        "bytes": str(nbytes),
        "quality_warnings": str(len(warnings)),
    }
    registered = register(brain, order.image, row)
    if status == "unchanged" and registered:
        status = "recorded"  # the section had it, but an earlier run was killed before it could tell the brain
    image_folder = section / order.image.image
    return Ingested(status, section, image_folder, first.shape, first.dtype.name, levels, nbytes, warnings)


def _length(um: float) -> str:
    """A length as people write it, without losing a digit: 5, 0.2273456."""
    return str(um).removesuffix(".0")


def _warnings(section: Path, image: ImageName) -> tuple[str, ...]:
    document = json.loads((section / image.quality).read_text(encoding="utf-8"))
    return tuple(document["warnings"])
