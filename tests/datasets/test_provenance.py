"""Run records as DataLad writes them."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.ingest import Order
from nissl.datasets.names import ImageName
from nissl.datasets.provenance import Making, run_message, sources_of
from nissl.datasets.sources import SourceFile

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LENGTHS = st.floats(min_value=1e-6, max_value=1e6)


def a_making(command: tuple[str, ...] = ("nissl", "ingest")) -> Making:
    return Making(command, (SourceFile("a.tif", 3, "ab"),), {"skip": []}, NOON, NOON)


@given(st.lists(st.text(), min_size=1))
def test_the_command_survives_the_way_through_a_commit_message(words: list[str]) -> None:
    message = run_message("Ingest", a_making(tuple(words)), ["out put"], "an-id")
    title, _, rest = message.partition("\n\n=== Do not change lines below ===\n")
    body, end, after = rest.partition("\n^^^ Do not change lines above ^^^\n")
    record = json.loads(body)
    assert title == "[DATALAD RUNCMD] Ingest"
    assert end
    assert not after
    assert shlex.split(record["cmd"]) == words
    assert (record["outputs"], record["dsid"], record["exit"]) == (["out put"], "an-id", 0)


def test_a_record_names_sources_software_host_and_times() -> None:
    document = json.loads(json.dumps(a_making().document()))
    assert sources_of(document) == (SourceFile("a.tif", 3, "ab"),)
    assert {"nissl", "python", "numpy", "h5py", "tifffile"} <= set(document["software"])
    assert document["started"] == "2026-01-02T12:00:00+00:00"
    assert document["host"]


@given(z=LENGTHS, y=LENGTHS, x=LENGTHS)
def test_the_recorded_command_repeats_the_voxel_size_to_the_last_digit(z: float, y: float, x: float) -> None:
    order = Order((Path("/data/a.tif"),), ImageName("01", "1", None, "BF"), (z, y, x))
    words = order.command()
    start = words.index("--pixel-size") + 1
    assert tuple(map(float, words[start : start + 3])) == (z, y, x)
