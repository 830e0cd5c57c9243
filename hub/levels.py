"""The arrays of images at a version: what `zarr.json` says, and which annexed object holds which shard.

Both are found out once and kept: for a commit they never change. A branch's URL is kept too, with what the files of its
ref looked like, so that the next request costs a look at them and not a walk through git's trees.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs

from nissl.errors import NisslError
from nissl.formats.grid import Index
from nissl.formats.unsharded import Unsharded, consolidate, unshard
from nissl.hub.address import Address, AddressError, UnknownError
from nissl.hub.answers import version_headers
from nissl.hub.root import HubRoot
from nissl.hub.versions import Annexed, Blob, Stamp, absent, content_at, find, ref_files, stamp, zarr_documents

MOST_LEVELS = 1000
MOST_URLS = 4000
_MOST_SHARDS = 20_000  # places that one level remembers: 250 for a section of 100k x 100k


class UnavailableError(NisslError):
    """Voxels that the dataset knows and this hub cannot give: their shard is absent or damaged."""


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A shard whose content is here."""

    path: str
    tag: str
    """The annex key as an ETag can carry it: the content by another name."""


@dataclass(frozen=True)
class Level:
    """An array of dual shards at a commit."""

    address: Address
    """Of the array's folder, in the dataset that has it; the ref is the commit."""
    array: Unsharded
    shards: dict[Index, StoredShard | None] = field(default_factory=dict, repr=False, compare=False)
    """What was found out so far; None for a shard of fill value only."""


@dataclass(frozen=True)
class Place:
    """An array as a URL names it."""

    level: Level
    asked: str
    """The dataset in the URL: the section itself, or the brain through which it was reached."""
    immutable: bool
    files: tuple[str, ...]
    stamp: Stamp
    headers: dict[str, str]
    """What every answer about it carries."""


class Levels:
    """What is known of the hub's arrays, the parts used last. Safe to share between threads."""

    def __init__(self, hub: HubRoot, most_levels: int = MOST_LEVELS, most_urls: int = MOST_URLS) -> None:
        self._hub = hub
        self._most_levels, self._most_urls = most_levels, most_urls
        self._levels: OrderedDict[tuple[str, str, str], Level] = OrderedDict()
        self._urls: OrderedDict[str, Place] = OrderedDict()
        self._lock = threading.Lock()

    def remembered(self, url: str) -> Place | None:
        """The array that `url`, as it was sent, named before, if its branch has not moved since."""
        place = self._urls.get(url)
        if place is None or (place.files and stamp(place.files) != place.stamp):
            return None
        with self._lock:
            if url in self._urls:
                self._urls.move_to_end(url)
        return place

    def resolve(self, url: str, address: Address) -> Place | None:
        """The array in the folder `address`, which is what `url` says; None where no array lies there.

        Raises UnknownError where the ref does not exist or the array is not one of dual shards.
        """
        files = ref_files(self._hub, address)
        before = stamp(files or ())  # before the ref is read: what changes in between is noticed next time
        found = _document(self._hub, address)
        if found is None or found.document.get("node_type") != "array":
            return None
        level = self._level(found)
        headers = version_headers(found.address.ref, immutable=found.immutable)
        place = Place(level, address.dataset, found.immutable, files or (), before, headers)
        if files is not None:
            with self._lock:
                self._urls[url] = place
                self._urls.move_to_end(url)
                while len(self._urls) > self._most_urls:
                    self._urls.popitem(last=False)
        return place

    def shard(self, level: Level, shard: Index) -> StoredShard | None:
        """Where the content of a shard lies, None where the version has no such shard. Raises UnavailableError."""
        address = level.address
        path = "/".join([address.path, "c", *map(str, shard)])
        try:
            content = content_at(self._hub, Address(address.dataset, address.ref, path))
        except AddressError as error:
            raise UnavailableError(str(error)) from None
        stored = None
        if isinstance(content, Annexed):
            if content.path is None:
                raise UnavailableError(absent(path, content))
            stored = StoredShard(str(content.path), quote(content.key))
        elif content is not None:
            raise UnavailableError(f"{path} is not an annexed file: it cannot be read as a shard here")
        if len(level.shards) >= _MOST_SHARDS:
            level.shards.clear()
        level.shards[shard] = stored
        return stored

    def _level(self, found: _Document) -> Level:
        address = found.address
        key = (address.dataset, address.ref, address.path)
        with self._lock:
            if key in self._levels:
                self._levels.move_to_end(key)
                return self._levels[key]
        try:
            level = Level(address, unshard(found.document))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UnknownError(
                f"{address.path!r} is not an array of dual shards ({error}): read its files below /data/"
            ) from None
        with self._lock:
            level = self._levels.setdefault(key, level)
            while len(self._levels) > self._most_levels:
                self._levels.popitem(last=False)
        return level


@dataclass(frozen=True)
class ZarrDocument:
    """A `zarr.json` of the plain view."""

    content: bytes
    headers: dict[str, str]


def zarr_document(hub: HubRoot, address: Address) -> ZarrDocument:
    """`zarr.json` of the group or array in the folder `address`: unsharded, or with all below it consolidated.

    Raises UnknownError where there is none.
    """
    found = _document(hub, address)
    if found is None:
        raise UnknownError(f"{address.dataset} has no {address.path}/zarr.json at {address.ref}")
    try:
        if found.document.get("node_type") == "array":
            document = unshard(found.document).document
        else:
            nodes = {}
            for path, content in zarr_documents(hub, found.address):
                node = _plain(content)
                if node is not None:
                    nodes[path] = node
            document = consolidate(found.document, nodes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UnknownError(
            f"{address.path!r} is not an array of dual shards ({error}): read its files below /data/"
        ) from None
    content = json.dumps(document, ensure_ascii=False, indent=2).encode()
    headers = version_headers(found.address.ref, immutable=found.immutable)
    headers[hdrs.ETAG] = f'"{hashlib.sha256(content).hexdigest()}"'
    return ZarrDocument(content, headers)


@dataclass(frozen=True)
class _Document:
    document: dict[str, Any]
    address: Address
    """Of the folder, in the dataset that has it, at the commit."""
    immutable: bool


def _document(hub: HubRoot, address: Address) -> _Document | None:
    """The `zarr.json` in the folder `address`, None where it has none; the ref must exist."""
    find(hub, Address(address.dataset, address.ref, ""))
    file = f"{address.path}/zarr.json".removeprefix("/")
    try:
        found = find(hub, Address(address.dataset, address.ref, file))
    except UnknownError:
        return None
    document = _json(found.content.content) if isinstance(found.content, Blob) else None
    if document is None:
        raise UnknownError(f"{file} is not a Zarr document in git")
    folder = found.address.path.removesuffix("zarr.json").removesuffix("/")
    return _Document(document, Address(found.address.dataset, found.commit, folder), found.immutable)


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _plain(content: bytes) -> dict[str, Any] | None:
    """A node's document in the plain view, None for what no reader could open."""
    document = _json(content)
    if document is None or document.get("node_type") != "array":
        return document
    try:
        return unshard(document).document
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
