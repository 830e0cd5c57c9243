"""The checksums of what an image was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nissl.formats.journal import Lines

_BLOCK = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: its name without folders, so that moving a stack does not make it another one."""

    name: str
    size: int
    sha256: str


def checksum(
    files: Sequence[Path], progress: Callable[[int], None] = lambda _: None, journal: Lines | None = None
) -> tuple[SourceFile, ...]:
    """Checksum each file; `progress` is told the bytes read since its last call, and may raise to stop it.

    journal: where checksums are written down, and taken from; only for files that are known not to have changed.
    """
    known = {} if journal is None else {line.pop("path"): SourceFile(**line) for line in journal.read()}
    found = []
    for file in files:
        one = known.get(str(file))
        if one is None:
            one = _checksum(file, progress)
            if journal is not None:
                journal.add({"path": str(file), **asdict(one)})
        found.append(one)
    return tuple(found)


def _checksum(file: Path, progress: Callable[[int], None]) -> SourceFile:
    digest = hashlib.sha256()
    size = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            size += len(block)
            progress(len(block))
    return SourceFile(file.name, size, digest.hexdigest())


def changes(before: Sequence[SourceFile], now: Sequence[SourceFile]) -> list[str]:
    """How `now` differs from `before`, one phrase per file; empty where it does not."""
    old = {file.name: file for file in before}
    new = {file.name: file for file in now}
    said = [f"{name} is new" for name in new if name not in old]
    said += [f"{name} is gone" for name in old if name not in new]
    said += [f"{name} has changed" for name in new if name in old and new[name] != old[name]]
    if not said and [file.name for file in before] != [file.name for file in now]:
        said.append("the planes are in another order")
    return said
