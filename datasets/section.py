"""One section's dataset: created, and images put into it whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nissl.datasets import bids
from nissl.datasets.annex_keys import key_of_link, key_of_pointer, key_size
from nissl.datasets.brain import new_dataset
from nissl.datasets.git import annex, annex_records, git, remove_stale_locks
from nissl.datasets.locks import exclusive
from nissl.datasets.names import ImageName
from nissl.errors import NisslError
from nissl.formats.image import open_image
from nissl.formats.shards import write_json
from nissl.formats.virtual import write_virtual

Added = Callable[[int], None]
"""Called with the bytes of each shard that has entered the annex."""


class SectionError(NisslError):
    """A section whose state does not allow what was asked."""


def create_section(folder: Path, image: ImageName) -> None:
    """Create the dataset of a new section in `folder`, a BIDS dataset of its own, still without an image."""
    new_dataset(folder, f"section {image.sample} of subject {image.subject}")
    # Unlocked in every clone: an absent shard is then a pointer file, which Zarr readers refuse; a dangling link they
    # would read as zeros.
    annex(folder, "config", "--set", "annex.addunlocked", "true")
    (folder / "README.md").write_text(bids.section_readme(image), encoding="utf-8")
    (folder / ".bidsignore").write_text(bids.IGNORED, encoding="utf-8")
    write_json(folder / "dataset_description.json", bids.description(f"Section {image.sample}", "raw"))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", f"Create section {image.sample} of subject {image.subject}")


def dataset_id(section: Path) -> str:
    return git(section, "config", "-f", ".datalad/config", "datalad.dataset.id").strip()


def has_image(section: Path, image: ImageName) -> bool:
    return (section / image.image).exists()


def read_record(section: Path, image: ImageName) -> dict[str, Any]:
    """The image's provenance record. Raises SectionError where it is missing or unreadable."""
    path = section / image.record
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SectionError(f"{path} cannot be read ({error}): restore it with `git checkout {image.record}`") from None
    if not isinstance(document, dict):
        raise SectionError(f"{path} is not a provenance record: restore it with `git checkout {image.record}`")
    return document


def tidy(section: Path) -> None:
    """Undo what a crash left of putting an image in: its files go back to the last commit."""
    with exclusive(_lock(section)):
        _tidy(section)


def _tidy(section: Path) -> None:
    marker = _marker(section)
    if not marker.exists():
        return
    remove_stale_locks(section)
    begun = json.loads(marker.read_text(encoding="utf-8"))
    if git(section, "rev-parse", "HEAD").strip() == begun["head"]:  # otherwise it was stopped after its commit
        origins = begun.get("origins", {})
        orphans = _objects_of(section, [*begun["paths"], *origins.values()]) - set(begun["objects"])
        for path, origin in origins.items():
            take_back(section / path, Path(origin))
        for path in begun["paths"]:
            _forget(section, path)
        # Before the old files are there again: git-annex takes one for the orphan, and empties it, where both have the
        # same size and were written within seconds.
        if orphans:
            annex(section, "dropkey", "--force", "--batch", text="".join(f"{key}\n" for key in sorted(orphans)))
        for path in begun["paths"]:
            if git(section, "ls-tree", "HEAD", "--", path):
                git(section, "checkout", "-q", "HEAD", "--", path)
    marker.unlink()


def take_back(image: Path, origin: Path) -> None:
    """Move an image that was being put into a section back to where it was built, if that still is a place.

    Its shards may be in the section's annex already (annex.thin: one file with two names); once the annex has dropped
    them, they are ordinary files again.
    """
    if not image.is_dir() or origin.exists() or not origin.parent.is_dir():
        return
    for path in image.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o200)  # git-annex takes this away while it reads a file
    image.rename(origin)


def _objects(section: Path) -> dict[tuple[int, int], str]:
    """The keys of the annexed content that is here, by the device and inode of its file."""
    found = {}
    for path in (section / ".git" / "annex" / "objects").glob("*/*/*/*"):
        state = path.stat()
        found[state.st_dev, state.st_ino] = path.name
    return found


def _objects_of(section: Path, paths: Sequence[str]) -> set[str]:
    """The keys whose content is one file with a file at or below `paths` (annex.thin).

    paths: within the section, or absolute.
    """
    objects = _objects(section)
    states = [file.stat() for path in paths for file in (section / path).rglob("*") if file.is_file()]
    return {objects[state.st_dev, state.st_ino] for state in states if (state.st_dev, state.st_ino) in objects}


