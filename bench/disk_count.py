"""Inodes and bytes as they are on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Count:
    """What a folder takes: every inode once, however many names it has."""

    files: int
    folders: int
    links: int
    nbytes: int

    @property
    def inodes(self) -> int:
        return self.files + self.folders + self.links


def count(folder: Path, seen: set[tuple[int, int]] | None = None, without: Path | None = None) -> Count:
    """Count `folder` itself and all below it, but for the folder `without`.

    seen: inodes counted elsewhere, to be left out; those found here are added.
    """
    seen = set() if seen is None else seen
    files = folders = links = nbytes = 0
    pending = [folder]
    while pending:
        here = pending.pop()
        state = here.stat()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        folders += 1
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if (path := Path(entry.path)) != without:
                        pending.append(path)
                    continue
                state = entry.stat(follow_symlinks=False)
                if (state.st_dev, state.st_ino) in seen:
                    continue
                seen.add((state.st_dev, state.st_ino))
                links += entry.is_symlink()
                files += not entry.is_symlink()
                nbytes += state.st_size
    return Count(files, folders, links, nbytes)
