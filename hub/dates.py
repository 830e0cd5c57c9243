"""`main@{2026-11-21T10:00Z}`: a branch as it was at a time.

Git answers this from its reflog, which a bare repository does not keep and a clone does not carry. Here the answer
comes from the history itself, so that every copy of the dataset gives the same one: from the branch's head back along
first parents, the first commit whose committer date is not later than the time. It is the commit that

    git rev-list -1 --first-parent --before=TIME BRANCH

names. Two limits follow. A branch that was moved by force answers from what it is today. A commit made elsewhere counts
from when it was made, not from when it was pushed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import pygit2

from nissl.hub.address import UnknownError

_DATED = re.compile(r"(?P<branch>.+)@\{(?P<time>[^{}]*)\}")


@dataclass(frozen=True)
class Dated:
    """A branch at a time."""

    branch: str
    time: datetime


def parse_dated(ref: str) -> Dated | None:
    """The branch and time in `ref`, None where it names no time.

    The time is ISO 8601; without a zone it is UTC, a date alone is its midnight. Raises UnknownError where it is none.
    """
    found = _DATED.fullmatch(ref)
    if found is None:
        return None
    try:
        time = datetime.fromisoformat(found["time"])
        return Dated(found["branch"], (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError):
        raise UnknownError(
            f"{found['time']!r} is no ISO 8601 date or time: write {found['branch']}@{{2026-11-21T10:00Z}}"
        ) from None


def commit_at(head: pygit2.Commit, time: datetime) -> pygit2.Commit | None:
    """The newest commit at `time` on the first-parent history of `head`, None where that begins later."""
    limit = int(time.timestamp())
    commit = head
    while commit.commit_time > limit:
        if not commit.parent_ids:
            return None
        commit = commit.parents[0]
    return commit
