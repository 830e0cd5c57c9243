"""The one way to run git, git-annex and datalad: arguments as a list, output as text or stream, errors as sentences."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nissl.datasets.locks import held
from nissl.errors import NisslError, NoSpaceError

_ROOM_TO_WORK = 4 << 20  # bytes: commits of a section, its index, and git-annex's databases


class GitError(NisslError):
    """git, git-annex or datalad refused; the message carries what it said."""


def environment(config: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for git: English messages, no questions, and our own git-annex on the path.

    config: settings for git beside the user's own. git-annex is installed beside Python; it must be found even where
    nobody activated that environment.
    """
    # A file system monitor would outlive the command that starts it, and hold our locks with it.
    settings = {"core.fsmonitor": "false", **(config or {})}
    first = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
    given = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), first):
        given |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    beside_python = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if beside_python not in path.split(os.pathsep):
        path = f"{beside_python}{os.pathsep}{path}"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", **given}


def git(repository: Path, *arguments: str, text: str | None = None) -> str:
    """Run `git ARGUMENTS` in `repository` and return what it prints. text: its standard input. Raises GitError."""
    return _run(["git", *arguments], repository, text, None)


def annex(repository: Path, *arguments: str, text: str | None = None) -> str:
    """Run `git annex ARGUMENTS`, like `git`."""
    return _run(["git", "annex", *arguments], repository, text, None)


def datalad(folder: Path, *arguments: str, config: Mapping[str, str] | None = None) -> str:
    """Run `datalad ARGUMENTS` in `folder`, like `git`; config: settings for the git that it runs."""
    return _run(["datalad", "-l", "error", *arguments], folder, None, config)


def annex_records(repository: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run `git annex ARGUMENTS --json` and yield its records as they come. Raises GitError where it fails."""
    command = ["git", "annex", *arguments, "--json", "--json-error-messages"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            cwd=repository,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            pass_fds=held(),
            process_group=0,
        ) as process,
    ):
        complaints = []
        try:
            for line in process.stdout or ():
                record = json.loads(line)
                if not record.get("success", True):
                    complaints += [f"{record.get('file', '')}: {m}" for m in record.get("error-messages", [])]
                yield record
        except BaseException:
            _stop(process)
            raise
        if process.wait():
            errors.seek(0)
            raise _failure(command, repository, errors.read() + "\n".join(complaints))


def require_room(folder: Path) -> None:
    """Raises NoSpaceError where git and git-annex have no room to work: on a full disk, git-annex waits for ever."""
    if shutil.disk_usage(folder).free < _ROOM_TO_WORK:
        raise _no_space(folder)


def remove_stale_locks(repository: Path) -> None:
    """Remove what a killed git leaves locked for ever. Only for who knows that no git runs there now."""
    folder = Path(git(repository, "rev-parse", "--absolute-git-dir").strip())
    stale = [folder / name for name in ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock")]
    stale += [folder / "annex" / "index.lock", repository / ".gitmodules.lock", *folder.glob("next-index-*.lock")]
    stale += (folder / "refs").rglob("*.lock")
    for lock in stale:
        lock.unlink(missing_ok=True)


def has_identity(folder: Path) -> bool:
    """Whether git knows who commits here."""
    try:
        git(folder, "var", "GIT_COMMITTER_IDENT")
    except GitError:
        return False
    return True


def require_identity(folder: Path) -> None:
    """Raises GitError, saying how to introduce oneself, where git does not know who commits."""
    if not has_identity(folder):
        raise GitError(
            "git does not know who you are: run `git config --global user.name 'Your Name'` and "
            "`git config --global user.email you@example.org` once"
        )


def _run(command: list[str], folder: Path, text: str | None, config: Mapping[str, str] | None) -> str:
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(config),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            pass_fds=held(),
            process_group=0,
        )
    except FileNotFoundError:
        if not folder.is_dir():
            raise GitError(f"{folder} does not exist") from None
        raise GitError(f"{command[0]} is not installed: install it with your system's package manager") from None
    with process:
        try:
            said, complained = process.communicate(text or "")
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise _failure(command, folder, complained or said)
    return said


def _stop(process: subprocess.Popen[str]) -> None:
    """End a command and all that it has started, and wait for them: they write where the caller will clean up.

    Commands run in process groups of their own, so that Ctrl-C reaches them through here and in no other order.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.communicate()


def _failure(command: list[str], folder: Path, said: str) -> NisslError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    what = "; ".join(lines[-3:]) or "no reason given"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return _no_space(folder)
    name = " ".join(word for word in command[:4] if not word.startswith("-") and word != "error")
    return GitError(f"`{name}` failed in {folder}: {what}")


def _no_space(folder: Path) -> NoSpaceError:
    return NoSpaceError(f"no space left on the device that holds {folder}: free some space and run it again")
