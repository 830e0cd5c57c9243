"""Requests held against `federation.access`: who asks, what for, and the right challenge where that is not enough.

A token comes as the password of basic authentication (git, git-annex, browsers: any user name) or as a bearer token.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import OrderedDict
from datetime import UTC, datetime

import jwt
from aiohttp import web

from nissl.federation.access import Action, Grant, decide
from nissl.federation.tokens import TokenError, read_token
from nissl.hub.address import Address, parse_address
from nissl.hub.site import HUB, PUBLIC
from nissl.hub.versions import Found, find

_MOST_VERIFIED = 10_000


class VerifiedTokens:
    """Grants of tokens whose signature was looked at, until they expire: a viewer sends the same one a thousand times.

    Nothing revokes a token before that; what will, has to empty this too.
    """

    def __init__(self, most: int = _MOST_VERIFIED) -> None:
        self._most = most
        self._known: OrderedDict[str, tuple[Grant, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, token: str, now: float) -> Grant | None:
        known = self._known.get(token)
        if known is None:
            return None
        grant, expires = known
        if now < expires:
            return grant
        self._known.pop(token, None)
        return None

    def add(self, token: str, grant: Grant) -> None:
        """Remember a token that `read_token` has just accepted."""
        claims = jwt.decode(token, options={"verify_signature": False})
        self._known[token] = (grant, int(claims["exp"]))
        while len(self._known) > self._most:
            self._known.popitem(last=False)


VERIFIED: web.AppKey[VerifiedTokens] = web.AppKey("verified", VerifiedTokens)


def bearer(request: web.Request) -> str | None:
    """The token that the request carries, None where it carries none."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _challenge(request, "the Authorization header is malformed") from None
        return password
    return None


def who(request: web.Request) -> Grant | None:
    """The grant that the request's token carries. Answers 401 where the token is no good."""
    token = bearer(request)
    if token is None:
        return None
    verified = request.app[VERIFIED]
    known = verified.get(token, time.time())
    if known is not None:
        return known
    try:
        grant = read_token(token, request.app[HUB].key.public, datetime.now(UTC))
        verified.add(token, grant)
        return grant
    except TokenError as error:
        raise _challenge(request, str(error)) from None


def authorize(request: web.Request, action: Action, dataset: str) -> Grant | None:
    """Let the request pass, or answer 401 (a token would help) or 403 (this one does not)."""
    grant = who(request)
    decision = decide(action, dataset, grant, public=request.app[PUBLIC])
    if decision.allowed:
        return grant
    if grant is None:
        raise _challenge(request, decision.why)
    raise web.HTTPForbidden(text=decision.why + "\n")


def may_read(request: web.Request, dataset: str) -> bool:
    return decide(Action.READ, dataset, who(request), public=request.app[PUBLIC]).allowed


def authorize_listing(request: web.Request) -> None:
    """Whoever has no token sees nothing of a hub that is not public, not even which names exist."""
    if not request.app[PUBLIC] and who(request) is None:
        raise _challenge(request, "a token is needed: ask the hub's operator for one (`nissl hub token`)")


def readable_address(request: web.Request, raw: str) -> Address:
    """What `raw`, a URL's path behind the surface's name, says, for somebody who may read the dataset in it."""
    authorize_listing(request)
    address = parse_address(raw, request.app[HUB].has)
    authorize(request, Action.READ, address.dataset)
    return address


def find_readable(request: web.Request, address: Address) -> Found:
    """What lies at a `readable_address`; in a section that is reached through its brain, if that may be read too."""
    found = find(request.app[HUB], address)
    if found.address.dataset != address.dataset:
        authorize(request, Action.READ, found.address.dataset)
    return found


def _challenge(request: web.Request, why: str) -> web.HTTPUnauthorized:
    realm = request.app[HUB].name.replace("\\", "").replace('"', "")
    error = web.HTTPUnauthorized(text=why + "\n")
    error.headers.add("WWW-Authenticate", f'Basic realm="{realm}", charset="UTF-8"')
    return error
