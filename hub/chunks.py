"""Images of any version as plain Zarr v3, a file per inner chunk: `/zarr/<dataset>/<ref>/<path>`.

    .../sub-01_BF.ome.zarr/zarr.json       the group, with all below it consolidated
    .../sub-01_BF.ome.zarr/0/zarr.json     the array, chunked as its shards are inside
    .../sub-01_BF.ome.zarr/0/c/15/3/7      an inner chunk, as it is stored: one `pread` out of its shard
    .../labels/cells/0/...                 labels, and the lists of their index, likewise
    .../sub-01_BF.ome.zarr/                what lies here; chunks are not listed, a section has a million of them

404 says that the version has no such chunk, and that its voxels are the fill value: it is said only of an array that is
known. A chunk whose shard is absent here or damaged, or whose array has gone with its branch, is 424: Zarr readers take
404 for zeros, Neuroglancer counts 403 as not found too, and tensorstore (0.1.86) asks again and again after 5xx.
"""

from __future__ import annotations

import asyncio
import logging
import re

from aiohttp import hdrs, web

from nissl.federation.access import Action
from nissl.formats.grid import Index
from nissl.formats.served_shard import ServedShard
from nissl.formats.shards import AbsentShardError, DamagedShardError
from nissl.hub.access import authorize, authorize_listing, find_readable, readable_address
from nissl.hub.address import AddressError, UnknownError
from nissl.hub.answers import matches, send_bytes, unavailable, version_headers
from nissl.hub.levels import Level, Levels, Place, StoredShard, UnavailableError, zarr_document
from nissl.hub.listing import folder_answer
from nissl.hub.open_shards import OpenShards
from nissl.hub.site import HUB
from nissl.hub.versions import Folder, find

SURFACE = "/zarr/"

_DOCUMENT = "/zarr.json"
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}")
_LARGEST = 256 << 20  # bytes of a chunk, which lies in memory while it is sent: ours have a quarter of a MB

_log = logging.getLogger("nissl.hub")

LEVELS: web.AppKey[Levels] = web.AppKey("levels", Levels)
SHARDS: web.AppKey[OpenShards] = web.AppKey("shards", OpenShards)


def add_routes(app: web.Application) -> None:
    app[LEVELS] = Levels(app[HUB])
    app[SHARDS] = OpenShards()
    app.router.add_get("/zarr/{tail:.+}", _handle)


def is_chunk(raw_path: str) -> bool:
    """Whether a request for `raw_path` is one for a chunk."""
    return raw_path.startswith(SURFACE) and "/c/" in raw_path


async def _handle(request: web.Request) -> web.StreamResponse:
    raw = request.raw_path.partition("?")[0].removeprefix(SURFACE)
    array, between, chunk = raw.rpartition("/c/")
    if between:
        authorize_listing(request)
        place = request.app[LEVELS].remembered(array) or await asyncio.to_thread(_resolve, request, array)
        if place is not None:
            authorize(request, Action.READ, place.asked)
            if place.level.address.dataset != place.asked:  # a section, reached through its brain
                authorize(request, Action.READ, place.level.address.dataset)
            return await _send_chunk(request, place, _parse_chunk(chunk))
    return await asyncio.to_thread(_send_node, request, raw)


def _resolve(request: web.Request, raw: str) -> Place | None:
    """The array in the folder `raw`, None where a folder lies there that is no array."""
    try:
        address = readable_address(request, raw)
        place = request.app[LEVELS].resolve(raw, address)
        if place is None:
            find(request.app[HUB], address)
        return place
    except UnknownError as error:
        raise unavailable(str(error)) from None


def _send_node(request: web.Request, raw: str) -> web.Response:
    """A `zarr.json`, or a folder's entries."""
    hub = request.app[HUB]
    folder = raw.removesuffix(_DOCUMENT)
    address = readable_address(request, folder)
    found = find_readable(request, address)
    if folder != raw:
        document = zarr_document(hub, address)
        return send_bytes(request, document.content, {**document.headers, "Content-Type": "application/json"})
    array, _, name = raw.rpartition("/")
    if name == "c" and request.app[LEVELS].resolve(array, readable_address(request, array)) is not None:
        raise UnknownError(f"the chunks of {address.path.removesuffix('/c')} are not listed: ask for c/0/0/0 and so on")
    if not isinstance(found.content, Folder):
        raise UnknownError(f"{address.path!r} is no part of a Zarr image: read it below /data/")
    entries = found.content.entries
    is_node = ("zarr.json", "file") in entries
    shown = tuple(
        (name, kind)
        for name, kind in entries
        if name == "zarr.json" or (kind != "file" and not (is_node and name == "c"))
    )
    return folder_answer(request, shown, version_headers(found.commit, immutable=found.immutable))


