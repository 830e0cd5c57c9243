"""A file as it was written: what a journal remembers of it, and whether it still is that file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import google_crc32c

_BLOCK = 1 << 20


@dataclass(frozen=True)
class WrittenFile:
    """A finished file of an image."""

    name: str
    """Its path within the image's folder."""
    nbytes: int
    crc32c: int
    """Of the whole file, as read back."""

    @classmethod
    def of(cls, path: Path, folder: Path) -> WrittenFile:
        """What lies at `path`, below `folder`."""
        nbytes, crc32c = 0, 0
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                nbytes += len(block)
                crc32c = int(google_crc32c.extend(crc32c, block))
        return cls(path.relative_to(folder).as_posix(), nbytes, crc32c)

    def agrees(self, folder: Path) -> bool:
        """Whether the file is there, below `folder`, and the same to the bit."""
        path = folder / self.name
        try:
            return path.stat().st_size == self.nbytes and WrittenFile.of(path, folder) == self
        except OSError:  # gone, or on a part of the disk that cannot be read: it has to be written again in both cases
            return False
