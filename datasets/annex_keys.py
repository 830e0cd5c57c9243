"""What a git-annex key says: the size of its content, and a checksum. Pure.

Source: https://git-annex.branchable.com/internals/key_format/ and .../internals/pointer_file/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from typing import Protocol

from nissl.formats.shards import ANNEX_POINTER, LONGEST_ANNEX_POINTER

_KEY = re.compile(r"(?P<backend>[A-Z0-9_]+)(?P<fields>(?:-[a-zA-Z][0-9]+)*)--(?P<name>[^/\0\n]+)")
_SIZE = re.compile(r"-s([0-9]+)")
_POINTER = re.compile(re.escape(ANNEX_POINTER) + rb"([^/\n]+)(?:\n|$)")


class Hash(Protocol):
    """A hash of Python's `hashlib`."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def _blake2b(nbytes: int) -> Hash:
    return hashlib.blake2b(digest_size=nbytes)


def _blake2s(nbytes: int) -> Hash:
    return hashlib.blake2s(digest_size=nbytes)


_HASHES: dict[str, Callable[[], Hash]] = {
    **{name: partial(hashlib.new, name.lower()) for name in ("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512")},
    **{f"BLAKE2B{bits}": partial(_blake2b, bits // 8) for bits in (160, 224, 256, 384, 512)},
    **{f"BLAKE2S{bits}": partial(_blake2s, bits // 8) for bits in (160, 224, 256)},
}


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def key_size(key: str) -> int | None:
    """Bytes of the content, None where the key does not say."""
    found = _KEY.fullmatch(key)
    size = _SIZE.search(found["fields"]) if found else None
    return int(size[1]) if size else None


def key_checksum(key: str) -> tuple[Hash, str] | None:
    """A fresh hash of the key's kind, and the hexadecimal digest that the content must have.

    None where the key has no checksum, or one that Python does not compute.
    """
    found = _KEY.fullmatch(key)
    # Backends whose name ends in E keep the file's extension behind the digest.
    make = _HASHES.get(found["backend"].removesuffix("E")) if found else None
    return (make(), found["name"].partition(".")[0]) if found and make else None


def key_of_pointer(content: bytes) -> str | None:
    """The key that the content of an unlocked file names where it is a pointer; None where it is not."""
    found = _POINTER.match(content) if len(content) <= LONGEST_ANNEX_POINTER else None
    key = found[1].decode(errors="surrogateescape") if found else ""
    return key if is_key(key) else None


def key_of_link(target: str) -> str | None:
    """The key that a symbolic link of a locked file names, None where it does not lead into the annex."""
    *folders, key = target.split("/")
    return key if "annex" in folders and "objects" in folders and is_key(key) else None
