"""What every handler needs to know of the hub that it serves."""

from __future__ import annotations

from aiohttp import web

from nissl.hub.root import HubRoot

HUB: web.AppKey[HubRoot] = web.AppKey("hub", HubRoot)
PUBLIC: web.AppKey[bool] = web.AppKey("public", bool)
"""Whether everybody may read."""
URL: web.AppKey[str] = web.AppKey("url", str)
"""The address under which people know this hub, without a slash at the end; empty: the one that they ask at."""


def base_url(request: web.Request) -> str:
    """The hub's own address, as the one who asks can reach it."""
    return request.app[URL] or f"{request.scheme}://{request.host}"
