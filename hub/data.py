"""Raw files of any version: `/data/<dataset>/<ref>/<path>`, with Range, HEAD and validators.

Annexed files answer with their content. A commit's answers never change and say so; a branch's are to be revalidated.
Content that the dataset knows but this hub does not have is 424, never 404: to a Zarr reader 404 means zeros.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from nissl.hub.access import find_readable, readable_address
from nissl.hub.address import Address
from nissl.hub.answers import send_bytes, send_file, unavailable, version_headers
from nissl.hub.listing import folder_answer
from nissl.hub.versions import Blob, Folder, Found, absent

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
    raw = request.raw_path.partition("?")[0].removeprefix(surface)
    return find_readable(request, readable_address(request, raw))


async def _handle(request: web.Request) -> web.StreamResponse:
    found = locate(request)
    content = found.content
    headers = version_headers(found.commit, immutable=found.immutable)
    if isinstance(content, Folder):
        return folder_answer(request, content.entries, headers)
    headers |= {"Accept-Ranges": "bytes", "Content-Type": _content_type(found.address)}
    if isinstance(content, Blob):
        return send_bytes(request, content.content, {**headers, hdrs.ETAG: f'"{content.id}"'})
    if content.path is None:
        raise unavailable(absent(found.address.path, content))
    return await send_file(request, content.path, headers)


def _content_type(address: Address) -> str:
    _, dot, suffix = address.path.rpartition(".")
    return _TYPES.get(dot + suffix, "application/octet-stream")
