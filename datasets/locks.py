"""One writer at a time, and folders for work in progress that the next run can clear after a crash.

Locks are `flock`s: the kernel drops them when their process ends, however it ends. The git commands that run under a
lock hold it too (`held`): where Nissl is killed and git goes on, the next writer waits until git is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

_held: ContextVar[tuple[int, ...]] = ContextVar("held", default=())

_PATIENCE_S = 10.0  # for processes that a killed run has left behind and that still write into its folder


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = _held.set((*_held.get(), file.fileno()))
        try:
            yield
        finally:
            _held.reset(before)


@contextlib.contextmanager
def occupying(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make `folder` and hold it, waiting for whoever holds it now; at the end it goes, if it is empty.

    waiting: called once where somebody else holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # its owner has just removed it
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_still(folder, descriptor):
                continue
            before = _held.set((*_held.get(), descriptor))
            try:
                yield
            finally:
                _held.reset(before)
                with contextlib.suppress(OSError):  # something is kept in it
                    folder.rmdir()
            return
        finally:
            os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether the folder of this name is the one that is open."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def held() -> tuple[int, ...]:
    """The descriptors of the locks that are held here, for subprocesses to inherit."""
    return _held.get()


@contextlib.contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` for work in progress, removed at the end; what crashed runs left is removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    with exclusive(parent / ".lock"):  # nobody else looks for leftovers between our making the folder and locking it
        _clear(parent)
        folder = parent / secrets.token_hex(8)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(descriptor)


def clear(parent: Path) -> None:
    """Remove what crashed runs left below `parent`, a folder of workshops."""
    if parent.exists():
        with exclusive(parent / ".lock"):
            _clear(parent)


def _clear(parent: Path) -> None:
    for leftover in parent.iterdir():
        if leftover.is_dir() and not in_use(leftover):
            remove_tree(leftover)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it, git-annex's write-protected object folders too."""
    deadline = time.monotonic() + _PATIENCE_S
    while folder.exists():
        try:
            for inside, _, _ in os.walk(folder):
                Path(inside).chmod(0o700)
            shutil.rmtree(folder)
        except OSError:  # files that came or went meanwhile
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def in_use(folder: Path) -> bool:
    """Whether somebody holds the lock of `folder`, or has just removed it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # its owner has just removed it
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
