"""Brains: created, opened, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nissl.datasets.brain import Brain, BrainError, create_brain, open_brain
from nissl.datasets.git import GitError
from nissl.datasets.ingest import ingest
from nissl.datasets.names import NameFormError
from tests.builders import a_copy, a_name, a_stack, an_order, head, ingested, run, state, status


def test_a_new_brain_is_a_clean_datalad_superdataset_of_bids_type_study(empty_brain: Brain) -> None:
    assert run(empty_brain.path, "git", "ls-files").split() == [
        ".bidsignore",
        ".datalad/.gitattributes",
        ".datalad/config",
        ".gitattributes",
        "README.md",
        "catalogue.tsv",
        "dataset_description.json",
        "samples.tsv",
    ]
    assert "nothing to save, working tree clean" in run(empty_brain.path, "datalad", "status")
    assert run(empty_brain.path, "git", "annex", "find", "--include=*") == ""
    assert run(empty_brain.path, "git", "branch", "--show-current") == "main\n"
    description = json.loads((empty_brain.path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "study"
    assert [path.name for path in empty_brain.path.parent.iterdir()] == ["brain"], "nothing is left beside it"


def test_an_opened_brain_is_the_one_that_was_created(empty_brain: Brain) -> None:
    assert open_brain(empty_brain.path) == empty_brain


def test_a_brain_may_be_created_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "brain").mkdir()
    assert create_brain(tmp_path / "brain", "7").subject == "7"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_brain_is_never_created_over_something(tmp_path: Path, what: str) -> None:
    place = tmp_path / "brain"
    if what == "file":
        place.write_text("precious")
    else:
        place.mkdir()
        (place / "precious").touch()
    with pytest.raises(BrainError, match="exists already and is not empty: choose another place"):
        create_brain(place, "01")
    assert [path.name for path in tmp_path.iterdir()] == ["brain"]


def test_a_subject_that_is_no_label_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(NameFormError, match="subject 'a_b' is not a BIDS label"):
        create_brain(tmp_path / "brain", "a_b")
    assert not list(tmp_path.iterdir())


def test_a_failed_creation_leaves_nothing_beside_the_brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_AUTHOR_DATE", "no date at all")
    with pytest.raises(GitError):
        create_brain(tmp_path / "brain", "01")
    assert not list(tmp_path.iterdir())


def test_a_brain_needs_to_know_who_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = tmp_path / "nobody"
    nobody.write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(nobody))
    with pytest.raises(GitError, match=r"git does not know who you are: run `git config --global user\.name"):
        create_brain(tmp_path / "brain", "01")
    assert [path.name for path in tmp_path.iterdir()] == ["nobody"]


def test_a_folder_that_is_no_brain_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BrainError, match="is not a brain: create one with `nissl brain create"):
        open_brain(tmp_path)
    run(tmp_path, "git", "init", "-q")
    with pytest.raises(BrainError, match="not a brain that Nissl created"):
        open_brain(tmp_path)


def test_a_section_known_but_not_installed_is_refused_with_the_command_that_installs_it(
    full_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    run(tmp_path, "datalad", "-l", "error", "clone", str(full_brain.path), "clone")
    brain = open_brain(tmp_path / "clone")
    before = state(brain.path)
    with pytest.raises(BrainError, match="not installed here: run `datalad get -n sourcedata/sample-0042`"):
        ingest(brain, an_order(stack))
    assert state(brain.path) == before
    run(brain.path, "datalad", "get", "-n", "sourcedata/sample-0042")
    assert ingest(brain, an_order(stack)).status == "unchanged", "the remedy works"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_section_folder_that_is_no_dataset_is_refused(
    empty_brain: Brain, stack: list[Path], tmp_path: Path, what: str
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    section = brain.section(a_name())
    section.parent.mkdir()
    if what == "file":
        section.write_text("precious")
    else:
        section.mkdir()
        (section / "precious").touch()
    before = state(brain.path)
    with pytest.raises(BrainError, match="exists already and is not a dataset: move it away"):
        ingest(brain, an_order(stack))
    assert state(brain.path) == before


def test_unsaved_changes_of_the_catalogue_are_never_swept_into_a_commit(
    full_brain: Brain, tmp_path: Path, stack: list[Path]
) -> None:
    brain = a_copy(full_brain, tmp_path)
    with (brain.path / "catalogue.tsv").open("a") as file:
        file.write("a remark that somebody is still writing")
    before = state(brain.path)
    with pytest.raises(BrainError, match=r"catalogue\.tsv has unsaved changes: run `datalad save`"):
        ingested(brain, stack, "0043")
    assert state(brain.path) == before


@pytest.mark.slow
def test_other_changes_in_the_brain_neither_hinder_nor_are_committed(
    full_brain: Brain, tmp_path: Path, stack: list[Path]
) -> None:
    brain = a_copy(full_brain, tmp_path)
    (brain.path / "notes.txt").write_text("mine")
    (brain.path / "README.md").write_text("edited")
    run(brain.path, "git", "add", "README.md")
    ingested(brain, stack, "0043")
    assert status(brain.path).splitlines() == ["M  README.md", "?? notes.txt"]


def test_a_stale_lock_of_a_killed_run_does_not_lock_the_brain_for_ever(
    full_brain: Brain, tmp_path: Path, stack: list[Path]
) -> None:
    brain = a_copy(full_brain, tmp_path)
    marker = brain.path / ".git" / "nissl" / "registering.json"
    marker.write_text(json.dumps({"head": head(brain.path), "section": "sourcedata/sample-0043"}))
    (brain.path / ".git" / "index.lock").touch()
    (brain.path / "catalogue.tsv").write_text("half")
    assert ingested(brain, stack, "0043").status == "created"
    assert status(brain.path) == ""
    assert not marker.exists()


@pytest.mark.slow
def test_a_brain_that_was_moved_still_works(full_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(brain.path, moved)
    assert ingested(open_brain(moved), a_stack(tmp_path / "more", seed=9), "0043").status == "created"
    assert status(moved) == ""
