"""`nissl check` and `nissl repair` on brains and sections, with the damage that disks, programs and people do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nissl.datasets.brain import Brain
from nissl.datasets.check import CheckError, Kept, advice, check, repair, set_aside
from nissl.errors import NisslError
from nissl.formats.check import Part
from tests.builders import a_clone, a_copy, nissl, run, state, status

SECTION = Path("sourcedata/sample-0042")
IMAGE = Path("sub-01/micr/sub-01_sample-0042_BF.ome.zarr")
SHARD = IMAGE / "0/c/0/0/0"


def damage(path: Path, at: int, *, quietly: bool = False) -> None:
    """Change one byte in place. quietly: as a failing disk does it, without a new time of change."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def brain(full_brain: Brain, tmp_path: Path) -> Brain:
    return a_copy(full_brain, tmp_path)


@pytest.fixture
def section(brain: Brain) -> Path:
    return brain.path / SECTION


def problems(path: Path, *, full: bool = False) -> list[str]:
    return [finding.sentence for finding in check(path, full=full, jobs=1).checked.findings]


@pytest.mark.parametrize("full", [False, True])
def test_a_new_brain_is_fine_and_checking_changes_nothing(full: bool, full_brain: Brain) -> None:
    before = state(full_brain.path)
    for path in (Path(), SECTION, SECTION / IMAGE, SECTION / SHARD):
        report = check(full_brain.path / path, full=full, jobs=1)
        assert report.checked.findings == ()
        assert report.checked.chunks_read > 0
    assert state(full_brain.path) == before


def test_what_is_not_here_is_listed_and_is_no_damage(full_brain: Brain, tmp_path: Path) -> None:
    clone = a_clone(full_brain, tmp_path)
    report = check(clone.path, full=True, jobs=1)
    assert report.fine
    assert {path.name for path in report.checked.absent} == {"0"}
    assert len(report.checked.absent) == 2
    run(clone.path, "datalad", "-l", "error", "drop", "--what", "datasets", "--reckless", "availability", str(SECTION))
    report = check(clone.path, jobs=1)
    assert report.fine
    assert report.not_installed == (str(SECTION),)


def test_the_command_line_names_the_damaged_chunk_and_what_to_do_and_ends_with_1(section: Path) -> None:
    path = section / SHARD
    damage(path, path.stat().st_size - 100)
    done = nissl("check", section)
    assert done.returncode == 1
    assert f"{path}, chunk (2, 1, 1), is damaged" in done.stdout
    assert f"nissl repair --set-aside {path}" in done.stdout
    assert not done.stderr
    records = [json.loads(line) for line in nissl("check", "--json", "--full", section).stdout.splitlines()]
    found = [record for record in records if record["event"] == "finding"]
    assert [2, 1, 1] in [record["chunk"] for record in found]
    assert any("checksum in its key" in record["problem"] for record in found)
    assert records[-1]["event"] == "checked"


def test_the_command_line_repairs_a_lost_index(section: Path) -> None:
    path = section / SHARD
    whole = path.read_bytes()
    damage(path, 3)
    assert f"nissl repair {path}" in nissl("check", path).stdout
    assert nissl("repair", path).returncode == 0
    assert path.read_bytes() == whole
    assert nissl("check", "--full", section).returncode == 0
    assert "nothing to repair" in nissl("repair", path).stdout


def test_a_path_that_is_nothing_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        done = nissl("check", path)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


THIN = pytest.mark.parametrize("thin", [True, False], ids=["one file", "two files"])
QUIETLY = pytest.mark.parametrize("quietly", [True, False], ids=["silent", "written"])


def with_content(brain: Brain, folder: Path, *, thin: bool) -> Path:
    """The section in a clone that has got its content; its origin has a second copy."""
    section = a_clone(brain, folder).path / SECTION
    run(section, "git", "config", "annex.thin", str(thin).lower())
    run(section, "datalad", "-l", "error", "get", ".")
    assert ((section / SHARD).stat().st_nlink == 2) == thin
    return section


def assert_whole_for_everybody(section: Path, whole: bytes) -> None:
    """For readers, for `nissl check`, for git and for git-annex, which can drop the content and get it again."""
    path = section / SHARD
    assert path.read_bytes() == whole
    assert problems(section, full=True) == []
    run(section, "git", "annex", "fsck", "--quiet", str(SHARD))
    assert status(section) == ""
    assert run(section, "git", "annex", "find", "--in=here", str(SHARD)).strip() == str(SHARD)
    run(section, "git", "annex", "drop", "--quiet", str(SHARD))
    assert path.read_bytes().startswith(b"/annex/objects/")
    run(section, "git", "annex", "get", "--quiet", str(SHARD))
    assert path.read_bytes() == whole


@THIN
@QUIETLY
def test_a_repaired_shard_is_the_annexs_own_content_again(
    thin: bool, quietly: bool, full_brain: Brain, tmp_path: Path
) -> None:
    section = with_content(full_brain, tmp_path, thin=thin)
    whole = (section / SHARD).read_bytes()
    damage(section / SHARD, 3, quietly=quietly)
    assert any("nissl repair" in problem for problem in problems(section / SHARD))
    assert repair(section / SHARD, jobs=1)
    assert_whole_for_everybody(section, whole)


