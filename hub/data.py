"""Raw files of any version: `/data/<dataset>/<ref>/<path>`, with Range, HEAD and validators.

Annexed files answer with their content. A commit's answers never change and say so; a branch's are to be revalidated.
Content that the dataset knows but this hub does not have is 424, never 404: to a Zarr reader 404 means zeros.
"""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web

from nissl.federation.access import Action
from nissl.hub.access import authorize, authorize_listing
from nissl.hub.address import Address, parse_address
from nissl.hub.site import HUB
from nissl.hub.versions import Annexed, Blob, Folder, Found, find

SURFACE = "/data/"

_TYPES = {
    ".json": "application/json",
    ".tsv": "text/tab-separated-values",
    ".md": "text/markdown",
    ".txt": "text/plain",
}


def add_routes(app: web.Application) -> None:
    app.router.add_get("/data/{tail:.+}", _handle)


def locate(request: web.Request, surface: str = SURFACE) -> Found:
    """What the request's URL names below `surface`, for somebody who may read it."""
    authorize_listing(request)
    hub = request.app[HUB]
    raw = request.raw_path.partition("?")[0].removeprefix(surface)
    address = parse_address(raw, hub.has)
    authorize(request, Action.READ, address.dataset)
    found = find(hub, address)
    if found.address.dataset != address.dataset:  # a section, reached through its brain
        authorize(request, Action.READ, found.address.dataset)
    return found


async def _handle(request: web.Request) -> web.StreamResponse:
    found = locate(request)
    content = found.content
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if found.immutable else "no-cache",
        "X-Nissl-Commit": found.commit,
        "Accept-Ranges": "bytes",
    }
    if isinstance(content, Folder):
        return web.json_response({"entries": [{"name": n, "kind": k} for n, k in content.entries]}, headers=headers)
    kind = _content_type(found.address)
    if isinstance(content, Blob):
        return _send_bytes(request, content, {**headers, "Content-Type": kind})
    if content.path is None:
        raise _not_here(found.address, content)
    return web.FileResponse(content.path, headers={**headers, "Content-Type": kind})


def _content_type(address: Address) -> str:
    _, dot, suffix = address.path.rpartition(".")
    return _TYPES.get(dot + suffix, "application/octet-stream")


def _not_here(address: Address, content: Annexed) -> web.HTTPException:
    error = web.HTTPFailedDependency(
        text=f"{address.path} is known (key {content.key}), but its content is not on this hub: get it elsewhere\n"
    )
    error.headers["Cache-Control"] = "no-store"
    return error


def _send_bytes(request: web.Request, blob: Blob, headers: dict[str, Any]) -> web.Response:
    """A git blob, or the one range of it that was asked for."""
    tag = f'"{blob.id}"'
    headers[hdrs.ETAG] = tag
    if tag in request.headers.get(hdrs.IF_NONE_MATCH, "").replace(" ", "").split(","):
        return web.Response(status=304, headers=headers)
    size = len(blob.content)
    try:
        wanted = request.http_range
    except ValueError:
        raise _unsatisfiable(size) from None
    if (wanted.start is None and wanted.stop is None) or request.headers.get(hdrs.IF_RANGE, tag) != tag:
        return web.Response(body=blob.content, headers=headers)
    start, stop, _ = wanted.indices(size)
    if start >= stop:
        raise _unsatisfiable(size)
    headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{size}"
    return web.Response(status=206, body=blob.content[start:stop], headers=headers)


def _unsatisfiable(size: int) -> web.HTTPException:
    error = web.HTTPRequestRangeNotSatisfiable(text=f"the file has {size} bytes\n")
    error.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
    return error
