"""A stack becomes an image in a section: whole, once, with its history."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from nissl.datasets import tables
from nissl.datasets.brain import Brain
from nissl.datasets.check import check
from nissl.datasets.ingest import Ingested, IngestError, ingest
from nissl.datasets.section import SectionError
from nissl.formats.codec import BloscCodec, ZstdCodec
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from tests.builders import (
    VOXEL_SIZE_UM,
    a_clone,
    a_copy,
    a_name,
    a_stack,
    an_order,
    head,
    ingested,
    leftovers,
    run,
    state,
    status,
    voxels_of,
)

IMAGE = "sub-01/micr/sub-01_sample-0042_BF.ome.zarr"


def read_all(brain: Brain, image: str = IMAGE) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    with open_image(brain.path / "sourcedata" / "sample-0042" / image) as opened:
        level = opened.levels[0]
        return level.read(Box((0,) * len(level.shape), level.shape))


def test_the_voxels_are_those_of_the_planes(full_brain: Brain, stack: list[Path]) -> None:
    assert np.array_equal(read_all(full_brain), voxels_of(stack))


def test_the_section_is_a_dataset_with_the_designed_tree(full_brain: Brain) -> None:
    section = full_brain.section(a_name())
    assert run(section, "git", "ls-files").split() == [
        ".bidsignore",
        ".datalad/.gitattributes",
        ".datalad/config",
        ".gitattributes",
        "README.md",
        "dataset_description.json",
        "participants.tsv",
        "provenance/sub-01_sample-0042_BF.json",
        "provenance/sub-01_sample-0042_BF_planes.png",
        "provenance/sub-01_sample-0042_BF_quality.json",
        "samples.tsv",
        "sub-01/micr/sub-01_sample-0042_BF.h5",
        "sub-01/micr/sub-01_sample-0042_BF.json",
        f"{IMAGE}/0/c/0/0/0",
        f"{IMAGE}/0/zarr.json",
        f"{IMAGE}/1/c/0/0/0",
        f"{IMAGE}/1/zarr.json",
        f"{IMAGE}/zarr.json",
    ]
    assert status(section) == status(full_brain.path) == ""


def test_shards_are_unlocked_in_the_annex_and_everything_else_is_in_git(full_brain: Brain) -> None:
    section = full_brain.section(a_name())
    annexed = run(section, "git", "annex", "find", "--unlocked", "--include=*").split()
    assert annexed == [f"{IMAGE}/0/c/0/0/0", f"{IMAGE}/1/c/0/0/0"]
    assert run(section, "git", "show", f"HEAD:{IMAGE}/0/c/0/0/0").startswith("/annex/objects/BLAKE2B256E-s")
    assert "levels" not in run(section, "git", "annex", "find", "--include=*.json")


def test_a_shard_goes_to_the_annex_however_small(full_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    done = ingested(brain, a_stack(tmp_path / "tiny", height=40, width=40), "0043")
    shard = done.image / "0/c/0/0/0"
    assert shard.stat().st_size < 100_000
    assert shard.relative_to(done.section).as_posix() in run(done.section, "git", "annex", "find")
    assert "zarr.json" not in run(done.section, "git", "annex", "find")


def test_the_shard_and_the_annexed_object_are_one_file(full_brain: Brain) -> None:
    section = full_brain.section(a_name())
    shard = section / IMAGE / "0/c/0/0/0"
    key = run(section, "git", "annex", "lookupkey", str(shard.relative_to(section))).strip()
    location = run(section, "git", "annex", "contentlocation", key)
    assert (section / location.strip()).stat().st_ino == shard.stat().st_ino


def test_the_brain_lists_the_section_and_describes_its_image(full_brain: Brain) -> None:
    assert "sourcedata/sample-0042" in run(full_brain.path, "datalad", "subdatasets")
    (row,) = tables.parse((full_brain.path / "catalogue.tsv").read_text())
    section = full_brain.section(a_name())
    assert row["shape"] == "3x600x700"
    assert (row["axes"], row["dtype"], row["voxel_size_um"], row["levels"]) == ("zyx", "uint16", "5x1x1", "2")
    assert int(row["bytes"]) == sum(p.stat().st_size for p in (section / IMAGE).rglob("*") if p.is_file())
    assert row["dataset_id"] == run(section, "git", "config", "-f", ".datalad/config", "datalad.dataset.id").strip()


def test_provenance_says_from_what_by_what_and_how(full_brain: Brain, stack: list[Path]) -> None:
    record = json.loads((full_brain.section(a_name()) / "provenance/sub-01_sample-0042_BF.json").read_text())
    assert record["sources"] == [
        {"name": file.name, "size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in stack
    ]
    edges = {"chunk_edge": 512, "shard_edge": 8192}
    assert record["settings"] == {
        "voxel_size_um": list(VOXEL_SIZE_UM),
        "skip": [],
        "compression": "bitshuffle-zstd:1",
        **edges,
    }
    assert record["command"][:2] == ["nissl", "ingest"]
    assert record["software"]["tifffile"]


def test_the_quality_report_judges_each_plane(full_brain: Brain) -> None:
    report = json.loads((full_brain.section(a_name()) / "provenance/sub-01_sample-0042_BF_quality.json").read_text())
    assert len(report["planes"]) == 3


def test_the_same_order_again_changes_nothing(full_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = state(brain.path)
    assert ingest(brain, an_order(stack)).status == "unchanged"
    assert state(brain.path) == before


def test_an_order_that_changes_nothing_still_clears_what_a_killed_run_left(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    (brain.bench / "0123456789abcdef" / "half").mkdir(parents=True)
    assert ingested(brain, stack).status == "unchanged"
    assert not leftovers(brain.path)


def test_a_stack_that_only_moved_changes_nothing(full_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = state(brain.path)
    moved = [Path(shutil.copy(file, tmp_path)) for file in stack]
    assert ingest(brain, an_order(moved)).status == "unchanged"
    assert state(brain.path) == before


def test_the_same_order_in_a_clone_without_content_changes_nothing(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    clone = a_clone(full_brain, tmp_path)
    before = state(clone.path)
    done = ingest(clone, an_order(stack))
    assert (done.status, done.nbytes) == ("unchanged", ingest(full_brain, an_order(stack)).nbytes)
    assert state(clone.path) == before


def test_a_changed_source_is_refused_by_name_and_with_the_remedy(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = state(brain.path)
    changed = [*stack[:2], a_stack(tmp_path, seed=5)[2]]
    with pytest.raises(IngestError, match=r"other sources \(section_z02\.tif has changed\): give --replace"):
        ingest(brain, an_order(changed))
    assert state(brain.path) == before


def test_another_setting_is_refused_by_name_and_value(full_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = state(brain.path)
    with pytest.raises(IngestError, match=r"with voxel_size_um \[5\.0, 1\.0, 1\.0\] instead of \[5\.0, 1\.0, 2\.0\]"):
        ingest(brain, an_order(stack, voxel_size_um=(5.0, 1.0, 2.0)))
    assert state(brain.path) == before


def test_replace_makes_a_new_version_and_the_old_one_stays_retrievable(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    section = brain.section(a_name())
    old = head(section), head(brain.path)
    files = a_stack(tmp_path / "other", planes=4, seed=5)
    assert ingested(brain, files, replace=True).status == "replaced"
    assert np.array_equal(read_all(brain), voxels_of(files))
    assert run(section, "git", "rev-parse", "HEAD~1").strip() == old[0]
    assert run(brain.path, "git", "rev-parse", "HEAD~1").strip() == old[1]
    assert status(section) == status(brain.path) == ""
    run(section, "git", "checkout", "-q", "HEAD~1")
    assert len(run(section, "git", "annex", "find", "--in=here").split()) == 2
    assert np.array_equal(read_all(brain), voxels_of(stack))


def test_replace_with_the_same_changes_nothing(full_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = state(brain.path)
    assert ingested(brain, stack, replace=True).status == "unchanged"
    assert state(brain.path) == before


def rerecorded(brain: Brain, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the settings that the section's record says, as another version of Nissl would have written them."""
    section = brain.section(a_name())
    record = section / "provenance/sub-01_sample-0042_BF.json"
    document = json.loads(record.read_text())
    change(document["settings"])
    record.write_text(json.dumps(document))
    run(section, "git", "commit", "-qam", "Another version wrote this")