def require_clean(section: Path) -> None:
    """Raises SectionError where the section has changes that nobody has saved."""
    dirty = git(section, "status", "--porcelain", "--untracked-files=normal").splitlines()
    if dirty:
        raise SectionError(
            f"{section} has unsaved changes ({dirty[0].strip()}): run `datalad save` there, or undo them first"
        )


def put_image(
    section: Path,
    image: ImageName,
    built: Path,
    voxel_size_um: tuple[float, float, float],
    record: dict[str, Any],
    quality: dict[str, Any],
    sheet: bytes,
    message: str,
    added: Added = lambda _: None,
) -> None:
    """Move the finished image at `built` into the section, in the place of an earlier one, and commit it.

    built: on the section's file system. sheet: a PNG of all planes. Whatever stops this, the section is the old or the
    new one after `tidy`; where it is the old one, the finished image is back at `built`, if its folder is still there.
    """
    with changing(section, [str(path) for path in image.paths], {str(image.image): built}):
        (section / image.folder).mkdir(parents=True, exist_ok=True)
        built.rename(section / image.image)
        with open_image(section / image.image) as opened:
            write_virtual(section / image.virtual, opened)
        write_json(section / image.sidecar, bids.sidecar(image, voxel_size_um))
        write_json(section / image.record, record)
        write_json(section / image.quality, quality)
        (section / image.sheet).write_bytes(sheet)
        for name, change in (("participants.tsv", bids.with_participant), ("samples.tsv", bids.with_sample)):
            table = section / name
            text = table.read_text(encoding="utf-8") if table.exists() else ""
            argument: Any = image.subject if name == "participants.tsv" else image
            changed = change(text, argument)
            if changed != text:
                table.write_text(changed, encoding="utf-8")
        commit(section, message, added)


def commit(section: Path, message: str, added: Added = lambda _: None) -> None:
    """Commit all that has changed in the section, shards to the annex."""
    # Without --jobs: with it git-annex hangs for ever, our lock in its hands, when who reads its records is killed.
    for entry in annex_records(section, "add", "."):
        added(key_size(entry.get("key") or "") or 0)
    # Only a filter that is required is given the file to read; for any other git maps whole shards into its memory.
    git(section, "-c", "filter.annex.required=true", "commit", "-q", "-F", "-", text=message)


@contextlib.contextmanager
def changing(section: Path, paths: Sequence[str], origins: Mapping[str, Path] | None = None) -> Iterator[None]:
    """Take `paths` out of the section, for the caller to put new ones in their place and `commit`.

    origins: where new ones come from, by path, and go back to. Whatever stops that, the section is the old or the new
    one after `tidy`. Raises SectionError where it has unsaved
    changes.
    """
    with exclusive(_lock(section)):
        _tidy(section)
        require_clean(section)
        # The work tree's file and the annexed object are one file with two names: no second copy of a section.
        git(section, "config", "annex.thin", "true")
        write_json(
            _marker(section),
            {
                "head": git(section, "rev-parse", "HEAD").strip(),
                "paths": list(paths),
                "objects": sorted(_objects(section).values()),
                "origins": {path: str(origin) for path, origin in (origins or {}).items()},
            },
        )
        try:
            for path in paths:
                _forget(section, path)
            yield
        except BaseException:
            _tidy(section)
            raise
        _marker(section).unlink()
        # Loose objects are an inode each: some 150 a section, a million in a brain.
        git(section, "gc", "--quiet")


def image_bytes(section: Path, image: ImageName) -> int:
    """Bytes of the image's files, also of those whose content is elsewhere."""
    return sum(_size(path) for path in (section / image.image).rglob("*") if path.is_file() or path.is_symlink())


def _size(path: Path) -> int:
    """The file's size, or that of the content that it stands for."""
    if path.is_symlink():
        key = key_of_link(str(path.readlink()))
    else:
        with path.open("rb") as file:
            key = key_of_pointer(file.read(1000))
    size = key_size(key) if key else None
    return path.stat().st_size if size is None else size


def _lock(section: Path) -> Path:
    return section / ".git" / "nissl" / "lock"


def _marker(section: Path) -> Path:
    return section / ".git" / "nissl" / "putting.json"


def _forget(section: Path, path: str) -> None:
    git(section, "rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", path)
    target = section / path
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
