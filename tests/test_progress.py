"""How fast it goes, and how long it will take: from what was done lately, not from what was there before."""

from __future__ import annotations

import json

import pytest

from nissl.progress import Display, Pace


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    for second in range(0, 101):
        pace.add(float(second), 10 * second)
    for second in range(101, 141):
        pace.add(float(second), 1000 + 50 * (second - 100))
    assert pace.rate == pytest.approx(50.0)
    assert pace.remaining_s(3000 + 500) == pytest.approx(10.0)


def test_what_was_there_at_the_start_is_no_part_of_the_rate() -> None:
    pace = Pace()
    pace.add(0.0, 9_000)
    pace.add(2.0, 9_100)
    assert pace.rate == 50.0
    assert pace.remaining_s(10_000) == 18.0


def test_nothing_is_said_of_what_nobody_can_know() -> None:
    pace = Pace()
    pace.add(0.0, 500)
    assert (pace.rate, pace.remaining_s(1000)) == (None, None)
    pace.add(9.0, 500)
    assert (pace.rate, pace.remaining_s(1000)) == (None, None)


def test_a_stage_that_stands_still_slows_down_and_then_has_no_rate() -> None:
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(1.0, 100)
    pace.add(20.0, 100)
    assert pace.rate == 5.0
    pace.add(40.0, 100)
    pace.add(75.0, 100)
    assert pace.rate is None


def test_what_is_done_needs_no_more_time() -> None:
    pace = Pace()
    pace.add(0.0, 1000)
    assert pace.remaining_s(1000) == 0.0


def test_json_lines_have_rate_and_remaining_time_of_their_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 101.1, 102.0])
    monkeypatch.setattr("nissl.progress.time.monotonic", lambda: next(clock))
    with Display(as_json=True) as display:
        display("write", 600, 1000)
        display("write", 700, 1000)
        display("annex", 0, 50)
        display("write", 800, 1000)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["stage"], one["done"], one["rate"], one["remaining_s"]) for one in said] == [
        ("write", 600, None, None),
        ("write", 700, 100.0, 3.0),
        ("annex", 0, None, None),
        ("write", 800, 100.0, 2.0),
    ]
