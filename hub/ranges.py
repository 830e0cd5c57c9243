"""The `Range` header (RFC 9110, section 14), and the answer that several ranges get. Pure."""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import dataclass

_RANGES = re.compile(r"bytes=(.*)", re.IGNORECASE)
_ONE = re.compile(r"([0-9]{0,40})-([0-9]{0,40})")
MOST_RANGES = 64


class UnsatisfiableError(Exception):
    """None of the ranges lies in the content, or there are too many of them, or they overlap."""


@dataclass(frozen=True)
class Range:
    """Bytes from `start` up to `stop`, never none."""

    start: int
    stop: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{size}"

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def parse_ranges(header: str | None, size: int) -> tuple[Range, ...] | None:
    """The ranges of content of `size` bytes that `header` asks for, in its order; None where all of it is to be sent.

    What is not in bytes is ignored, as RFC 9110 demands, and so is what cannot be understood, as it allows. Raises
    UnsatisfiableError (416) where nothing of what is asked exists, and, as section 15.5.17 allows, for more than
    MOST_RANGES or ranges that overlap: they would make a small file a long answer.
    """
    found = _RANGES.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    ranges = []
    for text in found[1].split(","):
        if not text.strip():
            continue  # empty elements of a list are to be taken, and ignored
        one = _ONE.fullmatch(text.strip())
        if one is None or not (one[1] or one[2]) or (one[1] and one[2] and int(one[2]) < int(one[1])):
            return None
        if not one[1]:
            start, stop = max(0, size - int(one[2])), size
        else:
            start, stop = int(one[1]), min(int(one[2]) + 1, size) if one[2] else size
        if start < stop:
            ranges.append(Range(start, stop))
    ordered = sorted(ranges, key=lambda part: part.start)
    overlap = any(a.stop > b.start for a, b in itertools.pairwise(ordered))
    if not ranges or len(ranges) > MOST_RANGES or overlap:
        raise UnsatisfiableError
    return tuple(ranges)


@dataclass(frozen=True)
class Multipart:
    """A `multipart/byteranges` body: each range behind a head of its own, then the end."""

    content_type: str
    heads: tuple[bytes, ...]
    end: bytes
    nbytes: int


def multipart(ranges: tuple[Range, ...], size: int, kind: str) -> Multipart:
    """How `ranges` of content of `size` bytes and media type `kind` are sent in one answer."""
    boundary = secrets.token_hex(16)
    heads = tuple(
        f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {part.content_range(size)}\r\n\r\n".encode()
        for part in ranges
    )
    end = f"\r\n--{boundary}--\r\n".encode()
    nbytes = sum(map(len, heads)) + sum(part.nbytes for part in ranges) + len(end)
    return Multipart(f"multipart/byteranges; boundary={boundary}", heads, end, nbytes)
