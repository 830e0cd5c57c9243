"""A folder's entries: JSON for programs, a page of plain links for people and for whoever follows links.

fsspec's HTTP file system lists a folder by the links of its page, and says that it takes anything (`Accept: */*`). So
JSON is for who asks for it, or says nothing about what they take.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web
from yarl import URL

from nissl.hub.catalogue import page
from nissl.hub.site import base_url

Entries = tuple[tuple[str, str], ...]
"""(name, kind), kinds being `file`, `folder` and `dataset`."""


def folder_answer(request: web.Request, entries: Entries, headers: dict[str, str]) -> web.Response:
    """The entries in the form that the request asks for."""
    headers = {**headers, "Vary": "Accept"}
    if not _wants_page(request):
        return web.json_response({"entries": [{"name": n, "kind": k} for n, k in entries]}, headers=headers)
    here = request.raw_path.partition("?")[0].rstrip("/")
    # A link ends in a slash where it leads to a folder: that is how fsspec tells. `base` makes it right for browsers
    # with and without a slash at the end of this page's own address; it names no host, or fsspec takes it for a link.
    links = [(name + ("" if kind == "file" else "/"), kind) for name, kind in entries]
    text = page(
        "folder.html",
        url=base_url(request),
        base=f"{URL(base_url(request)).raw_path.rstrip('/')}{here}/",
        folder=request.path.rstrip("/").rpartition("/")[2],
        links=[(quote(name), name) for name, _ in links],
    )
    return web.Response(text=text, content_type="text/html", headers=headers)


def _wants_page(request: web.Request) -> bool:
    accepted = request.headers.get("Accept", "")
    return "text/html" in accepted or ("*/*" in accepted and "json" not in accepted)
