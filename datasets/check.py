"""Whether a brain, a section, an image or a shard is what it should be: looked at, never changed.

The annex is asked for keys and sizes only; `full` also computes the checksum of what is here, as `git annex fsck` does,
but without changing what the annex believes. git's own `status` is not asked about shards: it would run git-annex's
filter over each, which takes a damaged file into the annex as if somebody had edited it.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nissl.datasets.annex_keys import key_checksum, key_of_pointer
from nissl.datasets.brain import open_brain
from nissl.datasets.check_documents import (
    bids_findings,
    catalogue_findings,
    description_findings,
    read_table,
    record_findings,
)
from nissl.datasets.git import GitError, annex, annex_records, git
from nissl.datasets.names import SECTIONS
from nissl.datasets.unfinished import Leftover, described, leftovers
from nissl.errors import NisslError
from nissl.formats.check import SAMPLE, Checked, Finding, Part, check_image, check_shard, identity_of
from nissl.formats.image import open_image
from nissl.formats.repair import rebuilt
from nissl.formats.shards import ANNEX_POINTER, sync_folder
from nissl.formats.workers import available_cores

Progress = Callable[[str, int, int], None]
"""Called with (what is checked, shards done, shards in all)."""

_SHARDS = ":(glob)**/*.ome.zarr/**/c/**"
_NOT_SHARDS = ":(exclude,glob)**/*.ome.zarr/**/c/**"
_BLOCK = 1 << 20


class CheckError(NisslError):
    """A path that is nothing that can be checked or repaired."""


class Kept(enum.Enum):
    """How a work tree's file and git-annex's object hang together."""

    NOT_ANNEXED = enum.auto()
    ONE_FILE = enum.auto()
    """Two names of one file (annex.thin), or a link to a locked object."""
    TWO_FILES = enum.auto()


@dataclass(frozen=True)
class AnnexedFile:
    """One file that the annex keeps: what should be there."""

    path: Path
    key: str
    nbytes: int | None
    object: Path
    """Where git-annex keeps the content, if it is here."""


@dataclass(frozen=True)
class Report:
    """What a check has found."""

    path: Path
    kind: str
    """`brain`, `section`, `image` or `shard`."""
    checked: Checked
    not_installed: tuple[str, ...] = ()
    """Sections that the brain records and that are not on this machine."""
    notes: tuple[str, ...] = ()
    """What somebody should know, though nothing is damaged."""

    @property
    def fine(self) -> bool:
        return not self.checked.findings


def check(path: Path, *, full: bool = False, jobs: int | None = None, progress: Progress = lambda *_: None) -> Report:
    """Check the brain, section, image or shard at `path`.

    full: read every chunk instead of a sample, and compare annexed content with its key's checksum. Raises CheckError
    where there is nothing to check; damage is not raised, it is in the report.
    """
    path = path.absolute()
    sample = None if full else SAMPLE
    kind = _kind(path)
    if kind == "brain":
        return _check_brain(path, full, jobs, progress)
    if kind == "section":
        return Report(path, kind, _advised(_check_section(path, full, jobs, progress)))
    if kind == "image":
        checked = _check_image(path, sample, jobs, progress)
        return Report(path, kind, _advised(checked))
    level, number, shard = _place_of(path)
    with open_image(level.parent) as image, ThreadPoolExecutor(jobs or available_cores()) as pool:
        identity = identity_of(image, number)
        checked = check_shard(path, image.levels[number], shard, identity, sample=sample, pool=pool)
    return Report(path, kind, _advised(checked))


def repair(path: Path, *, jobs: int | None = None) -> bool:
    """Rebuild the index of the shard at `path` from its HDF5 side; returns whether it needed that.

    In a dataset the result must be the very content that the annex recorded; then the annex has it again too. Raises
    RepairError where the HDF5 side is damaged as well, CheckError where `path` is no shard or would be another file.
    """
    path = path.absolute()
    if _kind(path) != "shard":
        raise CheckError(f"{path} is not a shard: `nissl check` says which ones are damaged")
    level, number, shard = _place_of(path)
    with (
        open_image(level.parent) as image,
        ThreadPoolExecutor(jobs or available_cores()) as pool,
        rebuilt(path, image.levels[number], shard, identity_of(image, number), pool=pool) as whole,
    ):
        if whole is None:
            return False
        dataset = _dataset_of(path)
        known = next(iter(annexed_files(dataset, path)), None) if dataset is not None else None
        if dataset is None or known is None:
            whole.rename(path)
        else:
            if _content_problem(whole, known) is not None:
                raise CheckError(
                    f"{path} can be rebuilt, but not as the file that the annex recorded: more than its index has "
                    "changed, use another copy"
                )
            _put_back(dataset, path, whole, known)
        sync_folder(path.parent)
    return True


def set_aside(path: Path) -> None:
    """Move the damaged shard at `path` into `.git/annex/bad`, so that `datalad get` brings another copy of it.

    Raises CheckError where no other copy is known: then the damaged one is all there is.
    """
    path = path.absolute()
    dataset = _dataset_of(path)
    known = next(iter(annexed_files(dataset, path)), None) if dataset is not None else None
    if dataset is None or known is None:
        raise CheckError(f"{path} is not in the annex of a dataset: put another copy of the file in its place")
    name = str(path.relative_to(dataset))
    if kept(known) is not Kept.TWO_FILES and not _elsewhere(dataset, name):
        raise CheckError(
            f"no other copy of {path} is known: keep it, most of its chunks may be whole, and make the image anew with "
            "`nissl ingest ... --replace`"
        )

    def as_recorded() -> None:
        path.unlink(missing_ok=True)  # or git would see that nothing has changed, and leave it
        git(dataset, "checkout", "-q", "--", name)

    # git-annex (10.20261026) takes damage to a file with two names (annex.thin) for somebody's edit, calls it fine and
    # leaves it: it looks at the object only after the work tree's name is gone, and leaves that name in any case.
    as_recorded()
    with contextlib.suppress(GitError):  # it fails where it finds what it is looking for
        annex(dataset, "fsck", "--quiet", "--", name)
    as_recorded()


def annexed_files(dataset: Path, *within: Path) -> Iterator[AnnexedFile]:
    """Every annexed file of a dataset, or those at or below `within`, here or not."""
    folder = Path(git(dataset, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    names = [f"./{path.relative_to(dataset)}" for path in within]
    for record in annex_records(dataset, "find", "--anything", *names):
        key = record["key"]
        size = record.get("bytesize", "")
        place = folder / "annex" / "objects" / record["hashdirmixed"] / key / key
        yield AnnexedFile(dataset / record["file"], key, int(size) if size.isdigit() else None, place)


def kept(file: AnnexedFile) -> Kept:
    """How a file of the work tree and its object hang together."""
    try:
        mine, annexed = file.path.stat(), file.object.stat()
    except OSError:
        return Kept.ONE_FILE
    return Kept.ONE_FILE if (mine.st_dev, mine.st_ino) == (annexed.st_dev, annexed.st_ino) else Kept.TWO_FILES


def advice(parts: frozenset[Part], path: Path, state: Kept) -> str:
    """What to do about one file in which `parts` are wrong. Pure."""
    if parts == {Part.INDEX}:
        return f"rebuild its index with `nissl repair {path}`"
    if parts & {Part.METADATA, Part.VIRTUAL}:
        return f"bring back what was committed with `git checkout -- {path.name}` in {path.parent}"
    if parts == {Part.DATASET}:
        return "look at it, then `datalad save` it or undo it"
    if state is Kept.NOT_ANNEXED:
        return "put another copy of the file in its place"
    return f"set it aside with `nissl repair --set-aside {path}`, then `datalad get {path}`"


def _advised(checked: Checked) -> Checked:
    """With a remedy for every finding that has none: one for all findings of a file."""
    parts: dict[Path, frozenset[Part]] = {}
    for finding in checked.findings:
        parts[finding.path] = parts.get(finding.path, frozenset()) | {finding.part}
    states: dict[Path, Kept] = {}
    for path, wrong in parts.items():
        states[path] = Kept.NOT_ANNEXED
        if wrong & {Part.CHUNK, Part.HDF5, Part.SHARD, Part.ANNEX, Part.INDEX} and (dataset := _dataset_of(path)):
            with contextlib.suppress(GitError):  # it is not in the index
                states[path] = next((kept(file) for file in annexed_files(dataset, path)), Kept.NOT_ANNEXED)
    return replace(
        checked,
        findings=tuple(
            f if f.remedy else replace(f, remedy=advice(parts[f.path], f.path, states[f.path]))
            for f in checked.findings
        ),
    )


def _check_image(path: Path, sample: int | None, jobs: int | None, progress: Progress) -> Checked:
    """An image and the labels beside it."""
    virtual = path.with_name(f"{path.name.removesuffix('.ome.zarr')}.h5")
    # Without one, nobody promised it: an image outside of a section. The section's check demands it.
    beside = virtual if virtual.exists() else None
    checked = Checked()
    if beside is not None and not _as_in_git(beside):
        # And not opened: HDF5 may never come back from a file of which it does not check every byte.
        checked = Checked((Finding(virtual, None, "is not what git has of it", Part.VIRTUAL),))
        beside = None
    checked += check_image(path, virtual=beside, sample=sample, jobs=jobs, progress=partial(progress, path.name))
    for document in sorted(path.glob("labels/*/zarr.json")):
        name = f"{path.name}/labels/{document.parent.name}"
        checked += check_image(document.parent, sample=sample, jobs=jobs, progress=partial(progress, name))
    return checked


def _check_section(section: Path, full: bool, jobs: int | None, progress: Progress) -> Checked:
    checked = Checked(tuple(_git_findings(section, full)))
    images = sorted(section.glob("sub-*/micr/*.ome.zarr"))
    checked += Checked(tuple(bids_findings(section, "raw", images)))
    checked += Checked(tuple(record_findings(section, images)))
    for folder in images:
        checked += _check_image(folder, None if full else SAMPLE, jobs, progress)
    return checked + _check_annex(section, full, progress)


def _check_brain(path: Path, full: bool, jobs: int | None, progress: Progress) -> Report:
    brain = open_brain(path)
    findings = [*_git_findings(path, full), *description_findings(path, "study")]
    catalogue, unreadable = read_table(path / "catalogue.tsv")
    findings += unreadable
    checked = Checked(tuple(findings))
    away = []
    recorded = _recorded_sections(path)
    for name, commit in recorded.items():
        section = path / name
        if not (section / ".git").exists():
            away.append(name)
            continue
        here = git(section, "rev-parse", "HEAD").strip()
        if here != commit:
            problem = f"is at {here[:10]}, but the brain records {commit[:10]}"
            remedy = (
                f"record it with `datalad save -d {path} {name}`, or go back with `git checkout {commit[:10]}` in it"
            )
            checked += Checked((Finding(section, None, problem, Part.DATASET, remedy),))
        checked += _check_section(section, full, jobs, progress)
        rows = [row for row in catalogue if row.get("section") == name]
        checked += Checked(tuple(catalogue_findings(path, section, rows)))
    for stranger in sorted((path / str(SECTIONS)).glob("*/.git")):
        if str(stranger.parent.relative_to(path)) not in recorded:
            problem = "is a dataset that the brain does not record"
            checked += Checked((Finding(stranger.parent, None, problem, Part.DATASET, "ingest it again or move it"),))
    return Report(path, "brain", _advised(checked), tuple(away), tuple(map(_note, leftovers(brain.unfinished))))


def _note(left: Leftover) -> str:
    return (
        f"ingest of {left.image} was interrupted, {described(left.kept)} are kept: go on with the same command "
        f"({left.plan} has it), or remove {left.folder}"
    )


def _recorded_sections(brain: Path) -> dict[str, str]:
    entries = (line.split(None, 3) for line in git(brain, "ls-files", "--stage", "--", str(SECTIONS)).splitlines())
    return {name: commit for mode, commit, _, name in entries if mode == "160000"}


def _check_annex(section: Path, full: bool, progress: Progress) -> Checked:
    """Whether what lies in the place of each annexed file is its content, or says that the content is elsewhere."""
    files = list(annexed_files(section))
    findings, known = [], {file.path for file in files}
    for done, file in enumerate(files):
        progress(f"{section.name}, annex", done, len(files))
        problem = _annex_problem(file, full)
        if problem is not None:
            findings.append(Finding(file.path, None, problem, Part.ANNEX))
    progress(f"{section.name}, annex", len(files), len(files))
    for shard in sorted(path for path in section.glob("sub-*/micr/*.ome.zarr/**/c/**/*") if not path.is_dir()):
        if shard not in known:
            problem = "is not in the dataset's annex"
            findings.append(Finding(shard, None, problem, Part.DATASET, "save it with `datalad save`, or move it away"))
    return Checked(tuple(findings))


def _annex_problem(file: AnnexedFile, full: bool) -> str | None:
    """What is wrong with one annexed file, None where its content is here or known to be elsewhere."""
    here = file.object.exists()
    if not file.path.exists():  # a dangling link, locked and elsewhere; or gone, as git says
        return None
    with file.path.open("rb") as opened:
        head = opened.read(1000)
    if head.startswith(ANNEX_POINTER):
        if key_of_pointer(head) != file.key:
            return f"points to another key than git's index, which is {file.key}"
        return "is still a pointer, though the annex has its content" if here else None
    problem = _content_problem(file.path, file, full)
    if problem is None and here and kept(file) is Kept.TWO_FILES:
        problem = _content_problem(file.object, file, full)
        return None if problem is None else f"is whole, but the annex's own copy {problem}"
    if problem is None and not here:
        return "is whole, but the annex has lost its own copy"
    return problem


def _content_problem(content: Path, file: AnnexedFile, full: bool = True) -> str | None:
    """How `content` differs from what the key says."""
    size = content.stat().st_size
    if file.nbytes is not None and size != file.nbytes:
        return f"has {size} bytes, but the annex recorded {file.nbytes}"
    checksum = key_checksum(file.key) if full else None
    if checksum is None:
        return None
    digest, recorded = checksum
    with content.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return None if digest.hexdigest() == recorded else f"contradicts the checksum in its key ({file.key})"


def _git_findings(dataset: Path, full: bool) -> Iterator[Finding]:
    """Changes that nobody has saved, and damage to git's own objects."""
    unsaved = git(dataset, "status", "--porcelain", "--ignore-submodules=all", "--", ".", _NOT_SHARDS).splitlines()
    staged = git(dataset, "diff", "--cached", "--name-only", "--", _SHARDS).splitlines()
    for line in unsaved:
        yield Finding(dataset / line[3:].strip('"'), None, "has changes that nobody has saved", Part.DATASET)
    for name in git(dataset, "ls-files", "--deleted", "--", _SHARDS).splitlines():
        remedy = f"bring it back with `git checkout -- {name}` in {dataset}"
        yield Finding(dataset / name, None, "is gone from the work tree", Part.ANNEX, remedy)
    for name in staged:
        yield Finding(dataset / name, None, "has changes that nobody has saved", Part.DATASET)
    if full:
        try:
            git(dataset, "fsck", "--no-dangling", "--no-progress")
        except GitError as error:
            remedy = "clone the dataset again from another place"
            yield Finding(dataset, None, f"has a damaged git repository ({error})", Part.DATASET, remedy)


