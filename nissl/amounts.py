"""Amounts as people read them."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """A size as people read it, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
