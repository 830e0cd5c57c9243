"""URLs taken apart: dataset, ref, path. Pure.

    /data/<dataset>/<ref>/<path>

A dataset's name has several segments; the longest one that the hub knows is meant. A ref is one segment: a slash in a
branch's name is written `%2F`. Paths are compared segment by segment against git's trees and never touch the file
system, and still `..` and its relatives are refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from nissl.errors import NisslError


class AddressError(NisslError):
    """A URL that is malformed."""


class UnknownError(AddressError):
    """A URL that names a dataset, ref or path that does not exist."""


@dataclass(frozen=True)
class Address:
    """What a URL names. An empty path is the dataset's root."""

    dataset: str
    ref: str
    path: str

    def url(self, surface: str) -> str:
        parts = [surface.strip("/"), quote(self.dataset), quote(self.ref, safe="")]
        return "/" + "/".join([*parts, quote(self.path)] if self.path else parts)


def parse_address(raw: str, has: Callable[[str], bool]) -> Address:
    """The address in `raw`, the part of a URL's path after the surface's name, still percent-encoded.

    has: whether the hub has a dataset of that name.
    """
    segments = [_decode(segment) for segment in raw.strip("/").split("/")]
    for count in range(len(segments), 0, -1):
        name = "/".join(segments[:count])
        if not any("/" in segment for segment in segments[:count]) and has(name):
            break
    else:
        raise UnknownError(f"this hub has no dataset {'/'.join(segments)!r}")
    if count == len(segments):
        raise AddressError(f"{name!r} needs a branch, tag or commit after it, as in {name}/main")
    ref, path = segments[count], segments[count + 1 :]
    for segment in path:
        if segment in ("", ".", "..") or "/" in segment:
            raise AddressError(f"{'/'.join(path)!r} is not a path inside a dataset")
    return Address(name, ref, "/".join(path))


def _decode(segment: str) -> str:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise AddressError(f"{segment!r} is not UTF-8") from None
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise AddressError(f"{text!r} has control characters")
    return text
