"""Checksums of sources, and what changed between two sets of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.sources import SourceFile, changes, checksum, stamp, total_bytes

FILES = st.lists(
    st.builds(SourceFile, st.sampled_from(["a.tif", "b.tif", "c.tif"]), st.just(1), st.sampled_from(["x", "y"])),
    unique_by=lambda file: file.name,
)


@given(FILES, FILES)
def test_changes_are_empty_exactly_for_the_same_files_in_the_same_order(
    before: list[SourceFile], now: list[SourceFile]
) -> None:
    assert (changes(before, now) == []) == (before == now)


def test_changes_name_each_file_and_what_happened_to_it() -> None:
    before = [SourceFile("a.tif", 1, "x"), SourceFile("b.tif", 1, "x"), SourceFile("c.tif", 1, "x")]
    now = [SourceFile("a.tif", 1, "y"), SourceFile("c.tif", 1, "x"), SourceFile("d.tif", 1, "x")]
    assert changes(before, now) == ["d.tif is new", "b.tif is gone", "a.tif has changed"]
    assert changes(before, before[::-1]) == ["the planes are in another order"]


def test_a_checksum_is_that_of_the_bytes_and_progress_adds_up_to_them(tmp_path: Path) -> None:
    content = b"voxels" * 500_000
    file = tmp_path / "plane.tif"
    file.write_bytes(content)
    seen: list[int] = []
    (source,) = checksum([file], seen.append)
    assert source == SourceFile("plane.tif", len(content), hashlib.sha256(content).hexdigest())
    assert sum(seen) == len(content)
    assert len(seen) > 1


def test_a_folder_is_one_entry_whose_checksum_sha256sum_can_repeat(tmp_path: Path) -> None:
    folder = tmp_path / "scan.zarr"
    for name in ("c/1/0", "c/0/1", "c/0/0", "zarr.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * 1000)
    seen: list[int] = []
    (source,) = checksum([folder], seen.append)
    lines = subprocess.run(
        ["sh", "-c", "sha256sum c/0/0 c/0/1 c/1/0 zarr.json"], cwd=folder, capture_output=True, check=True
    )
    assert source == SourceFile("scan.zarr", sum(seen), hashlib.sha256(lines.stdout).hexdigest())
    assert total_bytes([folder, folder / "zarr.json"]) == sum(seen) + 9000


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "0/b").write_text("c"),
        lambda folder: (folder / "0/b").rename(folder / "0/c"),
        lambda folder: (folder / "0/b").unlink(),
        lambda folder: (folder / "0/d").write_text(""),
    ],
)
def test_any_change_within_a_folder_changes_its_checksum(change: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for name in "ab":
        (tmp_path / "0" / name).write_text(name)
    before = checksum([tmp_path])
    assert checksum([tmp_path]) == before
    change(tmp_path)
    assert checksum([tmp_path]) != before


def test_the_stamp_of_a_folder_shows_a_change_of_one_file_within(tmp_path: Path) -> None:
    (tmp_path / "c/0").mkdir(parents=True)
    (tmp_path / "c/0/1").write_text("chunk")
    before = stamp(tmp_path)
    os.utime(tmp_path / "c/0/1", ns=(0, before[1] + 1))
    assert stamp(tmp_path) == (5, before[1] + 1)
