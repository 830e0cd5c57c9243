"""Labels are put beside an image of a section: their pyramid, their index and their provenance, in one commit.

Everything is made in a folder inside the section's `.git` and moved into place at the end, as images are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nissl.datasets.brain import Brain, BrainError, open_brain, register, require_saved
from nissl.datasets.git import require_identity, require_room
from nissl.datasets.locks import exclusive, workshop
from nissl.datasets.names import SECTIONS, ImageName
from nissl.datasets.provenance import Making, run_message, sources_of
from nissl.datasets.section import Added, changing, commit, dataset_id, image_bytes, tidy
from nissl.datasets.sources import SourceFile, changes, checksum, stamp, total_bytes
from nissl.errors import NisslError
from nissl.formats import label_index
from nissl.formats.codec import ZstdCodec
from nissl.formats.image import open_image
from nissl.formats.label_files import absolute_name, open_label_files
from nissl.formats.label_index import build_label_index, open_label_index
from nissl.formats.labels import build_labels, check_labels_name, plan_labels, write_labels_list
from nissl.formats.shards import write_json
from nissl.formats.sources import split_name
from nissl.formats.stack import PlaneSource, StackError
from nissl.formats.workers import Crew, LocalCrew

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are `check`, `write`, `index` and `annex`, counted in bytes."""


class LabellingError(NisslError):
    """A section without the image, or an image that already has these labels, made from something else."""


@dataclass(frozen=True)
class LabelOrder:
    """Which labels are to be put beside which image."""

    files: tuple[str, ...]
    """As `formats.label_files.open_label_files` takes them: `seg.npy`, `seg.h5:labels`, `seg.zarr`, TIFF files."""
    image: ImageName
    name: str
    codec: ZstdCodec = field(default_factory=ZstdCodec)

    def __post_init__(self) -> None:
        check_labels_name(self.name)

    def settings(self) -> dict[str, Any]:
        return {"dataset": split_name(self.files[0])[1], "zstd_level": self.codec.level}

    def command(self) -> tuple[str, ...]:
        """The command line that repeats this in the section's root; it names files by absolute path."""
        options = ["--image", self.image.stem, "--name", self.name]
        if self.codec != ZstdCodec():
            options += ["--zstd-level", str(self.codec.level)]
        return ("nissl", "labels", "add", ".", *map(absolute_name, self.files), *options)


@dataclass(frozen=True)
class Labelled:
    """What became of an order."""

    status: str
    """`created`, `replaced` or `unchanged`."""
    folder: Path
    shape: tuple[int, ...]
    dtype: str
    levels: int
    labels: int
    """How many there are, without background."""