@THIN
@QUIETLY
def test_a_shard_that_was_set_aside_can_be_got_again(
    thin: bool, quietly: bool, full_brain: Brain, tmp_path: Path
) -> None:
    section = with_content(full_brain, tmp_path, thin=thin)
    path = section / SHARD
    whole = path.read_bytes()
    damage(path, len(whole) // 2, quietly=quietly)
    assert problems(section, full=True) != []
    with pytest.raises(NisslError, match="HDF5 side is damaged too"):
        repair(path, jobs=1)
    set_aside(path)
    run(section, "datalad", "-l", "error", "get", str(SHARD))
    assert_whole_for_everybody(section, whole)


def test_the_only_copy_is_not_set_aside(section: Path) -> None:
    path = section / SHARD
    damage(path, path.stat().st_size // 2)
    before = path.read_bytes()
    with pytest.raises(CheckError, match="no other copy"):
        set_aside(path)
    assert path.read_bytes() == before


def test_damage_to_the_annexs_own_copy_is_found(full_brain: Brain, tmp_path: Path) -> None:
    section = with_content(full_brain, tmp_path, thin=False)
    key = run(section, "git", "annex", "lookupkey", str(SHARD)).strip()
    (stored,) = (section / ".git" / "annex" / "objects").glob(f"*/*/{key}/{key}")
    damage(stored, 10_000, quietly=True)
    assert problems(section) == []  # nothing that a reader would meet, and the size is right
    (problem,) = problems(section, full=True)
    assert "the annex's own copy" in problem


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("participants.tsv", lambda text: text.replace("sub-01", "sub-02"), "has no row for sub-01"),
        ("samples.tsv", lambda text: text.replace("0042", "0043"), "has no row for sample-0042"),
        ("dataset_description.json", lambda text: text.replace("raw", "study"), "DatasetType 'study'"),
        ("sub-01/micr/sub-01_sample-0042_BF.json", lambda text: text.replace("5", "6"), "says PixelSize"),
        ("sub-01/micr/sub-01_sample-0042_BF.json", lambda _: "{", "cannot be read"),
        (f"{IMAGE}/zarr.json", lambda text: text.replace("micrometer", "meter"), "names the axes"),
        ("provenance/sub-01_sample-0042_BF.json", lambda _: "{}", "is no provenance record"),
    ],
)
def test_documents_that_contradict_the_image_are_found(
    name: str, change: Callable[[str], str], said: str, section: Path
) -> None:
    path = section / name
    path.write_text(change(path.read_text()))
    found = problems(section)
    assert any(problem.startswith(str(path)) and said in problem for problem in found), found


@pytest.mark.parametrize(
    "name",
    [
        *("participants.tsv", "dataset_description.json", "provenance/sub-01_sample-0042_BF.json", str(SHARD)),
        *("sub-01/micr/sub-01_sample-0042_BF.json", "sub-01/micr/sub-01_sample-0042_BF.h5"),
    ],
)
def test_what_is_missing_is_found(name: str, section: Path) -> None:
    (section / name).unlink()
    assert any(problem.startswith(str(section / name)) for problem in problems(section))


def test_a_damaged_virtual_file_is_found_without_opening_it(section: Path) -> None:
    path = section / "sub-01/micr/sub-01_sample-0042_BF.h5"
    damage(path, 5000, quietly=True)
    assert any("is not what git has of it" in problem for problem in problems(section))


def test_a_shard_that_nobody_saved_is_found(section: Path) -> None:
    (section / IMAGE / "0/c/0/0/7").write_bytes(b"stray")
    assert any("is not in the dataset's annex" in problem for problem in problems(section))


def test_a_brain_that_records_another_commit_of_its_section_is_found(brain: Brain, section: Path) -> None:
    (section / "notes.txt").write_text("seen")
    run(section, "datalad", "-l", "error", "save", "-m", "Add notes")
    (problem,) = problems(brain.path)
    assert "but the brain records" in problem
    run(brain.path, "datalad", "-l", "error", "save", "-d", ".", str(SECTION))
    assert problems(brain.path) == []


def test_a_catalogue_that_contradicts_the_image_is_found(brain: Brain) -> None:
    path = brain.path / "catalogue.tsv"
    path.write_text(path.read_text().replace("3x600x700", "3x600x701"))
    assert any("says shape 3x600x701" in problem for problem in problems(brain.path))


def test_an_index_is_only_rebuilt_where_nothing_else_is_wrong() -> None:
    path = Path("/a/0")
    assert "nissl repair /a/0" in advice(frozenset({Part.INDEX}), path, Kept.ONE_FILE)
    for state_of in (Kept.ONE_FILE, Kept.TWO_FILES):
        assert "--set-aside" in advice(frozenset({Part.INDEX, Part.CHUNK}), path, state_of)
    assert "put another copy" in advice(frozenset({Part.CHUNK}), path, Kept.NOT_ANNEXED)
