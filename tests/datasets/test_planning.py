"""The plan of a brain, held against a real one on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.brain import Brain
from nissl.datasets.ingest import ingest
from nissl.datasets.planning import Layout, annex_folders, footprints
from nissl.hub.intake import add_dataset
from nissl.hub.root import create_hub
from tests.builders import a_copy, a_stack, an_order


def inodes(folder: Path) -> int:
    """Distinct inodes below `folder`, itself included."""
    return len(
        {os.lstat(folder).st_ino}
        | {os.lstat(Path(here, name)).st_ino for here, folders, files in os.walk(folder) for name in (*folders, *files)}
    )


@pytest.mark.slow
def test_the_plan_agrees_with_a_section_of_many_shards_on_disk(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = a_stack(tmp_path / "scan", planes=2, height=600, width=700)
    done = ingest(brain, an_order(files, chunk_edge=16, shard_edge=32))
    raw = 2 * 600 * 700 * np.dtype(done.dtype).itemsize * 4 / 3
    planned = footprints((2, 600, 700), np.dtype(done.dtype), raw / done.nbytes, chunk_edge=16, shard_edge=32)[0]
    assert planned.layout is Layout.DUAL
    shards = [path for path in done.image.rglob("c/**/*") if path.is_file()]
    assert planned.annexed == len(shards) > 500
    tree = [Path(here) for here, _, _ in os.walk(done.section) if ".git" not in Path(here).parts]
    assert planned.folders == len(tree)
    assert planned.files == sum(len(list(filter(Path.is_file, folder.iterdir()))) for folder in tree)
    assert planned.work_inodes == pytest.approx(inodes(done.section), rel=0.03)
    hub = create_hub(tmp_path / "hub", "hub")
    add_dataset(hub, done.section, "section")
    assert planned.hub_inodes == pytest.approx(inodes(hub.repository("section")), rel=0.05)


def test_a_section_of_290_gb_needs_a_thousandth_of_the_inodes_of_unsharded_zarr() -> None:
    dual, chunks, *_ = footprints((29, 100_000, 100_000), np.dtype("uint8"), 1.6)
    assert dual.work_inodes * 1000 < chunks.work_inodes
    assert dual.hub_inodes * 1000 < chunks.hub_inodes
    assert dual.nbytes < chunks.nbytes * 1.001


@given(st.integers(0, 3000), st.booleans())
def test_folders_of_annexed_objects_are_between_one_and_three_for_each(objects: int, mixed: bool) -> None:
    assert objects <= annex_folders(objects, mixed=mixed) <= 3 * objects


def test_the_command_prints_a_line_for_each_layout() -> None:
    command = [sys.executable, "-m", "nissl", "plan", "--sections", "7500", "--size", "100000x100000x29"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [layout for layout in Layout if str(layout) not in said] == []
    assert "243" not in said
    assert "8,2" in said  # some 8.2 million inodes for the brain


@pytest.mark.parametrize(
    "arguments", [("--size", "100x"), ("--size", "0x5x5"), ("--size", "5x5x5", "--dtype", "colour")]
)
def test_a_size_or_type_that_is_none_is_refused(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nissl", "plan", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
