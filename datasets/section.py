"""One section's dataset: created, and images put into it whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nissl.datasets import bids
from nissl.datasets.brain import new_dataset
from nissl.datasets.git import annex, annex_records, git
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
    # The work tree's file and the annexed object are one file with two names: no second copy of a section.
    git(folder, "config", "annex.thin", "true")
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
    marker = _marker(section)
    if not marker.exists():
        return
    for path in json.loads(marker.read_text(encoding="utf-8"))["paths"]:
        _forget(section, path)
        if git(section, "ls-tree", "HEAD", "--", path):
            git(section, "checkout", "-q", "HEAD", "--", path)
    marker.unlink()


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
    message: str,
    added: Added = lambda _: None,
) -> None:
    """Move the finished image at `built` into the section, in the place of an earlier one, and commit it.

    built: on the section's file system. Whatever stops this, the section is the old or the new one after `tidy`.
    """
    with exclusive(section / ".git" / "nissl" / "lock"):
        tidy(section)
        require_clean(section)
        write_json(_marker(section), {"paths": [str(path) for path in image.paths]})
        try:
            for path in image.paths:
                _forget(section, str(path))
            (section / image.folder).mkdir(parents=True, exist_ok=True)
            built.rename(section / image.image)
            with open_image(section / image.image) as opened:
                write_virtual(section / image.virtual, opened)
            write_json(section / image.sidecar, bids.sidecar(image, voxel_size_um))
            write_json(section / image.record, record)
            write_json(section / image.quality, quality)
            for name, change in (("participants.tsv", bids.with_participant), ("samples.tsv", bids.with_sample)):
                table = section / name
                text = table.read_text(encoding="utf-8") if table.exists() else ""
                argument: Any = image.subject if name == "participants.tsv" else image
                table.write_text(change(text, argument), encoding="utf-8")
            for entry in annex_records(section, "add", "."):
                added(int(entry["key"].split("-s")[1].split("-")[0]) if entry.get("key") else 0)
            git(section, "commit", "-q", "-F", "-", text=message)
        except BaseException:
            tidy(section)
            raise
        _marker(section).unlink()


def image_bytes(section: Path, image: ImageName) -> int:
    """Bytes of the image's files as they lie here."""
    return sum(path.stat().st_size for path in (section / image.image).rglob("*") if path.is_file())


def _marker(section: Path) -> Path:
    return section / ".git" / "nissl" / "putting.json"


def _forget(section: Path, path: str) -> None:
    git(section, "rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", path)
    target = section / path
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