def test_a_record_from_before_there_was_a_choice_means_zstd(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)

    def age(settings: dict[str, Any]) -> None:
        del settings["compression"]
        settings["zstd_level"] = 3

    rerecorded(brain, age)
    old = dataclasses.replace(an_order(stack), codec=ZstdCodec(3))
    ingest(brain, old)  # the brain records what was done to the section by hand
    before = state(brain.path)
    assert ingest(brain, old).status == "unchanged"
    assert state(brain.path) == before
    with pytest.raises(IngestError, match="with compression zstd:3 instead of zstd:4: give --replace"):
        ingest(brain, dataclasses.replace(an_order(stack), codec=ZstdCodec(4)))


def test_an_image_in_one_compression_is_replaced_by_one_in_another_and_back(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    shards = sorted((brain.section(a_name()) / IMAGE).glob("*/c/0/0/0"))
    contents = []
    for codec in (ZstdCodec(3), BloscCodec("zstd", 1), BloscCodec("lz4", 5)):
        order = dataclasses.replace(an_order(stack), codec=codec)
        with pytest.raises(IngestError, match=rf"instead of {codec.name}: give --replace"):
            ingest(brain, order)
        assert ingest(brain, order, replace=True).status == "replaced"
        assert ingest(brain, order).status == "unchanged"
        assert np.array_equal(read_all(brain), voxels_of(stack))
        assert check(brain.section(a_name()), full=True).checked.findings == ()
        assert codec.name in order.command()
        contents.append([shard.read_bytes() for shard in shards])
    original = [path.read_bytes() for path in sorted((full_brain.section(a_name()) / IMAGE).glob("*/c/0/0/0"))]
    assert contents[1] == original != contents[0] != contents[2]


@pytest.mark.slow
def test_replace_works_in_a_clone_without_content(full_brain: Brain, tmp_path: Path) -> None:
    clone = a_clone(full_brain, tmp_path)
    files = a_stack(tmp_path / "other", seed=5)
    assert ingested(clone, files, replace=True).status == "replaced"
    assert np.array_equal(read_all(clone), voxels_of(files))
    assert status(clone.path) == status(clone.section(a_name())) == ""


def test_replace_is_refused_while_the_section_has_unsaved_changes(full_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    (brain.section(a_name()) / "README.md").write_text("I am still writing this")
    before = state(brain.path)
    with pytest.raises(SectionError, match=r"has unsaved changes \(M README\.md\): run `datalad save` there"):
        ingested(brain, a_stack(tmp_path / "other", seed=5), replace=True)
    assert state(brain.path) == before
    assert not leftovers(brain.path)


def test_a_second_stain_becomes_a_second_image_of_the_same_section(full_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    done = ingest(brain, an_order(a_stack(tmp_path / "cfos", seed=7), stain="cfos"))
    assert done.status == "created"
    section = brain.section(a_name())
    assert {path.name for path in (section / "sub-01/micr").glob("*.zarr")} == {
        "sub-01_sample-0042_BF.ome.zarr",
        "sub-01_sample-0042_stain-cfos_BF.ome.zarr",
    }
    assert [row["stain"] for row in tables.parse((brain.path / "catalogue.tsv").read_text())] == ["n/a", "cfos"]
    assert len(tables.parse((brain.path / "samples.tsv").read_text())) == 1
    assert status(section) == status(brain.path) == ""


def test_what_stops_a_replacement_leaves_the_old_version_and_no_orphans_in_the_annex(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    section = brain.section(a_name())
    before, objects = state(brain.path)[0], sorted(p.name for p in (section / ".git/annex/objects").glob("*/*/*"))
    hook = section / ".git" / "hooks" / "pre-commit"
    hook.unlink(missing_ok=True)
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Exception, match="not today"):
        ingested(brain, a_stack(tmp_path / "other", seed=5), replace=True)
    assert state(brain.path)[0] == before
    assert sorted(p.name for p in (section / ".git/annex/objects").glob("*/*/*")) == objects
    assert np.array_equal(read_all(brain), voxels_of(stack))
    assert not leftovers(brain.path)
    hook.unlink()


@pytest.mark.slow
def test_a_section_that_the_brain_cannot_record_is_not_left_behind(
    empty_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    hook = brain.path / ".git" / "hooks" / "pre-commit"
    hook.unlink(missing_ok=True)
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    before = state(brain.path)
    with pytest.raises(Exception, match="not today"):
        ingested(brain, stack)
    after = state(brain.path)
    assert after[0] == before[0]
    assert after[1].keys() == before[1].keys()
    assert not leftovers(brain.path)
    hook.unlink()
    assert ingested(brain, stack).status == "created"


def test_a_section_that_moved_on_is_recorded_by_the_same_order(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    section = brain.section(a_name())
    (section / "README.md").write_text("A better text")
    run(section, "git", "commit", "-qam", "Say it better")
    assert ingested(brain, stack).status == "recorded"
    assert status(brain.path) == ""
    assert run(brain.path, "git", "rev-parse", "HEAD:sourcedata/sample-0042").strip() == head(section)


def test_a_source_that_changes_while_it_is_read_is_noticed(full_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    files = a_stack(tmp_path / "live", seed=5)

    def scanner_writes_on(stage: str, _done: int, _total: int) -> None:
        if stage == "write":
            os.utime(files[1])

    before = state(brain.path)
    with pytest.raises(Exception, match=r"section_z01\.tif changed while it was read: ingest the stack again"):
        ingest(brain, an_order(files), replace=True, progress=scanner_writes_on)
    assert state(brain.path) == before


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan"), float("inf")])
def test_a_voxel_size_that_is_no_length_is_refused(full_brain: Brain, stack: list[Path], length: float) -> None:
    with pytest.raises(IngestError, match="is not a positive number of um on each axis"):
        ingest(full_brain, an_order(stack, "0043", voxel_size_um=(1.0, length, 1.0)))


@pytest.mark.parametrize(
    "stains", [(None, None), pytest.param((None, "cfos"), marks=pytest.mark.slow)], ids=["same image", "two stains"]
)
def test_two_orders_for_one_new_section_at_the_same_time_both_find_it_right(
    empty_brain: Brain, stack: list[Path], tmp_path: Path, stains: tuple[str | None, str | None]
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    results: list[Ingested | BaseException] = []

    def one(stain: str | None) -> None:
        try:
            results.append(ingest(brain, an_order(stack, stain=stain)))
        except BaseException as error:  # noqa: BLE001 - the test shows it
            results.append(error)

    threads = [threading.Thread(target=one, args=(stain,)) for stain in stains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = ["created", "created"] if stains[1] else ["created", "unchanged"]
    assert sorted(r.status if isinstance(r, Ingested) else repr(r) for r in results) == expected
    assert status(brain.path) == status(brain.section(a_name())) == ""
    assert not leftovers(brain.path)


def test_a_stack_with_a_warning_is_refused_when_strict_and_leaves_nothing(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = a_stack(tmp_path / "scan")
    tifffile.imwrite(files[1], np.zeros_like(tifffile.imread(files[1])))
    with pytest.raises(IngestError, match="plane 2 is constant"):
        ingest(brain, an_order(files), strict=True)
    assert not (brain.path / "sourcedata").exists()
    done = ingest(brain, an_order(files))
    assert any("plane 2 is constant" in warning for warning in done.warnings)
    sheet = next((done.section / "provenance").glob("*_planes.png"))
    assert sheet.read_bytes().startswith(b"\x89PNG")
