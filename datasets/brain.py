"""A brain: the superdataset that names its sections, with a catalogue of all their images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nissl.datasets import bids, tables
from nissl.datasets.git import GitError, datalad, git, remove_stale_locks, require_identity, require_room
from nissl.datasets.locks import exclusive, workshop
from nissl.datasets.names import ImageName, check_label
from nissl.errors import NisslError

_CONFIG = PurePosixPath(".datalad", "config")
_RECORDS = ("samples.tsv", "catalogue.tsv", ".gitmodules")


class BrainError(NisslError):
    """A brain that cannot be created where it should be, or a folder that is none."""


@dataclass(frozen=True)
class Brain:
    """A brain's dataset on this machine."""

    path: Path
    subject: str

    @property
    def bench(self) -> Path:
        """Where work in progress lies: on the brain's own file system, out of sight of git."""
        return self.path / ".git" / "nissl" / "work"

    @property
    def unfinished(self) -> Path:
        """Where images wait whose ingest was interrupted."""
        return self.path / ".git" / "nissl" / "unfinished"

    @property
    def lock(self) -> Path:
        return self.path / ".git" / "nissl" / "lock"

    def section(self, image: ImageName) -> Path:
        return self.path / image.section


def create_brain(path: Path, subject: str) -> Brain:
    """Create the superdataset of a new brain at `path`, which must not exist (or be an empty folder)."""
    check_label("subject", subject)
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BrainError(f"{path} exists already and is not empty: choose another place for the brain, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_identity(path.parent)
    require_room(path.parent)
    with _creating(path) as folder:
        new_dataset(folder, f"brain of subject {subject}")
        _write(folder / "dataset_description.json", json.dumps(bids.description(path.name, "study"), indent=2) + "\n")
        _write(folder / "README.md", bids.brain_readme(path.name, subject))
        _write(folder / "samples.tsv", tables.render(bids.SAMPLES, []))
        _write(folder / "catalogue.tsv", tables.render(bids.CATALOGUE, []))
        _write(folder / ".bidsignore", bids.BRAIN_IGNORED)
        git(folder, "config", "-f", str(_CONFIG), "nissl.subject", subject)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"Create the brain of subject {subject}")
        folder.rename(path)
    return Brain(path, subject)


@contextlib.contextmanager
def _creating(path: Path) -> Iterator[Path]:
    """Where a brain is made before it is renamed to `path`: beside it, on the same file system."""
    bench = path.parent / f".{path.name}.creating"
    try:
        with workshop(bench) as folder:
            yield folder / "brain"
    finally:
        with contextlib.suppress(OSError):  # somebody else is creating the same brain
            (bench / ".lock").unlink(missing_ok=True)
            bench.rmdir()


def open_brain(path: Path) -> Brain:
    """The brain at `path`. Raises BrainError where there is none."""
    path = path.absolute()
    if not (path / ".git").exists():
        raise BrainError(f"{path} is not a brain: create one with `nissl brain create {path} --subject 01`")
    config = path / _CONFIG
    subject = (
        git(path, "config", "-f", str(config), "--default", "", "nissl.subject").strip() if config.exists() else ""
    )
    if not subject:
        raise BrainError(f"{path} is a dataset, but not a brain that Nissl created: it names no subject")
    return Brain(path, subject)


def new_dataset(folder: Path, description: str) -> None:
    """Create a DataLad dataset with our rules for what goes to git and what to the annex."""
    # datalad leaves both to git's configuration. Ours: `main` on every machine, and no sample hooks (14 inodes each).
    config = {"init.defaultBranch": "main", "init.templateDir": ""}
    datalad(folder.parent, "create", "--description", description, str(folder), config=config)
    _write(folder / ".gitattributes", bids.ATTRIBUTES)


def is_recorded(brain: Brain, image: ImageName) -> bool:
    """Whether the brain knows the section."""
    return _link(brain, image) is not None


def is_installed(brain: Brain, image: ImageName) -> bool:
    """Whether the section's dataset is here. Raises BrainError where it is only known by name, or is something else."""
    section = brain.section(image)
    if (section / ".git").exists():
        return True
    if _link(brain, image):
        raise BrainError(
            f"section sample-{image.sample} is part of this brain but not installed here: "
            f"run `datalad get -n {image.section}` in {brain.path} first"
        )
    if section.exists() and (not section.is_dir() or any(section.iterdir())):
        raise BrainError(f"{section} exists already and is not a dataset: move it away")
    return False


