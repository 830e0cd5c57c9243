"""What every handler needs to know of the hub that it serves."""

from __future__ import annotations

import ipaddress

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


def trust_command(host: str) -> str | None:
    """What clients of a hub at `host` must tell git-annex once; None where it asks for nothing.

    git-annex refuses addresses of this machine and of private networks until its user allows them, because a dataset
    from elsewhere could otherwise make it ask there (https://git-annex.branchable.com/security/CVE-2018-10857/).
    """
    if host == "localhost":
        addresses = "127.0.0.1 ::1"
    else:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        if address.is_global or address.is_unspecified:
            return None
        addresses = str(address)
    return f"git config --global annex.security.allowed-ip-addresses '{addresses}'"
