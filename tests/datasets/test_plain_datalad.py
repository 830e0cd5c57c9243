"""Brains and sections under the programs that users already have: datalad, git-annex, the BIDS validator, readers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the zstd filter
import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray

from nissl.datasets.brain import Brain, create_brain
from nissl.datasets.ingest import Order, ingest
from nissl.datasets.names import ImageName
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from nissl.formats.shards import AbsentShardError
from tests.builders import a_clone, a_copy, a_name, an_order, head, ingested, run, state, status, voxels_of

IMAGE = Path("sub-01/micr/sub-01_sample-0042_BF.ome.zarr")
SECTION = Path("sourcedata/sample-0042")


def bids_errors(dataset: Path) -> list[str]:
    done = subprocess.run(
        ["bids-validator-deno", "--format", "json", str(dataset)], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue["severity"] == "error"]


@pytest.fixture(scope="module")
def bare_clone(full_brain: Brain, tmp_path_factory: pytest.TempPathFactory) -> Brain:
    """A clone with the section installed and no content, that no test changes."""
    return a_clone(full_brain, tmp_path_factory.mktemp("bare"))


def test_brain_and_section_pass_the_bids_validator(full_brain: Brain) -> None:
    assert bids_errors(full_brain.path) == []
    assert bids_errors(full_brain.path / SECTION) == []


def test_a_clone_without_content_passes_the_bids_validator(bare_clone: Brain) -> None:
    assert bids_errors(bare_clone.path) == []
    assert bids_errors(bare_clone.path / SECTION) == []


def test_datalad_finds_nothing_to_save_anywhere(full_brain: Brain) -> None:
    said = run(full_brain.path, "datalad", "-f", "json", "status", "-r", "--annex", "basic")
    entries = [json.loads(line) for line in said.splitlines()]
    assert {entry["state"] for entry in entries if "state" in entry} == {"clean"}


def test_get_drop_fsck_and_save_work_in_a_clone_as_on_any_dataset(full_brain: Brain, tmp_path: Path) -> None:
    clone = a_clone(full_brain, tmp_path)
    section = clone.path / SECTION
    shard, original = section / IMAGE / "0/c/0/0/0", full_brain.path / SECTION / IMAGE / "0/c/0/0/0"
    assert shard.read_bytes().startswith(b"/annex/objects/")
    run(clone.path, "datalad", "get", str(SECTION))
    assert shard.read_bytes() == original.read_bytes()
    run(section, "git", "annex", "fsck", "--quiet")
    run(section, "datalad", "drop", str(IMAGE))
    assert shard.read_bytes().startswith(b"/annex/objects/")
    for read in (read_with_zarr, read_with_tensorstore, read_with_nissl):
        with pytest.raises(Exception):  # noqa: B017 - each library has its own kind; none may show zeros
            read(section / IMAGE)
    (section / "notes.txt").write_text("seen")
    run(clone.path, "datalad", "save", "-r", "-m", "Add notes")
    assert status(section) == status(clone.path) == ""
    assert run(section, "git", "show", "HEAD:notes.txt") == "seen"


def test_datalad_rerun_repeats_an_ingest_and_changes_nothing(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    before = head(brain.path), head(brain.path / SECTION)
    run(brain.path / SECTION, "datalad", "rerun")
    assert (head(brain.path), head(brain.path / SECTION)) == before
    assert status(brain.path) == status(brain.path / SECTION) == ""
    assert ingested(brain, stack).status == "unchanged"


@pytest.mark.slow
def test_datalad_rerun_makes_an_image_anew_that_was_removed(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    section = brain.path / SECTION
    run(section, "git", "rm", "-rq", "sub-01", "provenance")
    run(section, "git", "commit", "-qm", "Remove the image")
    run(section, "datalad", "rerun", "HEAD~1")
    assert status(section) == ""
    with open_image(section / IMAGE) as image:
        assert np.array_equal(image.levels[0].read(Box((0, 0, 0), (3, 600, 700))), voxels_of(stack))


def read_with_zarr(image: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(image / "0", mode="r")[:])


def read_with_tensorstore(image: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(image / "0")}}
    return np.asarray(tensorstore.open(spec).result().read().result())


def read_with_nissl(image: Path) -> NDArray[Any]:
    with open_image(image) as opened:
        level = opened.levels[0]
        return level.read(Box((0, 0, 0), (level.shape[0], level.shape[1], level.shape[2])))


READERS = pytest.mark.parametrize("read", [read_with_zarr, read_with_tensorstore, read_with_nissl])


@READERS
def test_readers_see_the_voxels_of_the_planes(
    full_brain: Brain, stack: list[Path], read: Callable[[Path], NDArray[Any]]
) -> None:
    assert np.array_equal(read(full_brain.path / SECTION / IMAGE), voxels_of(stack))


@READERS
def test_absent_voxels_are_an_error_and_never_zeros(bare_clone: Brain, read: Callable[[Path], NDArray[Any]]) -> None:
    with pytest.raises(Exception) as raised:
        read(bare_clone.path / SECTION / IMAGE)
    if read is read_with_nissl:
        assert isinstance(raised.value, AbsentShardError)
        assert "datalad get" in str(raised.value)


@pytest.mark.slow
def test_a_real_stack_is_read_back_alike_also_as_hdf5_in_a_clone(zstack_files: list[Path], tmp_path: Path) -> None:
    brain = create_brain(tmp_path / "brain", "01")
    order = Order(tuple(zstack_files), ImageName("01", "0042", None, "SPIM"), (5.0, 1.0, 1.0))
    done = ingest(brain, order)
    truth = voxels_of(zstack_files)
    assert np.array_equal(read_with_nissl(done.image), truth)
    clone = a_clone(brain, tmp_path)
    run(clone.path, "datalad", "get", str(SECTION))
    section = clone.path / SECTION
    with h5py.File(section / order.image.virtual) as file:
        datasets = [item for item in file.values() if isinstance(item, h5py.Dataset)]
        full = max(datasets, key=lambda dataset: dataset.size)
        assert full.is_virtual
        assert np.array_equal(full[:], truth)
    assert bids_errors(section) == []


def test_an_ingest_is_not_disturbed_by_where_the_user_stands(
    full_brain: Brain, stack: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(full_brain.path)
    monkeypatch.chdir(full_brain.path / SECTION)
    assert ingest(full_brain, an_order(stack)).status == "unchanged"
    assert state(full_brain.path) == before
    assert full_brain.section(a_name()) == full_brain.path / SECTION