def require_saved(brain: Brain) -> None:
    """Raises BrainError where the tables that Nissl keeps in a brain have changes that nobody has saved."""
    with exclusive(brain.lock):
        _tidy(brain)
        _require_saved(brain)


def _require_saved(brain: Brain) -> None:
    changed = git(brain.path, "status", "--porcelain", "--", *_RECORDS).split()
    if changed:
        raise BrainError(
            f"{brain.path / changed[1]} has unsaved changes: run `datalad save` in {brain.path}, or undo them first"
        )


def register(brain: Brain, image: ImageName, row: Mapping[str, str]) -> bool:
    """Record the section's present commit and its image's catalogue row in the brain; returns whether that was news."""
    section, name = brain.section(image), str(image.section)
    commit = git(section, "rev-parse", "HEAD").strip()
    dataset_id = git(section, "config", "-f", str(_CONFIG), "datalad.dataset.id").strip()
    with exclusive(brain.lock):
        _tidy(brain)
        samples = _read(brain.path / "samples.tsv")
        catalogue = _read(brain.path / "catalogue.tsv")
        complete = {"section": name, "dataset_id": dataset_id, **row}
        new_samples = bids.with_sample(samples, image)
        new_catalogue = tables.with_row(catalogue, bids.CATALOGUE, complete, ("section", "image"))
        if (samples, catalogue, commit) == (new_samples, new_catalogue, _link(brain, image)):
            return False
        _require_saved(brain)
        paths = (*_RECORDS, name)
        _write(_marker(brain), json.dumps({"head": git(brain.path, "rev-parse", "HEAD").strip(), "section": name}))
        try:
            _write(brain.path / "samples.tsv", new_samples)
            _write(brain.path / "catalogue.tsv", new_catalogue)
            for key, value in (("path", name), ("url", f"./{name}"), ("datalad-id", dataset_id)):
                git(brain.path, "config", "-f", ".gitmodules", f"submodule.{name}.{key}", value)
            git(brain.path, "config", f"submodule.{name}.active", "true")
            git(brain.path, "config", f"submodule.{name}.url", f"./{name}")
            git(brain.path, "update-index", "--add", "--cacheinfo", f"160000,{commit},{name}")
            git(brain.path, "add", *_RECORDS)
            git(brain.path, "commit", "-q", "-m", f"Record {image.stem}", "--", *paths)
        except BaseException:
            _tidy(brain)
            raise
        _marker(brain).unlink()
    return True


def _tidy(brain: Brain) -> None:
    """Undo what a crash left of registering a section: the brain's own files go back to the last commit."""
    marker = _marker(brain)
    if not marker.exists():
        return
    remove_stale_locks(brain.path)
    begun = json.loads(marker.read_text(encoding="utf-8"))
    if git(brain.path, "rev-parse", "HEAD").strip() == begun["head"]:  # otherwise it was stopped after its commit
        git(brain.path, "reset", "-q", "HEAD", "--", *_RECORDS, begun["section"])
        for name in _RECORDS:
            (brain.path / name).unlink(missing_ok=True)
            (brain.path / f".{name}.part").unlink(missing_ok=True)
            if git(brain.path, "ls-tree", "HEAD", "--", name):
                git(brain.path, "checkout", "-q", "HEAD", "--", name)
        if not git(brain.path, "ls-tree", "HEAD", "--", begun["section"]):
            with contextlib.suppress(GitError):  # it was stopped before this was written
                git(brain.path, "config", "--remove-section", f"submodule.{begun['section']}")
    marker.unlink()


def _marker(brain: Brain) -> Path:
    return brain.path / ".git" / "nissl" / "registering.json"


def _link(brain: Brain, image: ImageName) -> str | None:
    """The section's commit that the brain records in its index."""
    entry = git(brain.path, "ls-files", "--stage", "--", str(image.section)).split()
    return entry[1] if entry[:1] == ["160000"] else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
