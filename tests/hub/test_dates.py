from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest

from nissl.hub.address import Address, UnknownError
from nissl.hub.dates import parse_dated
from nissl.hub.versions import resolve
from tests.hub.client import ask
from tests.hub.conftest import SECTION, RunningHub


@pytest.mark.parametrize(
    ("ref", "time"),
    [
        ("main@{2026-11-21T10:00Z}", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("main@{2026-11-21T10:00:30+02:00}", datetime(2026, 11, 21, 8, 0, 30, tzinfo=UTC)),
        ("main@{2026-11-21T10:00}", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("main@{2026-11-21}", datetime(2026, 11, 21, tzinfo=UTC)),
    ],
)
def test_a_branch_at_a_time_is_written_in_iso_8601(ref: str, time: datetime) -> None:
    dated = parse_dated(ref)
    assert dated is not None
    assert (dated.branch, dated.time) == ("main", time)


@pytest.mark.parametrize("ref", ["main", "main@", "main@{", "@{2026-11-21}", "main{2026-11-21}", "v1@2026"])
def test_other_refs_name_no_time(ref: str) -> None:
    assert parse_dated(ref) is None


@pytest.mark.parametrize("ref", ["main@{yesterday}", "main@{1}", "main@{}", "main@{2026-13-01}", "main@{٢٠٢٦-11-21}"])
def test_what_is_no_time_is_said_with_an_example(ref: str) -> None:
    with pytest.raises(UnknownError, match="ISO 8601"):
        parse_dated(ref)


class History:
    """A repository whose commits have the dates that they are given; the ids of commits by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[str, str] = {}
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, date: str = "2026-01-01T00:00:00Z") -> str:
        dates = {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z"}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env={**os.environ, **dates},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, name: str, date: str, *arguments: str) -> None:
        self.git(*(arguments or ("commit", "-q", "--allow-empty", "-m", name)), date=date)
        self.ids[name] = self.git("rev-parse", "HEAD")

    def at(self, ref: str) -> str:
        """The name of the commit that `ref` means."""
        commit, immutable = resolve(pygit2.Repository(str(self.folder)), Address("brain", ref, ""))
        assert not immutable
        return next(name for name, known in self.ids.items() if known == str(commit.id))


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Two commits on `main`, one on `side` between them, and a merge of it."""
    history = History(tmp_path)
    history.commit("one", "2026-03-01T10:00:00Z")
    history.git("branch", "side")
    history.commit("two", "2026-03-03T10:00:00Z")
    history.git("switch", "-q", "side")
    history.commit("aside", "2026-03-02T10:00:00Z")
    history.git("switch", "-q", "main")
    history.commit("merge", "2026-03-04T10:00:00Z", "merge", "-q", "--no-ff", "-m", "merge", "side")
    return history


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("main@{2026-03-01T10:00Z}", "one"),
        ("main@{2026-03-01T10:00:00.5Z}", "one"),
        ("main@{2026-03-02T12:00Z}", "one"),  # what was on `side` then was not on `main`
        ("side@{2026-03-02T12:00Z}", "aside"),
        ("main@{2026-03-03T09:59:59Z}", "one"),
        ("main@{2026-03-03T11:59:59+02:00}", "one"),
        ("main@{2026-03-03T10:00:00Z}", "two"),
        ("main@{2026-03-04}", "two"),
        ("main@{2031-01-01}", "merge"),
    ],
)
def test_a_branch_at_a_time_is_its_newest_commit_by_then(ref: str, name: str, history: History) -> None:
    assert history.at(ref) == name


@pytest.mark.parametrize("time", ["2026-03-01T10:00:00Z", "2026-03-02T12:00:00Z", "2026-03-03T10:00:00Z", "2030-01-01"])
def test_git_says_the_same(time: str, history: History) -> None:
    before = time if "T" in time else f"{time}T00:00:00Z"
    theirs = history.git("rev-list", "-1", "--first-parent", f"--before={before}", "main")
    assert history.ids[history.at(f"main@{{{time}}}")] == theirs


@pytest.mark.parametrize("ref", ["main@{2026-03-01T09:59:59Z}", "gone@{2030-01-01}", "v1@{2030-01-01}"])
def test_there_is_nothing_before_the_beginning_and_nothing_of_other_names(ref: str, history: History) -> None:
    history.git("tag", "v1")
    with pytest.raises(UnknownError):
        history.at(ref)


@pytest.mark.parametrize("surface", ["data", "zarr"])
def test_the_hub_serves_a_branch_at_a_time_and_has_it_asked_again(surface: str, public_hub: RunningHub) -> None:
    section = public_hub.section
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%cI %H"], cwd=section, capture_output=True, text=True, check=True
    ).stdout.split()
    for ref in (f"main@{{{committed[0]}}}", f"main%40%7B{committed[0].replace('+', '%2B').replace(':', '%3A')}%7D"):
        answer = ask("GET", f"{public_hub.url}/{surface}/{SECTION}/{ref}/sub-01")
        assert answer.status == 200
        assert answer.headers["X-Nissl-Commit"] == committed[1]
        assert answer.headers["Cache-Control"] == "no-cache"
