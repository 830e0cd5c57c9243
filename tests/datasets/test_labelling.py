"""Labels are put beside an image: whole, once, with their history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from nissl.datasets import tables
from nissl.datasets.brain import Brain
from nissl.datasets.ingest import IngestError, ingest
from nissl.datasets.labelling import Labelled, LabellingError, LabelOrder, add_labels
from nissl.datasets.names import ImageName, NameFormError
from nissl.datasets.section import SectionError, tidy
from nissl.errors import NisslError
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from nissl.formats.label_index import open_label_index
from nissl.formats.labels import LabelsError, list_labels
from nissl.formats.stack import StackError
from tests.builders import a_clone, a_copy, a_name, a_stack, an_order, head, nissl, run, state, status

IMAGE = "sub-01/micr/sub-01_sample-0042_BF.ome.zarr"
BODIES = f"{IMAGE}/labels/bodies"
RECORD = "provenance/sub-01_sample-0042_BF_labels-bodies.json"


def some_bodies(seed: int = 0, shape: tuple[int, int, int] = (3, 600, 700)) -> NDArray[np.uint64]:
    """Boxes of labels with large ids, on background."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros(shape, dtype=np.uint64)
    for label in generator.integers(2**60, 2**64, 20, dtype=np.uint64):
        z, y, x = (int(generator.integers(0, n)) for n in shape)
        voxels[z:, y : y + 90, x : x + 110] = label
    return voxels


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of labels that no test changes."""
    path = tmp_path_factory.mktemp("labels") / "bodies.npy"
    np.save(path, some_bodies())
    return path


@pytest.fixture(scope="module")
def labelled_brain(full_brain: Brain, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Brain:
    """A brain whose section has the labels `bodies`, that no test changes: take `a_copy` of it."""
    brain = a_copy(full_brain, tmp_path_factory.mktemp("labelled"))
    assert add(brain, file).status == "created"
    return brain


def add(brain: Brain, file: Path | str, name: str = "bodies", *, replace: bool = False) -> Labelled:
    return add_labels(brain.section(a_name()), LabelOrder((str(file),), a_name(), name), replace=replace)


def read_all(brain: Brain, name: str = "bodies") -> NDArray[np.uint64]:
    with open_image(brain.section(a_name()) / a_name().labels(name)) as opened:
        level = opened.levels[0]
        return level.read(Box((0, 0, 0), level.shape))


def test_the_voxels_and_the_index_are_those_of_the_file(labelled_brain: Brain) -> None:
    assert np.array_equal(read_all(labelled_brain), some_bodies())
    with open_label_index(labelled_brain.section(a_name()) / BODIES) as index:
        assert index.ids.read(0, len(index.ids)).tolist() == np.unique(some_bodies())[1:].tolist()


def test_labels_lie_beside_the_levels_of_their_image_and_have_as_many(labelled_brain: Brain) -> None:
    section = labelled_brain.section(a_name())
    assert list_labels(section / IMAGE) == ["bodies"]
    with open_image(section / IMAGE) as image, open_image(section / BODIES) as labels:
        assert [level.shape for level in labels.levels] == [level.shape for level in image.levels]
        assert labels.voxel_size_um == image.voxel_size_um


def test_one_commit_has_all_with_shards_in_the_annex_and_the_rest_in_git(
    full_brain: Brain, labelled_brain: Brain
) -> None:
    section = labelled_brain.section(a_name())
    assert run(section, "git", "rev-parse", "HEAD~1").strip() == head(full_brain.section(a_name()))
    added = run(section, "git", "diff", "--name-status", "HEAD~1").split("\n")[:-1]
    paths = [line.removeprefix("A\t") for line in added]
    assert all(path.startswith((BODIES, RECORD, f"{IMAGE}/labels/zarr.json")) for path in paths)
    annexed = set(run(section, "git", "annex", "find", "--unlocked", f"--include={IMAGE}/labels/*").split())
    assert annexed == {path for path in paths if "/c/" in path}
    assert {f"{BODIES}/index/ids/c/0", f"{BODIES}/0/c/0/0/0", f"{BODIES}/1/c/0/0/0"} <= annexed
    assert status(section) == status(labelled_brain.path) == ""


def test_the_commit_says_how_and_from_what(labelled_brain: Brain, file: Path) -> None:
    section = labelled_brain.section(a_name())
    message = run(section, "git", "log", "-1", "--format=%B")
    assert message.startswith("[DATALAD RUNCMD] Add labels bodies to sub-01_sample-0042_BF")
    assert f"nissl labels add . {file} --image sub-01_sample-0042_BF --name bodies" in message
    record = json.loads((section / RECORD).read_text())
    assert record["sources"][0]["name"] == "bodies.npy"
    assert len(record["sources"][0]["sha256"]) == 64


def test_the_brain_records_the_new_commit_and_the_catalogue_the_new_size(
    full_brain: Brain, labelled_brain: Brain
) -> None:
    recorded = run(labelled_brain.path, "git", "rev-parse", "HEAD:sourcedata/sample-0042").strip()
    assert recorded == head(labelled_brain.section(a_name()))
    before, after = (
        tables.parse((brain.path / "catalogue.tsv").read_text())[0] for brain in (full_brain, labelled_brain)
    )
    assert int(after.pop("bytes")) > int(before.pop("bytes"))
    assert after == before


def test_the_section_passes_the_bids_validator(labelled_brain: Brain) -> None:
    for dataset in (labelled_brain.path, labelled_brain.section(a_name())):
        said = subprocess.run(
            ["bids-validator-deno", "--format", "json", str(dataset)], capture_output=True, text=True, check=False
        )
        issues = json.loads(said.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue.get("severity") == "error"] == []


def test_the_same_again_changes_nothing(labelled_brain: Brain, file: Path, tmp_path: Path) -> None:
    before = state(labelled_brain.path)
    assert add(labelled_brain, file).status == "unchanged"
    moved = tmp_path / file.name
    moved.write_bytes(file.read_bytes())
    assert add(labelled_brain, moved, replace=True).status == "unchanged"
    assert state(labelled_brain.path) == before


def test_other_labels_of_that_name_need_replace_and_the_old_stay_in_the_history(
    labelled_brain: Brain, tmp_path: Path
) -> None:
    brain = a_copy(labelled_brain, tmp_path)
    section = brain.section(a_name())
    np.save(tmp_path / "bodies.npy", some_bodies(1))
    before = state(brain.path)
    with pytest.raises(LabellingError, match=r"already has labels bodies, but .*bodies.npy has changed.*--replace"):
        add(brain, tmp_path / "bodies.npy")
    assert state(brain.path) == before
    old = head(section)
    assert add(brain, tmp_path / "bodies.npy", replace=True).status == "replaced"
    assert np.array_equal(read_all(brain), some_bodies(1))
    assert status(section) == status(brain.path) == ""
    run(section, "git", "checkout", "-q", old)
    assert np.array_equal(read_all(brain), some_bodies())


def test_an_image_has_several_labels_from_several_kinds_of_files(labelled_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(labelled_brain, tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as stored:
        stored["main/layers"] = some_bodies(2)
    done = add(brain, f"{tmp_path / 'a.h5'}:main/layers", "layers")
    assert (done.status, done.dtype, done.shape) == ("created", "uint64", (3, 600, 700))
    zarr.create_array(tmp_path / "cells.zarr", data=some_bodies(3), chunks=(3, 64, 64), zarr_format=2)
    assert add(brain, tmp_path / "cells.zarr", "cells").status == "created"
    assert add(brain, tmp_path / "cells.zarr", "cells").status == "unchanged"
    assert list_labels(brain.section(a_name()) / IMAGE) == ["bodies", "cells", "layers"]
    assert np.array_equal(read_all(brain), some_bodies())
    assert np.array_equal(read_all(brain, "cells"), some_bodies(3))


def test_what_does_not_fit_leaves_the_section_as_it_was(full_brain: Brain, file: Path, tmp_path: Path) -> None:
    section = full_brain.section(a_name())
    np.save(tmp_path / "small.npy", some_bodies(shape=(3, 600, 699)))
    negative = (some_bodies() // 2).astype(np.int64)
    negative[2, 599, 699] = -1
    np.save(tmp_path / "negative.npy", negative)
    before = state(full_brain.path)
    with pytest.raises(LabelsError, match="3 x 600 x 699"):
        add(full_brain, tmp_path / "small.npy")
    with pytest.raises(StackError, match=r"plane 3 of .*negative\.npy holds the number -1"):
        add(full_brain, tmp_path / "negative.npy")
    with pytest.raises(LabellingError, match="has no image sub-01_sample-0042_FLUO"):
        add_labels(section, LabelOrder((str(file),), ImageName("01", "0042", None, "FLUO"), "bodies"))
    with pytest.raises(LabellingError, match="has no image"):
        add_labels(tmp_path, LabelOrder((str(file),), a_name(), "bodies"))
    with pytest.raises(LabelsError, match="cannot be called"):
        LabelOrder((str(file),), a_name(), "../bodies")
    assert state(full_brain.path) == before
    assert not list((section / ".git" / "nissl" / "work").glob("[!.]*"))


def test_a_section_with_unsaved_changes_is_refused(full_brain: Brain, file: Path, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    (brain.section(a_name()) / "README.md").write_text("mine\n")
    with pytest.raises(SectionError, match="unsaved changes"):
        add(brain, file)
    assert (brain.section(a_name()) / "README.md").read_text() == "mine\n"


def test_a_commit_that_is_refused_leaves_the_section_as_it_was(labelled_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(labelled_brain, tmp_path)
    hook = brain.section(a_name()) / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    np.save(tmp_path / "bodies.npy", some_bodies(1))
    before = state(brain.path)[0]
    with pytest.raises(NisslError, match="not today"):
        add(brain, tmp_path / "bodies.npy", replace=True)
    assert state(brain.path)[0] == before
    assert np.array_equal(read_all(brain), some_bodies())
    assert list_labels(brain.section(a_name()) / IMAGE) == ["bodies"]


@pytest.mark.parametrize("delay_s", [0.8, 1.5, 2.2])
def test_killed_at_any_moment_the_next_run_finds_the_old_or_the_new(
    delay_s: float, full_brain: Brain, file: Path, tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)
    section = brain.section(a_name())
    command = ["nissl", "labels", "add", str(section), str(file), "--image", a_name().stem, "--name", "bodies"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    tidy(section)
    assert status(section) == ""
    assert add(brain, file).status in ("created", "unchanged")
    assert np.array_equal(read_all(brain), some_bodies())
    assert status(section) == status(brain.path) == ""


def test_labels_can_be_added_where_the_voxels_of_the_image_are_not(
    full_brain: Brain, file: Path, tmp_path: Path
) -> None:
    clone = a_clone(full_brain, tmp_path)
    assert add(clone, file).status == "created"
    assert np.array_equal(read_all(clone), some_bodies())


def test_an_image_is_named_by_its_stem() -> None:
    for name in (a_name(), ImageName("01", "0042", "Nissl", "BF")):
        assert ImageName.parse(name.stem) == ImageName.parse(f"{name.stem}.ome.zarr/") == name
    for stem in ("", "sub-01_BF", "sub-01_sample-0042_BF_x", "sub-01_sample-00.42_BF", "../sub-01_sample-0042_BF"):
        with pytest.raises(NameFormError):
            ImageName.parse(stem)


def test_the_command_line_adds_and_answers(full_brain: Brain, file: Path, tmp_path: Path) -> None:
    section = a_copy(full_brain, tmp_path).section(a_name())
    said = nissl("labels", "add", section, file, "--image", a_name().stem, "--name", "bodies")
    assert (said.stdout, said.stderr) == ("created bodies: 20 labels in 3 x 600 x 700 uint64, 2 levels\n", "")
    voxels = some_bodies()
    inside = [label for label in np.unique(voxels[0:2, 100:300, 50:400]).tolist() if label]
    said = nissl("labels", "ids", section / IMAGE, "--box", "0:2,100:300,50:400")
    assert [int(line) for line in said.stdout.split()] == inside
    said = nissl("labels", "ids", section / IMAGE, "--box", "0:2,100:300,50:400", "--json")
    answer = json.loads(said.stdout)
    assert answer == {"box": [[0, 100, 50], [2, 300, 400]], "exact": True, "ids": list(map(str, inside))}
    label = inside[0]
    places = np.argwhere(voxels == label)
    corners = list(zip(places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist(), strict=True))
    said = nissl("labels", "box", section / IMAGE, str(label))
    assert said.stdout == ",".join(f"{a}:{b}" for a, b in corners) + "\n"
    said = nissl("labels", "box", section / IMAGE, str(label), "--json")
    assert json.loads(said.stdout) == {"id": str(label), "box": [[a for a, _ in corners], [b for _, b in corners]]}
    said = nissl("labels", "size", section / IMAGE, str(label), "--json")
    assert json.loads(said.stdout) == {"id": str(label), "voxels": len(places)}
    assert nissl("labels", "size", section / IMAGE, str(label)).stdout == f"{len(places)}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ids", "--box", "0:1,0:1"), "box '0:1,0:1' is not z0:z1,y0:y1,x0:x1"),
        (("ids", "--box", "0:1,0:1,0:9999"), "does not lie inside the labels, which are 3 x 600 x 700"),
        (("box", "7"), "label 7 does not occur"),
        (("size", "7", "--name", "layers"), "has no labels 'layers': it has bodies"),
    ],
)
def test_a_question_without_an_answer_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, labelled_brain: Brain
) -> None:
    command, *rest = arguments
    said = nissl("labels", command, labelled_brain.section(a_name()) / IMAGE, *rest)
    assert said.returncode == 1
    assert said.stderr.startswith("nissl: ")
    assert sentence in said.stderr
    assert said.stderr.count("\n") == 1


def test_an_image_is_not_replaced_under_the_labels_that_describe_it(labelled_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(labelled_brain, tmp_path)
    before = state(brain.path)
    with pytest.raises(IngestError, match=r"has labels \(bodies\).*git rm -r"):
        ingest(brain, an_order(a_stack(tmp_path / "scan", seed=5)), replace=True)
    assert state(brain.path) == before
