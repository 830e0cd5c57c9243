"""All of it put together, and run."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_log import AccessLogger

from nissl.errors import NisslError
from nissl.hub import annex_http, catalogue, chunks, data, git_http, viewer
from nissl.hub.access import VERIFIED, VerifiedTokens
from nissl.hub.address import AddressError, UnknownError
from nissl.hub.annex_http import AnnexServerError
from nissl.hub.root import DatasetNameError, HubError, HubRoot
from nissl.hub.site import HUB, PUBLIC, URL, base_url

_log = logging.getLogger("nissl.hub")
_ACCESS = '%a "%r" %s %b %Tf s "%{User-Agent}i"'
_WELL = frozenset((200, 206, 304, 404))
_DATA = (data.SURFACE, chunks.SURFACE)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(hub: HubRoot, *, public: bool, url: str = "") -> web.Application:
    """The hub as an aiohttp application. public: everybody may read. url: its address behind a proxy."""
    app = web.Application(middlewares=[_say_errors], client_max_size=4 << 20)
    app[HUB], app[PUBLIC], app[URL] = hub, public, url.rstrip("/")
    app.on_response_prepare.append(_add_headers)
    app[VERIFIED] = VerifiedTokens()
    for prefix in _DATA:
        app.router.add_options(f"{prefix}{{tail:.*}}", _preflight)
    for surface in (catalogue, data, chunks, git_http, annex_http, viewer):
        surface.add_routes(app)
    return app


def serve(hub: HubRoot, *, host: str, port: int, public: bool, url: str = "", ready: Callable[[str], None]) -> None:
    """Serve the hub until the process is told to stop. ready: called with the address once it can be reached."""
    app = create_app(hub, public=public, url=url)

    async def tell(_: web.Application) -> None:
        ready(url.rstrip("/") or f"http://{host}:{port}")

    app.on_startup.append(tell)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _require_free(host, port)
    web.run_app(
        app,
        host=host,
        port=port,
        print=None,
        access_log_class=_AccessLog,
        access_log_format=_ACCESS,
        shutdown_timeout=5,
    )


class _AccessLog(AccessLogger):
    """A line per request, but for chunks: a viewer asks for thousands, and a line costs half as much as a chunk."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if response.status in _WELL and chunks.is_chunk(request.raw_path):
            return
        super().log(request, response, time)


@web.middleware
async def _say_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as one sentence: a page for people, text for git and programs; never a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _answer(request, error.status, (error.text or error.reason).strip(), error)
    except UnknownError as error:
        return _answer(request, 404, str(error))
    except (AddressError, DatasetNameError) as error:
        return _answer(request, 400, str(error))
    except AnnexServerError as error:
        return _answer(request, 503, str(error))
    except NisslError as error:
        _log.error("%s %s: %s", request.method, request.path, error)
        return _answer(request, 500, str(error))


def _answer(request: web.Request, status: int, sentence: str, error: web.HTTPException | None = None) -> web.Response:
    kept = {"WWW-Authenticate", "Content-Range", "Cache-Control", "Allow"}
    if "text/html" in request.headers.get("Accept", ""):
        title = HTTPStatus(status).phrase
        text = catalogue.page("error.html", status=status, title=title, sentence=sentence, url=base_url(request))
        response = web.Response(status=status, text=text, content_type="text/html")
    elif request.path.startswith("/api/"):
        response = web.json_response({"error": sentence}, status=status)
    else:
        response = web.Response(status=status, text=sentence + "\n")
    for name in kept:
        for value in error.headers.getall(name, []) if error is not None else []:
            response.headers.add(name, value)
    return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Viewers on other sites may read data: the token decides, and no other site can borrow a browser's."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if request.path.startswith(_DATA):
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = "Content-Range, ETag, X-Nissl-Commit"


async def _preflight(_: web.Request) -> web.Response:
    allowed = {
        "Access-Control-Allow-Methods": "GET, HEAD",
        "Access-Control-Allow-Headers": "Authorization, Range, If-None-Match",
    }
    return web.Response(status=204, headers={**allowed, "Access-Control-Max-Age": "86400"})


def _require_free(host: str, port: int) -> None:
    """Say plainly that the port is taken, before anything is started."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise HubError(f"port {port} is in use: choose another one with --port") from None
        raise HubError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
