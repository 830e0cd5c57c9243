"""`nissl ingest` on a folder: many sections in one command, those that fail beside those that do not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from nissl.datasets import tables
from nissl.datasets.brain import Brain
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from tests.builders import (
    a_copy,
    a_plane,
    empty_brain,
    head,
    leftovers,
    nissl,
    own_git_identity,
    run,
    state,
    status,
)

__all__ = ["empty_brain", "own_git_identity"]

OME = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 5.0}


def scan(folder: Path, pattern: str, samples: str | list[str], planes: int = 3, **more: Any) -> None:  # noqa: ANN401
    """Planes of several sections as OME-TIFF."""
    for sample in samples:
        random = np.random.default_rng(list(sample.encode()))
        for z in range(1, planes + 1):
            file = folder / pattern.format(sample=sample, z=z)
            file.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(file, a_plane(random, 60, 70), ome=True, metadata=OME, **more)


def many(brain: Brain, folder: Path, pattern: str, *more: str) -> subprocess.CompletedProcess[str]:
    return nissl("ingest", folder, "--pattern", pattern, "--into", brain.path, "--suffix", "BF", *more)


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record for record in records if record["event"] != "progress"]


def sections(brain: Brain) -> list[str]:
    return sorted(path.name for path in brain.path.glob("sourcedata/*"))


def voxels_of(brain: Brain, sample: str) -> np.ndarray[Any, Any]:
    with open_image(brain.path / f"sourcedata/sample-{sample}/sub-01/micr/sub-01_sample-{sample}_BF.ome.zarr") as image:
        level = image.levels[0]
        return level.read(Box((0,) * len(level.shape), level.shape))


@pytest.mark.slow
def test_a_folder_becomes_its_sections_and_the_same_command_again_changes_nothing(
    empty_brain: Brain, tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    scan(tmp_path / "scans", "{sample}_z{z}.tif", ["0001", "0002"], planes=11)
    (tmp_path / "scans/notes.txt").write_text("slide 2 is torn")
    done = many(brain, tmp_path / "scans", "{sample}_z{z}.tif")
    assert done.returncode == 0, done.stderr
    assert "ignored 1 that do not fit '{sample}_z{z}.tif', as notes.txt\n" in done.stdout
    assert "created sub-01_sample-0002_BF.ome.zarr: 11 x 60 x 70 uint16, 1 levels" in done.stdout
    assert "pixels of 5 x 0.5 x 0.5 um (OME-XML of 0001_z1.tif)" in done.stdout
    assert done.stdout.endswith("2 sections: 2 created, 0 failed\n")
    assert sections(brain) == ["sample-0001", "sample-0002"]
    expected = [tifffile.imread(tmp_path / f"scans/0002_z{z}.tif") for z in range(1, 12)]
    assert np.array_equal(voxels_of(brain, "0002"), expected)
    rows = tables.parse((brain.path / "catalogue.tsv").read_text())
    assert [row["voxel_size_um"] for row in rows] == ["5x0.5x0.5"] * 2
    before = state(brain.path)
    again = many(brain, tmp_path / "scans", "{sample}_z{z}.tif")
    assert again.stdout.endswith("2 sections: 2 unchanged, 0 failed\n")
    assert state(brain.path) == before


@pytest.mark.slow
def test_sections_that_fail_do_not_stop_the_others_and_are_tried_again(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    scans = tmp_path / "scans"
    scan(scans, "{sample}/plane_{z}.tif", ["0001", "0002", "b-1", "0003", "0004"], planes=4)
    torn = (scans / "0001/plane_3.tif").read_bytes()
    os.truncate(scans / "0001/plane_3.tif", 500)
    (scans / "0003/plane_2.tif").unlink()
    done = many(brain, scans, "{sample}/plane_{z}.tif", "--json")
    assert done.returncode == 1
    first, second, third, fourth, fifth, summary = events(done)
    assert (first["event"], first["sample"]) == ("failed", "0001")
    assert "plane_3.tif" in first["error"]
    assert (second["event"], second["sample"], second["pixel_size_um"]) == ("created", "0002", [5, 0.5, 0.5])
    assert (third["event"], third["sample"]) == ("failed", "0003")
    assert "plane 2 of 4 is missing (no file between plane_1.tif and plane_3.tif)" in third["error"]
    assert third["error"].endswith("--skip 2 (of this section alone: --pattern '0003/plane_{z}.tif' --sample 0003)")
    assert (fourth["event"], fourth["sample"]) == ("created", "0004")
    assert (fifth["event"], fifth["sample"]) == ("failed", "b-1")
    assert "sample 'b-1' is not a BIDS label" in fifth["error"]
    assert "rename its files, as b-1/plane_1.tif" in fifth["error"]
    assert summary == {
        "event": "summary",
        "sections": 5,
        "created": 2,
        "failed": 3,
        "ignored": 0,
        "first_ignored": None,
    }
    said = done.stderr.splitlines()
    assert said[0] == "nissl: 3 of 5 sections failed; the same command tries them again:"
    assert [line.split(":")[0] for line in said[1:]] == ["  0001", "  0003", "  b-1"]
    assert sections(brain) == ["sample-0002", "sample-0004"]
    assert not leftovers(brain.path)
    assert status(brain.path) == ""

    (scans / "0001/plane_3.tif").write_bytes(torn)
    words = shlex.split(third["error"].partition("alone: ")[2].rstrip(")"))
    alone = nissl("ingest", scans, "--into", brain.path, "--suffix", "BF", "--skip", "2", *words)
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (0, "1 sections: 1 created, 0 failed")
    assert voxels_of(brain, "0003").shape == (3, 60, 70)
    (scans / "b-1").rename(scans / "b1")
    (scans / "0003").rename(tmp_path / "done")
    again = many(brain, scans, "{sample}/plane_{z}.tif")
    assert again.returncode == 0
    assert again.stdout.endswith("4 sections: 2 created, 2 unchanged, 0 failed\n")


def test_progress_says_whose_it_is(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    scan(tmp_path / "scans", "{sample}_{z}.tif", ["1", "2"])
    done = many(brain, tmp_path / "scans", "{sample}_{z}.tif", "--json")
    progress = [record for record in map(json.loads, done.stdout.splitlines()) if record["event"] == "progress"]
    assert {record["sample"] for record in progress} == {"1", "2"}


def test_a_dry_run_shows_what_would_become_of_it_and_writes_nothing(empty_brain: Brain, tmp_path: Path) -> None:
    scan(tmp_path / "scans", "{sample}_z{z}.tif", ["0001", "0002"])
    (tmp_path / "scans/0002_z2.tif").write_text("no TIFF")
    before = state(empty_brain.path)
    done = many(empty_brain, tmp_path / "scans", "{sample}_z{z}.tif", "--dry-run")
    assert done.returncode == 1
    row = next(line for line in done.stdout.splitlines() if "0001" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("0001", "3", "3", "70 x 60", "uint16", "5 x 0.5 x 0.5 um", "OME-XML of 0001_z1.tif")
    ]
    assert "nissl: 1 of 2 sections would fail:\n  0002: plane 2 of 3" in done.stderr
    first, second, summary = events(many(empty_brain, tmp_path / "scans", "{sample}_z{z}.tif", "--dry-run", "--json"))
    assert first == {
        **{"event": "would ingest", "sample": "0001", "stain": None, "files": 3},
        **{"shape": [3, 60, 70], "dtype": "uint16"},
        **{"pixel_size_um": [5.0, 0.5, 0.5], "pixel_size_from": "OME-XML of 0001_z1.tif"},
    }
    assert (second["event"], summary["failed"]) == ("would fail", 1)
    files = sorted((tmp_path / "scans").glob("0001*"))
    single = nissl("ingest", *files, "--into", empty_brain.path, "--suffix", "BF", "--sample", "7", "--dry-run")
    assert (single.returncode, "70 x 60" in single.stdout) == (0, True)
    assert state(empty_brain.path) == before
    assert not leftovers(empty_brain.path)


@pytest.mark.slow
def test_volumes_of_every_kind_are_sections_of_a_folder(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    voxels = np.stack([a_plane(np.random.default_rng(z), 60, 70) for z in range(3)])
    scans = tmp_path / "scans"
    scans.mkdir()
    np.save(scans / "1.npy", voxels)
    zarr.create_array(scans / "2.zarr", data=voxels, chunks=(3, 16, 16))
    with h5py.File(scans / "3.h5", "w") as file:
        file.create_dataset("scan/raw", data=voxels, chunks=(3, 16, 16))
        file["scan/other"] = voxels + 1
    size = ("--pixel-size", "5", "1", "1")
    for pattern in ("{sample}.npy", "{sample}.zarr", "{sample}.h5:scan/raw"):
        done = many(brain, scans, pattern, *size)
        assert done.returncode == 0, done.stderr
        assert "ignored 2 that do not fit" in done.stdout
        assert "pixels of 5 x 1 x 1 um (command line)" in done.stdout
    for sample in "123":
        assert np.array_equal(voxels_of(brain, sample), voxels)
        record = json.loads(
            (brain.path / f"sourcedata/sample-{sample}/provenance/sub-01_sample-{sample}_BF.json").read_text()
        )
        assert len(record["sources"]) == 1
    before = state(brain.path)
    other = many(brain, scans, "{sample}.h5:scan/other", *size)
    assert "with dataset scan/raw instead of scan/other: give --replace" in other.stderr
    assert state(brain.path) == before


def test_a_changed_chunk_of_a_zarr_source_is_news_a_moved_folder_is_not(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    voxels = np.stack([a_plane(np.random.default_rng(z), 60, 70) for z in range(3)])
    array = zarr.create_array(tmp_path / "a.zarr", data=voxels, chunks=(3, 16, 16))
    options = ("--into", brain.path, "--suffix", "BF", "--sample", "1", "--pixel-size", "5", "1", "1")
    assert nissl("ingest", tmp_path / "a.zarr", *options).stdout.startswith("created")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.zarr").rename(tmp_path / "elsewhere/a.zarr")
    assert nissl("ingest", tmp_path / "elsewhere/a.zarr", *options).stdout.startswith("unchanged")
    (tmp_path / "elsewhere/a.zarr").rename(tmp_path / "a.zarr")
    array[1, 2, 3] = 9
    assert "made from other sources (a.zarr has changed)" in nissl("ingest", tmp_path / "a.zarr", *options).stderr


@pytest.mark.slow
def test_the_pixel_size_that_was_found_is_recorded_and_repeated_by_datalad(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    scan(tmp_path / "scans", "{sample}_{z}.tif", ["1"])
    files = sorted((tmp_path / "scans").iterdir())
    options = ("--into", str(brain.path), "--suffix", "BF", "--sample", "1")
    found = nissl("ingest", *files, *options, "--json")
    assert events(found)[-1]["pixel_size_from"] == "OME-XML of 1_1.tif"
    record = json.loads((brain.path / "sourcedata/sample-1/provenance/sub-01_sample-1_BF.json").read_text())
    assert record["settings"]["voxel_size_um"] == [5.0, 0.5, 0.5]
    sizes = record["command"].index("--pixel-size")
    assert record["command"][sizes:][:4] == ["--pixel-size", "5", "0.5", "0.5"]
    section = brain.path / "sourcedata/sample-1"
    before = head(section)
    run(section, "datalad", "-l", "error", "rerun")
    assert head(section) == before
    other = nissl("ingest", *files, *options, "--pixel-size", "5", "1", "1")  # the command line wins
    assert "with voxel_size_um [5.0, 0.5, 0.5] instead of [5.0, 1.0, 1.0]" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pattern", "{sample}_{z}.tif", "--sample", "1"], "exclude each other"),
        (["--pattern", "{sample}_{stain}_{z}.tif", "--stain", "Nissl"], "exclude each other"),
        (["--pattern", "a_{z}.tif"], "give the section's label with --sample"),
        ([], "give the section's label with --sample"),
        (["elsewhere", "--pattern", "{sample}_{z}.tif"], "--pattern takes one folder"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_use(
    empty_brain: Brain, arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = nissl("ingest", tmp_path, *arguments, "--into", empty_brain.path, "--suffix", "BF", env={"COLUMNS": "200"})
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{sample}_{z}.png", "no file in {folder} fits the pattern '{sample}_{z}.png' (it has 3 others, as 1_1.tif)"),
        ("{sample}_{channel}_{z}.tif", "each channel is an image of its own"),
    ],
)
def test_a_pattern_that_fits_nothing_is_one_sentence(
    empty_brain: Brain, pattern: str, words: str, tmp_path: Path
) -> None:
    scan(tmp_path / "scans", "{sample}_{z}.tif", ["1"])
    done = many(empty_brain, tmp_path / "scans", pattern)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words.replace("{folder}", str(tmp_path / "scans")) in line
    missing = many(empty_brain, tmp_path / "nowhere", "{sample}_{z}.tif")
    assert "nowhere is no folder" in missing.stderr
