"""git-annex's P2P protocol over HTTP: content for `datalad get`, `push` and `drop`.

Getting an object is one file send, done here; locking, storing and removing are done by `git annex p2phttp`, which
listens on a Unix socket that only this process's user can open. One such process serves every repository below the
hub's folder and finds new ones by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

from nissl.datasets.git import environment
from nissl.errors import NisslError
from nissl.federation.access import Action
from nissl.hub.access import authorize, authorize_listing
from nissl.hub.address import UnknownError
from nissl.hub.root import HubRoot
from nissl.hub.site import HUB
from nissl.hub.versions import annex_uuid, object_path

# git-annex puts more than one slash after a prefix, and four where there is none.
_REQUEST = re.compile(
    r"/annex/+(?P<call>git-annex/(?P<uuid>[0-9a-f-]{36})/(?:v[0-9]+/)?(?P<verb>[a-z-]+)(?:/(?P<key>[^/]+))?)"
)
_READING = {"key", "checkpresent", "lockcontent", "keeplocked"}
_WRITING = {"put", "putoffset", "remove", "remove-before", "gettimestamp"}
# Only of the hop between two machines (RFC 9110, 7.6.1), or set anew by aiohttp on the next one.
_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "content-length"}
_HOP |= {"proxy-authorization", "proxy-authenticate", "authorization"}
_BLOCK = 1 << 16


# git-annex ends when our end of its standard input closes: also when this process is killed and can tell it nothing.
_TIED = """
exec 3<&0
git-annex p2phttp --wideopen -J8 --directory "$1" --socket "$2/annex.sock" </dev/null &
server=$!
(cat <&3 >/dev/null; kill $server 2>/dev/null; rm -rf "$2") &
wait $server
"""


class AnnexServerError(NisslError):
    """`git annex p2phttp` did not start."""


class AnnexServer:
    """The `git annex p2phttp` behind this hub, and which dataset has which annex UUID."""

    def __init__(self, hub: HubRoot) -> None:
        self._hub = hub
        self._uuids: dict[str, str] = {}
        # Not below the hub's folder: a Unix socket's path may have 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="nissl-hub-"))
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    @property
    def socket(self) -> Path:
        return self._folder / "annex.sock"

    def dataset_of(self, uuid: str) -> str:
        """The dataset whose annex here has that UUID. Raises UnknownError."""
        if uuid not in self._uuids:
            self._uuids = {
                known: name for name in self._hub.datasets() if (known := annex_uuid(self._hub, name)) is not None
            }
        try:
            return self._uuids[uuid]
        except KeyError:
            raise UnknownError(f"this hub has no annex {uuid}") from None

    async def session(self) -> aiohttp.ClientSession:
        """A session to the running server, which is started where it is not running (any more)."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            assert self._session is not None  # noqa: S101 - `_start` sets it
            return self._session

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None  # noqa: S101 - it was asked for
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _start(self) -> None:
        if self._session is not None:
            await self._session.close()
        self.socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *("sh", "-c", _TIED, "p2phttp", str(self._hub.repositories), str(self._folder)),
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for _ in range(200):
            if self._process.returncode is not None:
                raise AnnexServerError(
                    "`git annex p2phttp` ended at once: is git-annex 10.20250115 or newer installed?"
                )
            try:
                _, writer = await asyncio.open_unix_connection(str(self.socket))
                writer.close()
                break
            except (FileNotFoundError, ConnectionError):
                await asyncio.sleep(0.05)
        else:
            raise AnnexServerError("`git annex p2phttp` did not start within 10 s")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
        )


ANNEX: web.AppKey[AnnexServer] = web.AppKey("annex", AnnexServer)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/annex/{tail:.+}", _handle)
    app.router.add_post("/annex/{tail:.+}", _handle)
    app.cleanup_ctx.append(_running)


async def _running(app: web.Application) -> AsyncIterator[None]:
    app[ANNEX] = AnnexServer(app[HUB])
    yield
    await app[ANNEX].stop()


async def _handle(request: web.Request) -> web.StreamResponse:
    authorize_listing(request)
    raw, _, query = request.raw_path.partition("?")
    found = _REQUEST.fullmatch(raw)
    if found is None:
        raise UnknownError("this is not a request of git-annex's P2P protocol over HTTP")
    verb = found["verb"]
    action = Action.READ if verb in _READING else Action.WRITE
    if verb not in _READING | _WRITING:
        raise UnknownError(f"git-annex's P2P protocol over HTTP has no {verb!r}")
    dataset = request.app[ANNEX].dataset_of(found["uuid"])
    authorize(request, action, dataset)
    if verb == "key" and request.method == "GET":
        return await _send_object(request, dataset, unquote(found["key"] or ""))
    return await _relay(request, f"http://localhost/{found['call']}?{query}")


async def _send_object(request: web.Request, dataset: str, key: str) -> web.StreamResponse:
    """The object of `key`, from `offset` on."""
    path = object_path(request.app[HUB].repository(dataset), key)
    if path is None:
        raise UnknownError(f"{dataset} does not have the content of {key} on this hub")
    size = path.stat().st_size
    text = request.query.get("offset", "0")
    offset = int(text) if text.isdigit() else 0
    if not offset:
        headers = {"X-git-annex-data-length": str(size), "Content-Type": "application/octet-stream"}
        return web.FileResponse(path, headers=headers)
    remaining = max(0, size - offset)
    response = web.StreamResponse(headers={"X-git-annex-data-length": str(remaining)})
    response.content_type = "application/octet-stream"
    response.content_length = remaining
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    with path.open("rb") as file:
        file.seek(offset)
        while block := await loop.run_in_executor(None, file.read, _BLOCK):
            await response.write(block)
    await response.write_eof()
    return response


async def _relay(request: web.Request, url: str) -> web.StreamResponse:
    """Pass the request on to git-annex and its answer back, both as streams: `keeplocked` holds both open for hours."""
    session = await request.app[ANNEX].session()
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    body = request.content.iter_chunked(_BLOCK) if request.can_read_body else None
    try:
        async with session.request(request.method, URL(url, encoded=True), headers=headers, data=body) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    response.headers.add(name, value)
            if answer.content_length is not None:
                response.content_length = answer.content_length
            await response.prepare(request)
            async for block in answer.content.iter_any():
                await response.write(block)
            await response.write_eof()
            return response
    except aiohttp.ClientConnectionError:
        with contextlib.suppress(ConnectionError):
            await request.read()
        raise web.HTTPBadGateway(text="git-annex on this hub did not answer: try again\n") from None
