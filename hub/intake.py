"""Datasets on this machine are taken into the hub: a bare repository each, content first, then branches.

Doing it again brings what is new. Afterwards the source has the hub as a sibling, so `datalad push --to hub` works too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nissl.datasets.git import GitError, annex, annex_records, git, require_identity
from nissl.hub.root import HubError, HubRoot, check_dataset_name

SIBLING = "hub"
"""What a source calls the hub, unless it is told another name."""

Progress = Callable[[str, int, int], None]
"""Called with (dataset, annexed files done, annexed files in all)."""

_RULES = {
    "http.receivepack": "true",  # the hub itself decides who may push
    "receive.fsckObjects": "true",
    "receive.denyNonFastForwards": "true",
    "receive.denyDeletes": "true",
    "core.logAllRefUpdates": "true",
}


@dataclass(frozen=True)
class Taken:
    """A dataset that the hub now has."""

    name: str
    commit: str
    files: int
    """Annexed files that were copied now."""
    known_before: bool


def add_dataset(
    hub: HubRoot,
    source: Path,
    name: str | None = None,
    *,
    sibling: str = SIBLING,
    progress: Progress = lambda _name, _done, _total: None,
) -> list[Taken]:
    """Take the dataset at `source` and the subdatasets installed in it into the hub.

    name: its name on the hub, by default that of its folder. sibling: what the source calls the hub. Raises HubError or
    GitError, saying what is in the way.
    """
    source = source.absolute()
    if not (source / ".git").exists():
        raise HubError(f"{source} is not a dataset: name the folder of a brain or a section")
    name = check_dataset_name(name or source.name)
    require_identity(source)
    # Sections before their brain: a brain on the hub never names a section commit that the hub lacks.
    found = list(_installed(source, name))
    return [_take(hub, folder, dataset, sibling, progress) for dataset, folder in reversed(found)]


def _installed(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    yield name, folder
    for entry in git(folder, "ls-files", "--stage", "-z").split("\0")[:-1]:
        mode, _, _, path = entry.split(maxsplit=3)
        if mode == "160000" and (folder / path / ".git").exists():
            yield from _installed(folder / path, check_dataset_name(f"{name}/{path}"))


def _take(hub: HubRoot, source: Path, name: str, sibling: str, progress: Progress) -> Taken:
    repository = hub.repository(name)
    known = hub.has(name)
    try:
        branch = git(source, "symbolic-ref", "--short", "HEAD").strip()
        commit = git(source, "rev-parse", "--verify", "HEAD").strip()
    except GitError:
        raise HubError(f"{source} is on no branch or has no commit: run `git switch main` there first") from None
    if not known:
        _create(repository, f"{hub.name}: {name}", branch)
    _make_sibling(source, repository, sibling)
    files = 0
    if _uses_annex(source):
        # Of every version, not only the present one: the hub serves them all.
        wanted = len(annex(source, "findkeys", "--in=here", "--not", f"--in={sibling}").splitlines())
        progress(name, 0, wanted)
        if wanted:
            for record in annex_records(
                source, "copy", "--all", "--to", sibling, "--in=here", "--not", f"--in={sibling}"
            ):
                files += bool(record.get("success"))
                progress(name, files, wanted)
        git(source, "fetch", "-q", sibling)
        annex(source, "merge", "-q")
    refs = [f"refs/heads/{branch}", *(["refs/heads/git-annex"] if _uses_annex(source) else [])]
    git(source, "push", "-q", sibling, *(f"{ref}:{ref}" for ref in refs), "refs/tags/*:refs/tags/*")
    if files or not known:
        # Both sides wrote down, key by key, where content now lies: an inode each until git packs them.
        for place in (source, repository):
            git(place, "gc", "--quiet")
    return Taken(name, commit, files, known)


def _create(repository: Path, description: str, branch: str) -> None:
    repository.parent.mkdir(parents=True, exist_ok=True)
    making = repository.with_name(f".{repository.name}.making")
    if making.exists():
        shutil.rmtree(making)
    git(repository.parent, "init", "-q", "--bare", "--template=", f"--initial-branch={branch}", str(making))
    annex(making, "init", "-q", description)
    for key, value in _RULES.items():
        git(making, "config", key, value)
    making.rename(repository)


def _make_sibling(source: Path, repository: Path, sibling: str) -> None:
    url = git(source, "config", "--default", "", "--get", f"remote.{sibling}.url").strip()
    if not url:
        git(source, "remote", "add", sibling, str(repository))
    elif Path(url) != repository:
        raise HubError(
            f"{source} already has a sibling called {sibling!r} at {url}: give this hub another name with --sibling"
        )


def _uses_annex(source: Path) -> bool:
    return bool(git(source, "config", "--default", "", "--get", "annex.uuid").strip())
