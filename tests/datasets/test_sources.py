"""Checksums of sources, and what changed between two sets of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.sources import SourceFile, changes, checksum

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
