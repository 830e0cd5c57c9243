"""Git's smart HTTP, through git's own `http-backend`: clone, fetch and push, exactly as git does them.

    /git/<dataset>/info/refs?service=...   /git/<dataset>/git-upload-pack   /git/<dataset>/git-receive-pack
    /git/<dataset>/config                  what git-annex asks for: this annex's UUID and where its P2P HTTP is

The `config` is made up of just these two values; the repository's own is nobody's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from urllib.parse import unquote

from aiohttp import web

from nissl.datasets.git import environment
from nissl.federation.access import Action
from nissl.hub.access import authorize, authorize_listing
from nissl.hub.address import UnknownError
from nissl.hub.site import HUB, base_url
from nissl.hub.versions import annex_uuid

_SERVICES = {"git-upload-pack": Action.READ, "git-receive-pack": Action.WRITE}
_BLOCK = 1 << 16
_ENDPOINT = re.compile(
    r"/git/(?P<dataset>.+?)(?:\.git)?/(?P<endpoint>info/refs|config|git-upload-pack|git-receive-pack)"
)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/git/{tail:.+}", _handle)
    app.router.add_post("/git/{tail:.+}", _handle)


async def _handle(request: web.Request) -> web.StreamResponse:
    authorize_listing(request)
    found = _ENDPOINT.fullmatch(unquote(request.raw_path.partition("?")[0]))
    if found is None:
        raise UnknownError("this hub speaks git's smart HTTP only: clone with git 1.6.6 or newer, or with datalad")
    dataset, endpoint = found["dataset"], found["endpoint"]
    if not request.app[HUB].has(dataset):
        raise UnknownError(f"this hub has no dataset {dataset!r}")
    if endpoint == "config":
        return _config(request, dataset)
    service = request.query.get("service", "") if endpoint == "info/refs" else endpoint
    if service not in _SERVICES:
        raise UnknownError("this hub speaks git's smart HTTP only: clone with git 1.6.6 or newer, or with datalad")
    grant = authorize(request, _SERVICES[service], dataset)
    return await _backend(request, dataset, endpoint, grant.subject if grant else "")


def _config(request: web.Request, dataset: str) -> web.Response:
    authorize(request, Action.READ, dataset)
    text = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
    uuid = annex_uuid(request.app[HUB], dataset)
    if uuid is not None:
        text += f"[annex]\n\tuuid = {uuid}\n\turl = annex+{base_url(request)}/annex/\n"
    return web.Response(text=text, content_type="text/plain", headers={"Cache-Control": "no-cache"})


async def _backend(request: web.Request, dataset: str, endpoint: str, user: str) -> web.StreamResponse:
    """Run `git http-backend` as the CGI program that it is, streaming both ways."""
    hub = request.app[HUB]
    variables = {
        "GIT_PROJECT_ROOT": str(hub.repositories),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{dataset}.git/{endpoint}",
        "QUERY_STRING": request.rel_url.raw_query_string,
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "REMOTE_ADDR": request.remote or "",
        "REMOTE_USER": user,
    }
    # git compresses longer requests; aiohttp has unpacked them already, so that their length is not known.
    if request.content_length is not None and "Content-Encoding" not in request.headers:
        variables["CONTENT_LENGTH"] = str(request.content_length)
    process = await asyncio.create_subprocess_exec(
        *("git", "http-backend"),
        env={**environment(), **variables},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    feeding = asyncio.create_task(_feed(request, process))
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for above
        response = await _head(process.stdout)
        await response.prepare(request)
        async for block in _blocks(process.stdout):
            await response.write(block)
        await response.write_eof()
        return response
    except BaseException:
        # Not in the ordinary case: killing a process that has just ended takes its exit code from asyncio.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        feeding.cancel()
        await process.wait()


async def _feed(request: web.Request, process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(ConnectionError):
        async for block in request.content.iter_chunked(_BLOCK):
            process.stdin.write(block)
            await process.stdin.drain()
        process.stdin.close()


async def _head(output: asyncio.StreamReader) -> web.StreamResponse:
    """The response that the CGI program's header lines describe."""
    response = web.StreamResponse()
    while line := (await output.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        if name.lower() == "status":
            response.set_status(int(value.split()[0]))
        else:
            response.headers[name] = value.strip()
    return response


async def _blocks(output: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while block := await output.read(_BLOCK):
        yield block