def add_labels(
    section: Path,
    order: LabelOrder,
    *,
    replace: bool = False,
    crew: Crew | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Labelled:
    """Put the labels that `order` names beside their image in the dataset at `section`, and record them in its brain.

    The image's voxels need not be here. The same order again changes nothing; another one for the same labels needs
    `replace`. crew: who writes the voxels, by default all cores here.
    Raises StackError where the files hold no labels, LabelsError where they do not fit the image, LabellingError where
    the image is not here or has other labels of that name.
    """
    crew = crew or LocalCrew()
    section = section.absolute()
    if not (section / ".git").exists() or not (section / order.image.image / "zarr.json").exists():
        raise LabellingError(
            f"{section} has no image {order.image.stem}: give a section's dataset and one of its images"
        )
    require_identity(section)
    require_room(section)
    brain = _brain_of(section, order.image)
    if brain is not None:
        require_saved(brain)
    source = open_label_files(order.files, scratch=section / ".git" / "nissl" / "work")
    with exclusive(section / ".git" / "nissl" / f"{order.image.stem}_labels-{order.name}.lock"):
        tidy(section)
        known: tuple[SourceFile, ...] | None = None
        exists = (section / order.image.labels(order.name)).exists()
        if exists:
            known = _checksum(source, progress)
            difference = _difference(section, order, known)
            if difference is None:
                return _finish(section, order, brain, "unchanged")
            if not replace:
                raise LabellingError(
                    f"{order.image.image.name} already has labels {order.name}, but {difference}: "
                    "give --replace to make a new version of them (the old one stays in the history)"
                )
        with workshop(section / ".git" / "nissl" / "work") as bench:
            started = datetime.now(UTC)
            stamps = _stamps(source)
            known = known or _checksum(source, progress)
            built = _build(section, order, source, bench, crew, progress)
            if _stamps(source) != stamps:
                raise StackError(f"{source.files[0]} or its stack changed while it was read: add the labels again")
            making = Making(order.command(), known, order.settings(), started, datetime.now(UTC), crew.record)
            outputs = [str(order.image.labels(order.name)), str(order.image.labels_record(order.name))]
            message = run_message(
                f"Add labels {order.name} to {order.image.stem}", making, outputs, dataset_id(section)
            )
            require_room(section)
            total = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
            put_labels(
                section, order.image, order.name, built, making.document(), message, _counting("annex", total, progress)
            )
        return _finish(section, order, brain, "replaced" if exists else "created")


def put_labels(
    section: Path,
    image: ImageName,
    name: str,
    built: Path,
    record: dict[str, Any],
    message: str,
    added: Added = lambda _: None,
) -> None:
    """Move the finished labels at `built` beside their image, in the place of earlier ones, and commit them.

    built: on the section's file system. Whatever stops this, the section is the old or the new one after `tidy`.
    """
    target = section / image.labels(name)
    listed = image.image / "labels" / "zarr.json"
    with changing(section, [str(image.labels(name)), str(image.labels_record(name)), str(listed)]):
        target.parent.mkdir(exist_ok=True)
        built.rename(target)
        write_labels_list(section / image.image)
        write_json(section / image.labels_record(name), record)
        commit(section, message, added)


def _build(section: Path, order: LabelOrder, source: PlaneSource, bench: Path, crew: Crew, progress: Progress) -> Path:
    """Build the labels and their index in `bench`."""
    built = bench / order.name
    path = str(order.image.labels(order.name).relative_to(order.image.folder))
    with open_image(section / order.image.image) as image:
        plan = plan_labels(source, path, image.voxel_size_um, image=image, codec=order.codec)
    depth, height, width = source.shape
    total = depth * height * width * source.dtype.itemsize

    def in_bytes(count: Added) -> Added:
        return lambda voxels: count(voxels * source.dtype.itemsize)

    build_labels(
        source,
        built,
        plan,
        crew=crew,
        progress=in_bytes(_counting("write", total, progress)),
    )
    build_label_index(built, jobs=crew.cores, codec=order.codec, progress=in_bytes(_counting("index", total, progress)))
    return built


def _brain_of(section: Path, image: ImageName) -> Brain | None:
    """The brain that the section is part of, None for a section on its own."""
    root = section.parent.parent
    if section != root / SECTIONS / section.name or not (root / ".git").exists():
        return None
    try:
        brain = open_brain(root)
    except BrainError:
        return None
    return brain if brain.section(image) == section else None


def _difference(section: Path, order: LabelOrder, now: tuple[SourceFile, ...]) -> str | None:
    """How the labels that are there differ from those ordered, None where they do not."""
    path = section / order.image.labels_record(order.name)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, settings = changes(sources_of(record), now), record["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} does not say from what"
    if found:
        return f"made from other sources ({found[0]})"
    for name, value in order.settings().items():
        if settings.get(name) != value:
            return f"with {name} {settings.get(name)} instead of {value}"
    if not (section / order.image.labels(order.name) / label_index.FOLDER / "zarr.json").exists():
        return "without an index"
    return None


def _finish(section: Path, order: LabelOrder, brain: Brain | None, status: str) -> Labelled:
    """Record the section's commit in its brain, also where an earlier run was killed before it could."""
    if brain is not None:
        nbytes = image_bytes(section, order.image)
        register(brain, order.image, {"image": str(order.image.image), "bytes": str(nbytes)})
    folder = section / order.image.labels(order.name)
    with open_image(folder) as image, open_label_index(folder) as index:
        level = image.levels[0]
        return Labelled(status, folder, level.shape, level.dtype.name, len(image.levels), len(index.ids))


def _checksum(source: PlaneSource, progress: Progress) -> tuple[SourceFile, ...]:
    return checksum(source.files, _counting("check", total_bytes(source.files), progress))


def _stamps(source: PlaneSource) -> list[tuple[int, int]]:
    return [stamp(file) for file in source.files]


def _counting(stage: str, total: int, progress: Progress) -> Added:
    """A function that adds up what it is told, and tells it on."""
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        done += amount
        progress(stage, min(done, total), total)

    return count
