"""One writer at a time, and folders for work in progress that the next run can clear after a crash.

Locks are `flock`s: the kernel drops them when their process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` for work in progress, removed at the end; what crashed runs left is removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    with exclusive(parent / ".lock"):  # nobody else looks for leftovers between our making the folder and locking it
        for leftover in parent.iterdir():
            if leftover.is_dir() and not _in_use(leftover):
                remove_tree(leftover)
        folder = parent / secrets.token_hex(8)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it, git-annex's write-protected object folders too."""
    for inside, _, _ in os.walk(folder):
        Path(inside).chmod(0o700)
    shutil.rmtree(folder)


def _in_use(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
