"""The one way to run git, git-annex and datalad: arguments as a list, output as text or stream, errors as sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nissl.errors import NisslError, NoSpaceError


class GitError(NisslError):
    """git, git-annex or datalad refused; the message carries what it said."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for git: English messages, no questions, and our own git-annex on the path.

    git-annex is installed beside Python; it must be found even where nobody activated that environment.
    """
    beside_python = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if beside_python not in path.split(os.pathsep):
        path = f"{beside_python}{os.pathsep}{path}"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", **(extra or {})}


def git(repository: Path, *arguments: str, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run `git ARGUMENTS` in `repository` and return what it prints. text: its standard input. Raises GitError."""
    return _run(["git", *arguments], repository, text, env)


def annex(repository: Path, *arguments: str, text: str | None = None) -> str:
    """Run `git annex ARGUMENTS`, like `git`."""
    return _run(["git", "annex", *arguments], repository, text, None)


def datalad(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run `datalad ARGUMENTS` in `folder`, like `git`."""
    return _run(["datalad", "-l", "error", *arguments], folder, None, env)


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
            process.terminate()
            raise
        if process.wait():
            errors.seek(0)
            raise _failure(command, repository, errors.read() + "\n".join(complaints))


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


def _run(command: list[str], folder: Path, text: str | None, env: Mapping[str, str] | None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(env),
            input=text if text is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
    except FileNotFoundError:
        if not folder.is_dir():
            raise GitError(f"{folder} does not exist") from None
        raise GitError(f"{command[0]} is not installed: install it with your system's package manager") from None
    if done.returncode:
        raise _failure(command, folder, done.stderr or done.stdout)
    return done.stdout


def _failure(command: list[str], folder: Path, said: str) -> NisslError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    what = "; ".join(lines[-3:]) or "no reason given"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return NoSpaceError(f"no space left on the device that holds {folder}: free some space and run it again")
    name = " ".join(word for word in command[:4] if not word.startswith("-") and word != "error")
    return GitError(f"`{name}` failed in {folder}: {what}")
