"""Writers stop when the owner says so, or is dead; the owner sees who still writes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nissl.formats.fence import Fence, FenceDownError, mark_of

NAME = "tcp://10.0.0.7:4711"


def call_for(seconds: float, *calls: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for call in calls:
            call()
        time.sleep(0.05)


def test_a_writer_inside_is_seen_and_goes_on_while_the_fence_is_up(tmp_path: Path) -> None:
    fence = Fence.put_up(tmp_path / "image")
    there = pickle.loads(pickle.dumps(fence))  # noqa: S301 - as it travels to a worker
    with there.inside(NAME) as check:
        check()
        assert fence.writers() == {mark_of(NAME)}
    assert fence.writers() == set()


def test_a_writer_stops_soon_after_the_fence_went_down(tmp_path: Path) -> None:
    fence = Fence.put_up(tmp_path / "image")
    with pytest.raises(FenceDownError, match="is gone"), fence.inside(NAME) as check:
        call_for(10, check, fence.take_down)
    assert fence.writers() == set()


def test_a_new_owner_stops_the_writers_of_one_that_died(tmp_path: Path) -> None:
    old = Fence.put_up(tmp_path / "image")
    other = Fence.put_up(tmp_path / "another image")
    with old.inside(NAME) as check, other.inside(NAME) as check_other:
        check()
        Fence.put_up(tmp_path / "image")
        with pytest.raises(FenceDownError, match="is gone"):
            call_for(10, check)
        call_for(1, check_other)


@pytest.mark.parametrize("removed", [False, True])
def test_nobody_starts_to_write_inside_a_fence_that_is_down(removed: bool, tmp_path: Path) -> None:
    fence = Fence.put_up(tmp_path / "image")
    fence.take_down()
    if removed:
        fence.remove()
    with pytest.raises(FenceDownError), fence.inside(NAME):
        pytest.fail("it must not come so far")
    assert not fence.writers()


@pytest.mark.slow
def test_a_writer_stops_when_its_owner_was_not_heard_of_for_long(tmp_path: Path) -> None:
    fence = replace(Fence.put_up(tmp_path / "image"), silence_s=1.5)
    with fence.inside(NAME) as check:
        call_for(2.5, fence.keep_up, check)  # longer than the silence, but the owner lives
        with pytest.raises(FenceDownError, match=r"was not renewed for 1\.5 s"):
            call_for(20, check)


def test_the_mark_of_a_writer_that_was_killed_stays(tmp_path: Path) -> None:
    fence = Fence.put_up(tmp_path / "image")
    code = (
        f"import sys, pathlib; from nissl.formats.fence import Fence\n"
        f"with Fence(pathlib.Path(sys.argv[1])).inside({NAME!r}): print('in', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, fence.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert fence.writers() == {mark_of(NAME)}
    fence.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_note_shows_that_two_machines_see_one_folder(tmp_path: Path) -> None:
    fence = Fence.put_up(tmp_path / "image")
    assert fence.is_visible()
    assert not fence.take_note(NAME)
    fence.leave_note(NAME)
    assert not fence.writers()
    assert fence.take_note(NAME)
    (fence.folder / "up").write_text("another one of the same name, on another machine")
    assert not fence.is_visible()
