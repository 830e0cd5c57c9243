"""What a path names at a branch, tag or commit: a blob in git, an annexed file, a folder, a section at its own commit.

Reads git's objects through pygit2, in this process: a viewer's request must not cost a subprocess.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pygit2

from nissl.datasets.annex_keys import is_key, key_of_link, key_of_pointer, key_size
from nissl.formats.shards import LONGEST_ANNEX_POINTER
from nissl.hub.address import Address, AddressError, UnknownError
from nissl.hub.dates import commit_at, parse_dated
from nissl.hub.root import HubRoot

_FULL = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")


@dataclass(frozen=True)
class Blob:
    """A file whose content git has."""

    id: str
    content: bytes


@dataclass(frozen=True)
class Annexed:
    """A file whose content the annex has, here or elsewhere."""

    key: str
    path: Path | None
    """The object, None where this hub does not have it."""

    @property
    def size(self) -> int | None:
        """Bytes, as the key says."""
        return key_size(self.key)


def absent(path: str, content: Annexed) -> str:
    """The sentence for content that a dataset knows at `path` and this hub does not have."""
    return f"{path} is known (key {content.key}), but its content is not on this hub: get it elsewhere"


@dataclass(frozen=True)
class Folder:
    """A folder's entries: (name, kind), kinds being `file`, `folder` and `dataset`."""

    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Found:
    """What an address names."""

    address: Address
    """As asked; inside a section that was reached through its brain, the section's own."""
    commit: str
    immutable: bool
    """Whether the address named a commit: the answer can never change."""
    content: Content


Content = Blob | Annexed | Folder


def find(hub: HubRoot, address: Address) -> Found:
    """What `address` names. Raises UnknownError where the ref or the path does not exist."""
    commit, immutable = resolve(_open(hub, address.dataset), address)
    return _descend(hub, address, commit, immutable)


def content_at(hub: HubRoot, address: Address) -> Content | None:
    """What lies at the path of `address`, whose ref is a commit; None only where that commit has nothing there.

    Raises UnknownError where the dataset or the commit is missing, or something lies there that is no content: whoever
    takes nothing for zeros must not take these for nothing.
    """
    commit, _ = resolve(_open(hub, address.dataset), address)
    here: pygit2.Object = commit.tree
    mode = pygit2.enums.FileMode.TREE
    for segment in address.path.split("/"):
        if not isinstance(here, pygit2.Tree) or segment not in here:
            return None
        here = here[segment]
        mode = pygit2.enums.FileMode(here.filemode)
    return _content(hub, address, here, mode)


def zarr_documents(hub: HubRoot, address: Address) -> Iterator[tuple[str, bytes]]:
    """(folder below `address`, content) of every `zarr.json` in git below it, itself excepted; the ref is a commit.

    Chunks are not looked at: a folder `c` beside a `zarr.json` is left out.
    """
    commit, _ = resolve(_open(hub, address.dataset), address)
    here = commit.tree[address.path]
    if isinstance(here, pygit2.Tree):
        yield from _zarr_documents(here, "")


def _zarr_documents(folder: pygit2.Tree, path: str) -> Iterator[tuple[str, bytes]]:
    document = folder["zarr.json"] if "zarr.json" in folder else None  # noqa: SIM401 - a Tree has no `get`
    if path and isinstance(document, pygit2.Blob):
        yield path.removesuffix("/"), document.data
    for entry in folder:
        if isinstance(entry, pygit2.Tree) and not (entry.name == "c" and document is not None):
            yield from _zarr_documents(entry, f"{path}{entry.name}/")