def _kind(path: Path) -> str:
    """What lies at `path`. Raises CheckError where it is nothing that can be checked."""
    if not os.path.lexists(path):
        raise CheckError(f"{path} does not exist")
    if (path / ".git").exists():
        config = path / ".datalad" / "config"
        subject = git(path, "config", "-f", str(config), "--default", "", "nissl.subject") if config.exists() else ""
        return "brain" if subject.strip() else "section"
    if path.is_dir():
        if (path / "zarr.json").exists() and not (path / "c").exists():
            return "image"
    elif "c" in path.parts:
        return "shard"
    raise CheckError(f"{path} is neither a brain nor a section, an image (.ome.zarr) or a shard (.../0/c/0/0/0)")


def _place_of(path: Path) -> tuple[Path, int, tuple[int, ...]]:
    """(folder of its level, number of the level, index) of the shard at `path`. Raises CheckError."""
    for level in path.parents:
        if (level / "zarr.json").exists() and path.is_relative_to(level / "c") and level.name.isdigit():
            parts = path.relative_to(level / "c").parts
            if all(part.isdigit() for part in parts):
                return level, int(level.name), tuple(map(int, parts))
    raise CheckError(f"{path} is not a shard of an image: no zarr.json beside its folder `c` says how it is cut")


def _dataset_of(path: Path) -> Path | None:
    """The dataset in which `path` lies."""
    return next((folder for folder in path.parents if (folder / ".git").exists()), None)


