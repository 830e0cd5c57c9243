"""The checksums of what an image was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nissl.formats.journal import Lines

_BLOCK = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: its name without folders, so that moving a stack does not make it another one.

    A folder of chunks is one entry too, however many there are: its size is that of all its files, its checksum that of
    the lines `<sha256>  <path within the folder>` that `sha256sum` prints of them, folder by folder in order of names.
    """

    name: str
    size: int
    sha256: str


def checksum(
    files: Sequence[Path], progress: Callable[[int], None] = lambda _: None, journal: Lines | None = None
) -> tuple[SourceFile, ...]:
    """Checksum each file or folder; `progress` is told the bytes read since its last call, and may raise to stop it.

    journal: where checksums are written down, and taken from; only for files that are known not to have changed.
    """
    known = {} if journal is None else {line.pop("path"): SourceFile(**line) for line in journal.read()}
    found = []
    for file in files:
        one = known.get(str(file))
        if one is None:
            one = (_checksum_folder if file.is_dir() else _checksum)(file, progress)
            if journal is not None:
                journal.add({"path": str(file), **asdict(one)})
        found.append(one)
    return tuple(found)


def stamp(file: Path) -> tuple[int, int]:
    """Size, and time in ns of the last change, of a file or of all files in a folder: what shows a change."""
    size = newest = 0
    for one in _files(file) if file.is_dir() else (file,):
        state = one.stat()
        size += state.st_size
        newest = max(newest, state.st_mtime_ns)
    return size, newest


def total_bytes(files: Sequence[Path]) -> int:
    return sum(stamp(file)[0] for file in files)


def _checksum(file: Path, progress: Callable[[int], None]) -> SourceFile:
    digest = hashlib.sha256()
    size = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            size += len(block)
            progress(len(block))
    return SourceFile(file.name, size, digest.hexdigest())


def _checksum_folder(folder: Path, progress: Callable[[int], None]) -> SourceFile:
    digest = hashlib.sha256()
    size = 0
    for file in _files(folder):
        one = _checksum(file, progress)
        digest.update(f"{one.sha256}  {file.relative_to(folder).as_posix()}\n".encode())
        size += one.size
    return SourceFile(folder.name, size, digest.hexdigest())


def _files(folder: Path) -> Iterator[Path]:
    """All files below `folder`, in order of names, with no more than one folder's names in memory at a time."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


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