def _open(hub: HubRoot, dataset: str) -> pygit2.Repository:
    try:
        return pygit2.Repository(str(hub.repository(dataset)), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
    except pygit2.GitError:
        raise UnknownError(f"this hub has no dataset {dataset!r}") from None


def resolve(repository: pygit2.Repository, address: Address) -> tuple[pygit2.Commit, bool]:
    """The commit of the address's ref, and whether the ref is that commit's own full id."""
    ref = address.ref
    dated = parse_dated(ref)
    if dated is not None and pygit2.reference_is_valid_name(f"refs/heads/{dated.branch}"):
        branch = repository.references.get(f"refs/heads/{dated.branch}")
        if branch is not None:
            then = commit_at(branch.peel(pygit2.Commit), dated.time)
            if then is None:
                raise UnknownError(
                    f"the branch {dated.branch} of {address.dataset} begins after {dated.time:%Y-%m-%dT%H:%M:%SZ}"
                )
            return then, False
    elif _FULL.fullmatch(ref):
        commit = _commit(repository, ref)
        if commit is not None:
            return commit, True
    elif ref and pygit2.reference_is_valid_name(f"refs/heads/{ref}"):
        for name in (f"refs/heads/{ref}", f"refs/tags/{ref}"):
            reference = repository.references.get(name)
            if reference is not None:
                return reference.peel(pygit2.Commit), False
        commit = _commit(repository, ref) if _SHORT.fullmatch(ref) else None
        if commit is not None:
            return commit, False
    raise UnknownError(f"{address.dataset} has no branch, tag or commit {ref!r}")


Stamp = tuple[tuple[int, int, int] | None, ...]
"""What must not have changed for a ref to name the same commit."""


def ref_files(hub: HubRoot, address: Address) -> tuple[str, ...] | None:
    """The files that decide which commit the address's ref names; none for a commit, None where files do not tell.

    Looking whether they have changed is a thousandth of the work of resolving a date, and a tenth of a branch's.
    """
    ref = address.ref
    if _FULL.fullmatch(ref):
        return ()
    dated = parse_dated(ref)
    name = dated.branch if dated is not None else ref
    if _SHORT.fullmatch(ref) or not pygit2.reference_is_valid_name(f"refs/heads/{name}"):
        return None
    repository = hub.repository(address.dataset)
    files = [repository / "refs" / "heads" / name, repository / "refs" / "tags" / name, repository / "packed-refs"]
    if any(file.is_file() and file.read_bytes().startswith(b"ref:") for file in files[:2]):
        return None
    return tuple(map(str, files))


def stamp(files: tuple[str, ...]) -> Stamp:
    """What the files of `ref_files` are now. Git writes a ref by renaming a new file over it."""
    return tuple(map(_stamp, files))


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - a `Path` costs more than the call
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _commit(repository: pygit2.Repository, identifier: str) -> pygit2.Commit | None:
    """The commit of that id, whole or abbreviated; None where there is none, or several."""
    try:
        return repository[identifier].peel(pygit2.Commit)
    except (KeyError, ValueError):
        return None


def branches(hub: HubRoot, dataset: str) -> Iterator[tuple[str, str]]:
    """(name, commit) of each branch that people work on, the default one first."""
    repository = pygit2.Repository(str(hub.repository(dataset)))
    default = repository.lookup_reference("HEAD").target
    names = sorted(repository.branches.local, key=lambda name: (f"refs/heads/{name}" != default, name))
    for name in names:
        if name != "git-annex" and not name.startswith("synced/"):
            yield name, str(repository.branches.local[name].peel(pygit2.Commit).id)


def annex_uuid(hub: HubRoot, dataset: str) -> str | None:
    """The annex's UUID of the hub's repository of `dataset`."""
    config = pygit2.Repository(str(hub.repository(dataset))).config
    return config["annex.uuid"] if "annex.uuid" in config else None  # noqa: SIM401 - a Config has no `get`


def object_path(repository: Path, key: str) -> Path | None:
    """The annexed object of `key` in a bare repository, None where it is not there. Raises AddressError for no key."""
    if not is_key(key):
        raise AddressError(f"{key!r} is not an annex key")
    # Bare repositories hash keys into folders with lower-case md5, whatever the file system.
    digest = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    escaped = key.replace("&", "&a").replace("%", "&s").replace(":", "&c").replace("/", "%")
    path = repository / "annex" / "objects" / digest[:3] / digest[3:6] / escaped / escaped
    return path if path.is_file() else None


def _descend(hub: HubRoot, address: Address, commit: pygit2.Commit, immutable: bool) -> Found:
    here: pygit2.Object = commit.tree
    segments = address.path.split("/") if address.path else []
    mode = pygit2.enums.FileMode.TREE
    for depth, segment in enumerate(segments):
        if not isinstance(here, pygit2.Tree) or segment not in here:
            raise UnknownError(f"{address.dataset} has no {address.path!r} at {address.ref}")
        entry = here[segment]
        if entry.filemode == pygit2.enums.FileMode.COMMIT:
            return _enter(hub, address, segments, depth + 1, str(entry.id), immutable)
        here, mode = entry, pygit2.enums.FileMode(entry.filemode)
    return Found(address, str(commit.id), immutable, _content(hub, address, here, mode))


def _enter(hub: HubRoot, address: Address, segments: list[str], depth: int, commit: str, immutable: bool) -> Found:
    """Go on in a section, at the commit that its brain records."""
    dataset = "/".join([address.dataset, *segments[:depth]])
    if not hub.has(dataset):
        raise UnknownError(f"this hub does not have the section {dataset}")
    inner = find(hub, Address(dataset, commit, "/".join(segments[depth:])))
    return Found(inner.address, inner.commit, immutable, inner.content)


def _content(hub: HubRoot, address: Address, here: pygit2.Object, mode: pygit2.enums.FileMode) -> Content:
    if isinstance(here, pygit2.Tree):
        return Folder(tuple((str(entry.name), _kind(entry)) for entry in here))
    if not isinstance(here, pygit2.Blob):
        raise UnknownError(f"{address.dataset} has no file {address.path!r}")
    key = _annex_key(here, mode)
    if key is not None:
        return Annexed(key, object_path(hub.repository(address.dataset), key))
    if mode == pygit2.enums.FileMode.LINK:  # a link that is not the annex's: followed nowhere
        raise UnknownError(f"{address.path!r} is a symbolic link, which this hub does not follow")
    return Blob(str(here.id), here.data)


def _annex_key(blob: pygit2.Blob, mode: pygit2.enums.FileMode) -> str | None:
    """The key that a pointer file (unlocked) or a link into the annex (locked) names."""
    if blob.size > LONGEST_ANNEX_POINTER:
        return None
    if mode == pygit2.enums.FileMode.LINK:
        return key_of_link(blob.data.decode(errors="surrogateescape"))
    return key_of_pointer(blob.data)


def _kind(entry: pygit2.Object) -> str:
    if entry.filemode == pygit2.enums.FileMode.COMMIT:
        return "dataset"
    return "folder" if entry.filemode == pygit2.enums.FileMode.TREE else "file"