def _as_in_git(path: Path) -> bool:
    """Whether a file has the bytes that git's index has of it; also where git does not know it."""
    dataset = _dataset_of(path)
    if dataset is None:
        return True
    entry = git(dataset, "ls-files", "--stage", "--", str(path.relative_to(dataset))).split()
    return not entry or git(dataset, "hash-object", "--no-filters", "--", str(path)).strip() == entry[1]


def _elsewhere(dataset: Path, name: str) -> bool:
    """Whether the annex knows a copy in another place."""
    said = annex(dataset, "whereis", "--json", "--", name)
    return any(not place["here"] for line in said.splitlines() for place in json.loads(line)["whereis"])


def _put_back(dataset: Path, path: Path, whole: Path, known: AnnexedFile) -> None:
    """Give the annex and the work tree the content `whole`, which is that of the key."""
    thin = kept(known) is Kept.ONE_FILE
    if thin and known.object.exists():
        # By hand: git-annex refuses to take away, or to overwrite, an object that it believes to be somebody's edit.
        folder = known.object.parent
        mode = folder.stat().st_mode
        folder.chmod(mode | 0o200)
        try:
            link = folder / f".{whole.name}"
            link.unlink(missing_ok=True)
            os.link(whole, link)
            link.rename(known.object)
            sync_folder(folder)
        finally:
            folder.chmod(mode)
    whole.rename(path)
    name = str(path.relative_to(dataset))
    if not known.object.exists():
        annex(dataset, "add", "--quiet", "--", name)
    # Now it is what git-annex expects: this tells its database, and git.
    annex(dataset, "fsck", "--quiet", "--", name)
    git(dataset, "add", "--", name)
