"""Who may write into a folder that several machines share: only those who stand inside a fence that is still up.

A fence is a folder beside the one that is written. Its owner puts it up, keeps a file in it fresh, and takes it down;
whoever writes leaves a mark in it meanwhile. So a writer notices that it is to stop even where nothing but the shared
disk connects it with the owner any more, and the owner sees who still writes.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nissl.errors import NisslError

_UP = "up"
_CHECK_S = 0.5
_SILENCE_S = 300.0
"""An owner that was not heard of for so long is dead. Over NFS a file's time may be seen a minute late."""


class FenceDownError(NisslError):
    """The owner has stopped the work, or is dead: nothing may be written any more."""


@dataclass(frozen=True)
class Fence:
    """A picklable value. `put_up` makes one."""

    folder: Path
    silence_s: float = _SILENCE_S

    # What its owner does

    @staticmethod
    def put_up(beside: Path) -> Fence:
        """Put up a fence around what is written into the folder `beside`.

        It is the only one: those whom an earlier owner, now dead, let in stop.
        """
        for old in beside.parent.glob(f".{glob.escape(beside.name)}.*.fence"):
            shutil.rmtree(old, ignore_errors=True)
        fence = Fence(beside.with_name(f".{beside.name}.{uuid.uuid4().hex[:12]}.fence"))
        fence.folder.mkdir(parents=True)
        (fence.folder / _UP).write_text(fence.folder.name)
        return fence

    def keep_up(self) -> None:
        """To be called every few seconds."""
        os.utime(self.folder / _UP)

    def take_down(self) -> None:
        """From now on writers stop, one after the other."""
        (self.folder / _UP).unlink(missing_ok=True)

    def writers(self) -> set[str]:
        """The marks of those who are inside, or died there: `mark_of` names them."""
        with contextlib.suppress(FileNotFoundError):
            marks = (path.name.partition(".") for path in self.folder.iterdir() if path.name != _UP)
            return {name for name, _, kind in marks if kind != "note"}
        return set()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # What writers do

    def is_visible(self) -> bool:
        """Whether this machine sees the same folder as the owner."""
        with contextlib.suppress(OSError):
            return (self.folder / _UP).read_text() == self.folder.name
        return False

    def leave_note(self, name: str) -> None:
        """Write a file into the fence, for the owner to see whether this machine may. Raises OSError."""
        (self.folder / f"{mark_of(name)}.note").write_text(name)

    def take_note(self, name: str) -> bool:
        """Whether `name` left a note; it is gone then."""
        note = self.folder / f"{mark_of(name)}.note"
        with contextlib.suppress(OSError):
            found = note.read_text() == name
            note.unlink()
            return found
        return False

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[Callable[[], None]]:
        """Stand inside as `name`. Yields what is to be called often: it raises FenceDownError once the fence is down.

        Raises FenceDownError where it is down already.
        """
        mark = self.folder / f"{mark_of(name)}.{uuid.uuid4().hex}"
        try:
            mark.touch()
        except FileNotFoundError:
            raise self._down() from None
        try:
            check = _Check(self)
            check()
            yield check
        finally:
            mark.unlink(missing_ok=True)

    def _down(self) -> FenceDownError:
        return FenceDownError(f"{self.folder} is gone: whoever wanted this work has stopped it")


class _Check:
    """Looks at the fence every half second. Clocks of other machines do not matter, only that the file's time moves."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._looked = -math.inf
        self._moved = time.monotonic()
        self._stamp = 0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked < _CHECK_S:
            return
        self._looked = now
        try:
            stamp = (self._fence.folder / _UP).stat().st_mtime_ns
        except FileNotFoundError:
            raise self._fence._down() from None
        if stamp != self._stamp:
            self._stamp, self._moved = stamp, now
        elif now - self._moved > self._fence.silence_s:
            raise FenceDownError(
                f"{self._fence.folder} was not renewed for {self._fence.silence_s:g} s: "
                "whoever wanted this work is dead"
            )


def mark_of(name: str) -> str:
    """`name`, say tcp://10.0.0.7:4711, as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9-]", "_", name)
