"""What there is: the JSON list of datasets for programs, the pages for people, the node's card, the health check."""

from __future__ import annotations

import asyncio
import importlib.resources
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import jinja2
from aiohttp import web
from yarl import URL

from nissl.datasets import tables
from nissl.federation.card import sign_card
from nissl.hub.access import authorize_listing, may_read
from nissl.hub.address import Address, AddressError, UnknownError
from nissl.hub.images import ImageInfo, images
from nissl.hub.root import HubRoot
from nissl.hub.site import HUB, PUBLIC, base_url, trust_command
from nissl.hub.versions import Blob, branches, find

_pages = jinja2.Environment(loader=jinja2.PackageLoader("nissl.hub", "pages"), autoescape=True)


@dataclass(frozen=True)
class Entry:
    """One dataset in the catalogue."""

    name: str
    branch: str | None
    """The branch that a clone checks out; None where nothing was pushed yet."""
    branches: dict[str, str]
    rows: tuple[dict[str, str], ...]
    """A brain's catalogue, one row per image."""

    @property
    def depth(self) -> int:
        return self.name.count("/")


def add_routes(app: web.Application) -> None:
    app.router.add_get("/", _page)
    app.router.add_get("/api/datasets", _list)
    app.router.add_get("/healthz", _health)
    app.router.add_get("/.well-known/nissl", _card)
    app.router.add_get("/style.css", _style)


def page(name: str, **values: object) -> str:
    """One of the templates in `pages/`, filled."""
    return _pages.get_template(name).render(**values)


def entries(hub: HubRoot) -> list[Entry]:
    """Every dataset of the hub; a brain's images come from its own catalogue, without looking into its sections."""
    found = []
    for name in hub.datasets():
        known = dict(branches(hub, name))
        branch = next(iter(known), None)
        found.append(Entry(name, branch, known, _rows(hub, name, branch) if branch else ()))
    return found


def _rows(hub: HubRoot, name: str, branch: str) -> tuple[dict[str, str], ...]:
    try:
        content = find(hub, Address(name, branch, "catalogue.tsv")).content
        return tuple(tables.parse(content.content.decode())) if isinstance(content, Blob) else ()
    except (UnknownError, ValueError):
        return ()


async def _list(request: web.Request) -> web.Response:
    authorize_listing(request)
    hub = request.app[HUB]
    visible = [entry for entry in await asyncio.to_thread(entries, hub) if may_read(request, entry.name)]
    url = base_url(request)
    return web.json_response(
        {
            "hub": hub.name,
            "datasets": [
                {
                    "name": entry.name,
                    "clone": f"{url}/git/{quote(entry.name)}",
                    "default_branch": entry.branch,
                    "branches": entry.branches,
                    "images": list(entry.rows),
                }
                for entry in visible
            ],
        }
    )


async def _page(request: web.Request) -> web.Response:
    authorize_listing(request)
    hub = request.app[HUB]
    visible = [entry for entry in await asyncio.to_thread(entries, hub) if may_read(request, entry.name)]
    listed = {f"{entry.name}/{row['section']}" for entry in visible for row in entry.rows}
    # A section that a brain lists is shown there; one that stands alone is looked into.
    shown = [entry for entry in visible if entry.name not in listed]
    alone = {
        entry.name: [_row(info) for info in await asyncio.to_thread(_images, hub, entry)]
        for entry in shown
        if not entry.rows
    }
    text = page(
        "catalogue.html",
        hub=hub,
        public=request.app[PUBLIC],
        url=base_url(request),
        entries=shown,
        alone=alone,
        view=_view,
        trust=trust_command(URL(base_url(request)).host or ""),
    )
    return web.Response(text=text, content_type="text/html")


def _images(hub: HubRoot, entry: Entry) -> list[ImageInfo]:
    try:
        return list(images(hub, entry.name, entry.branch)) if entry.branch else []
    except AddressError:
        return []


def _row(info: ImageInfo) -> dict[str, str]:
    """An image as a brain's catalogue would describe it."""
    return {
        "section": "",
        "image": info.address.path,
        "shape": "x".join(map(str, info.shape)),
        "dtype": info.dtype,
        "voxel_size_um": "x".join(
            f"{step:g}" for axis, step in zip(info.axes, info.voxel_size_um, strict=True) if axis != "c"
        ),
        "levels": str(info.levels),
    }


def _view(entry: Entry, row: dict[str, str]) -> str:
    """Where the viewer shows the image of a catalogue row: at the brain's branch, hence at the commit it records."""
    path = "/".join(part for part in (row["section"], row["image"]) if part)
    return Address(entry.name, entry.branch or "", path).url("view")


async def _health(request: web.Request) -> web.Response:
    readable = request.app[HUB].repositories.is_dir()
    return web.json_response({"status": "ok" if readable else "no datasets folder"}, status=200 if readable else 503)


async def _card(request: web.Request) -> web.Response:
    hub = request.app[HUB]
    card: dict[str, Any] = sign_card(hub.card, hub.key)
    return web.json_response(card, headers={"Access-Control-Allow-Origin": "*"})


async def _style(_: web.Request) -> web.Response:
    text = importlib.resources.files("nissl.hub").joinpath("pages", "style.css").read_text(encoding="utf-8")
    return web.Response(text=text, content_type="text/css", headers={"Cache-Control": "max-age=3600"})