def _parse_chunk(text: str) -> Index:
    """`15/3/7` as an index. Raises AddressError for anything but whole numbers as Zarr writes them."""
    positions = text.split("/")
    if not all(map(_POSITION.fullmatch, positions)):
        raise AddressError(f"{text!r} is not a chunk: write whole numbers with / between, as in c/15/3/7")
    return tuple(map(int, positions))


async def _send_chunk(request: web.Request, place: Place, chunk: Index) -> web.Response:
    level = place.level
    located = level.array.locate(chunk)
    if located is None:
        return _missing(place, f"{level.address.path} has no chunk {chunk}, but {level.array.chunks_per_axis} of them")
    shard, within = located
    stored, reader = _at_hand(request, level, shard) or await _opened(request, level, shard)
    where = reader.place(within) if reader is not None else None
    if stored is None or reader is None or where is None:
        return _missing(place, f"chunk {chunk} of {level.address.path} holds only fill value")
    offset, nbytes = where
    if nbytes > _LARGEST:
        raise _damaged(level, shard, DamagedShardError(f"its index says that chunk {within} has {nbytes} bytes"))
    headers = {
        **place.headers,
        hdrs.ETAG: f'"{stored.tag}/{offset}"',
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CONTENT_TYPE: "application/octet-stream",
    }
    if hdrs.IF_NONE_MATCH in request.headers and matches(request.headers[hdrs.IF_NONE_MATCH], headers[hdrs.ETAG]):
        return web.Response(status=304, headers=headers)
    # Copying beats `sendfile` here: headers and chunk go out in one call, and nothing has to be set up around it.
    data: bytes | bytearray | None = reader.read_resident(offset, nbytes)
    if data is None:
        try:
            data = await asyncio.to_thread(reader.read, offset, nbytes)
        except (DamagedShardError, OSError) as error:
            raise _damaged(level, shard, error) from None
    return send_bytes(request, data, headers)


def _missing(place: Place, sentence: str) -> web.Response:
    # Returned and not raised: half of a volume of labels may be missing chunks.
    headers = {**place.headers, hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"}
    return web.Response(status=404, body=f"{sentence}\n".encode(), headers=headers)


_Opened = tuple[StoredShard | None, ServedShard | None]


def _at_hand(request: web.Request, level: Level, shard: Index) -> _Opened | None:
    """A shard that is open, or known to hold only fill value (no reader); None where it has to be looked for."""
    if shard not in level.shards:
        return None
    stored = level.shards[shard]
    if stored is None:
        return None, None
    reader = request.app[SHARDS].get(stored.path, level.array.grid)
    return None if reader is None else (stored, reader)


async def _opened(request: web.Request, level: Level, shard: Index) -> _Opened:
    try:
        return await asyncio.to_thread(_open, request, level, shard)
    except UnavailableError as error:
        raise unavailable(str(error)) from None
    except (AbsentShardError, DamagedShardError, OSError) as error:
        raise _damaged(level, shard, error) from None


def _open(request: web.Request, level: Level, shard: Index) -> _Opened:
    stored = request.app[LEVELS].shard(level, shard)
    if stored is None:
        return None, None
    shards, grid = request.app[SHARDS], level.array.grid
    return stored, shards.get(stored.path, grid) or shards.open(stored.path, grid)


def _damaged(level: Level, shard: Index, error: Exception) -> web.HTTPException:
    """For the one who asks, what cannot be had; for the operator's log, which file to look at."""
    name = "/".join([level.address.path, "c", *map(str, shard)])
    _log.error("%s of %s: %s", name, level.address.dataset, error)
    return unavailable(f"{name} is damaged on this hub, and its operator told: get it elsewhere")
