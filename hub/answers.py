"""Content sent as HTTP wants it: validators, one range, several ranges (RFC 9110), from memory or from a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aiohttp import hdrs, web

from nissl.hub.ranges import UnsatisfiableError, multipart, parse_ranges

_BLOCK = 1 << 18


def version_headers(commit: str, *, immutable: bool) -> dict[str, str]:
    """What says how long an answer is good for, and which version it shows."""
    return {
        "Cache-Control": "public, max-age=31536000, immutable" if immutable else "no-cache",
        "X-Nissl-Commit": commit,
    }


def matches(condition: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the content whose ETag is `tag`."""
    if condition is None:
        return False
    return condition.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in condition.split(","))


def send_bytes(request: web.Request, content: bytes | bytearray, headers: dict[str, str]) -> web.Response:
    """`content`, or the ranges of it that were asked for. headers: with `hdrs.ETAG` and `hdrs.CONTENT_TYPE`."""
    tag, size = headers[hdrs.ETAG], len(content)
    asked = request.headers
    if hdrs.IF_NONE_MATCH in asked and matches(asked[hdrs.IF_NONE_MATCH], tag):
        return web.Response(status=304, headers=headers)
    if hdrs.RANGE not in asked or asked.get(hdrs.IF_RANGE, tag) != tag:
        return web.Response(body=content, headers=headers)
    try:
        ranges = parse_ranges(asked[hdrs.RANGE], size)
    except UnsatisfiableError:
        raise unsatisfiable(size) from None
    if ranges is None:
        return web.Response(body=content, headers=headers)
    if len(ranges) == 1:
        (only,) = ranges
        headers = {**headers, hdrs.CONTENT_RANGE: only.content_range(size)}
        return web.Response(status=206, body=content[only.start : only.stop], headers=headers)
    parts = multipart(ranges, size, headers[hdrs.CONTENT_TYPE])
    pieces = (head + content[part.start : part.stop] for head, part in zip(parts.heads, ranges, strict=True))
    headers = {**headers, hdrs.CONTENT_TYPE: parts.content_type}
    return web.Response(status=206, body=b"".join(pieces) + parts.end, headers=headers)


async def send_file(request: web.Request, path: Path, headers: dict[str, str]) -> web.StreamResponse:
    """The file at `path`, or the ranges of it that were asked for. headers: with `hdrs.CONTENT_TYPE`."""
    asked = request.headers
    if hdrs.RANGE not in asked:
        return web.FileResponse(path, headers=headers)
    # aiohttp sends files well, but refuses several ranges and units other than bytes, and takes an ETag in `If-Range`
    # for no condition.
    status = path.stat()
    size, tag = status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'  # as aiohttp makes it
    try:
        ranges = parse_ranges(asked[hdrs.RANGE], size)
    except UnsatisfiableError:
        raise unsatisfiable(size) from None
    if '"' in asked.get(hdrs.IF_RANGE, "") and asked[hdrs.IF_RANGE] != tag:
        ranges = None
    elif ranges is not None and len(ranges) == 1:
        return web.FileResponse(path, headers=headers)
    headers = {**headers, hdrs.ETAG: tag}
    if matches(asked.get(hdrs.IF_NONE_MATCH), tag):
        return web.Response(status=304, headers=headers)
    if ranges is None:
        return await _stream(request, path, 200, headers, [(b"", 0, size)], b"")
    parts = multipart(ranges, size, headers[hdrs.CONTENT_TYPE])
    pieces = [(head, part.start, part.stop) for head, part in zip(parts.heads, ranges, strict=True)]
    return await _stream(request, path, 206, {**headers, hdrs.CONTENT_TYPE: parts.content_type}, pieces, parts.end)


async def _stream(
    request: web.Request,
    path: Path,
    status: int,
    headers: dict[str, str],
    pieces: list[tuple[bytes, int, int]],
    end: bytes,
) -> web.StreamResponse:
    """Each piece's head and then its bytes from start up to stop, block by block."""
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = sum(len(head) + stop - start for head, start, stop in pieces) + len(end)
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    try:
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        for head, start, stop in pieces:
            if head:
                await response.write(head)
            for offset in range(start, stop, _BLOCK):
                nbytes = min(_BLOCK, stop - offset)
                await response.write(await asyncio.to_thread(os.pread, descriptor, nbytes, offset))
        if end:
            await response.write(end)
        await response.write_eof()
    finally:
        os.close(descriptor)
    return response


def unsatisfiable(size: int) -> web.HTTPException:
    error = web.HTTPRequestRangeNotSatisfiable(text=f"the content has {size} bytes: none of them were asked for\n")
    error.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
    return error


def unavailable(sentence: str) -> web.HTTPException:
    """424: the dataset has this, and the hub cannot give it. Not 404, which Zarr readers take for zeros."""
    error = web.HTTPFailedDependency(text=f"{sentence}\n")
    error.headers[hdrs.CACHE_CONTROL] = "no-store"
    return error
