"""The command line as a user meets it: real processes, their words and exit codes, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nissl import __version__
from nissl.datasets import tables
from nissl.datasets.brain import Brain
from tests.builders import (
    a_copy,
    a_stack,
    empty_brain,
    full_brain,
    ingest_arguments,
    leftovers,
    nissl,
    own_git_identity,
    stack,
    state,
    status,
)

__all__ = ["empty_brain", "full_brain", "own_git_identity", "stack"]


def sentence_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a failure."""
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("nissl: "), line
    assert not done.stdout
    return line


def test_version_and_help_say_what_a_newcomer_needs() -> None:
    assert nissl("--version").stdout == f"nissl {__version__}\n"
    said = nissl("--help").stdout
    for word in ("brain", "ingest", "hub", "--version", "nissl brain create ./brain --subject 01"):
        assert word in said
    said = nissl("ingest", "--help").stdout
    for word in ("--into", "--pixel-size", "Z Y X", "micrometres", "--replace", "run it again"):
        assert word in said


def test_the_shell_can_complete_commands() -> None:
    asked = {"_NISSL_COMPLETE": "complete_bash", "COMP_WORDS": "nissl ", "COMP_CWORD": "1"}
    assert {"brain", "ingest", "hub"} <= set(nissl(env=asked).stdout.split())


def test_without_an_identity_brain_create_says_how_to_introduce_oneself(tmp_path: Path) -> None:
    (tmp_path / "nobody").write_text("[user]\n\tuseConfigOnly = true\n")
    done = nissl(
        "brain", "create", tmp_path / "brain", "--subject", "01", env={"GIT_CONFIG_GLOBAL": str(tmp_path / "nobody")}
    )
    assert "git does not know who you are: run `git config --global user.name" in sentence_of(done)
    assert not (tmp_path / "brain").exists()


def test_a_brain_is_created_and_a_stack_ingested_in_three_words_each(stack: list[Path], tmp_path: Path) -> None:
    created = nissl("brain", "create", "brain", "--subject", "01", cwd=tmp_path)
    assert (created.returncode, created.stdout) == (0, "created the brain of subject 01 at brain\n")
    first = nissl(*ingest_arguments(Path("brain"), stack), cwd=tmp_path)
    assert first.stdout.startswith("created sub-01_sample-0042_BF.ome.zarr: 3 x 600 x 700 uint16, 2 levels, ")
    again = nissl(*ingest_arguments(Path("brain"), stack), cwd=tmp_path)
    assert again.stdout.startswith("unchanged ")
    assert first.stderr == again.stderr == ""


def test_json_lines_show_progress_and_end_with_the_result(
    empty_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    done = nissl(*ingest_arguments(brain.path, stack), "--json")
    *progress, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["event"] for record in progress} == {"progress"}
    assert {record["stage"] for record in progress} == {"write", "annex"}
    assert all(0 <= record["done"] <= record["total"] for record in progress)
    assert last["event"] == "created"
    assert last["shape"] == [3, 600, 700]
    assert Path(last["image"]).is_dir()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ingest"],
        ["ingest", "a.tif"],
        ["ingest", "a.tif", "--into", "b", "--sample", "1", "--suffix", "BF", "--pixel-size", "1", "x", "1"],
        ["brain", "create"],
        ["brain", "create", "b", "--subject", "1", "--sideways"],
    ],
)
def test_wrong_use_exits_with_2_and_says_how_to_get_help(arguments: list[str], tmp_path: Path) -> None:
    done = nissl(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def cut_short(files: list[Path]) -> list[Path]:
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size // 2)
    return files


def not_a_tiff(files: list[Path]) -> list[Path]:
    files[1].write_bytes(b"I am a letter to my mother\n" * 100)
    return files


def empty(files: list[Path]) -> list[Path]:
    files[1].write_bytes(b"")
    return files


def missing(files: list[Path]) -> list[Path]:
    files[1].unlink()
    return files


def with_a_gap(files: list[Path]) -> list[Path]:
    return files[:1] + files[2:]


def smaller(files: list[Path]) -> list[Path]:
    tifffile.imwrite(files[1], np.zeros((599, 700), dtype=np.uint16))
    return files


def of_another_type(files: list[Path]) -> list[Path]:
    tifffile.imwrite(files[1], np.zeros((600, 700), dtype=np.uint8))
    return files


def damaged_inside(files: list[Path]) -> list[Path]:
    plane = tifffile.imread(files[1])
    tifffile.imwrite(files[1], plane, compression="zlib", rowsperstrip=100)
    with tifffile.TiffFile(files[1]) as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    with files[1].open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64))
    return files


def imagej_cut_short(files: list[Path]) -> list[Path]:
    """tifffile logs complaints of its own about such a file."""
    tifffile.imwrite(files[1], tifffile.imread(files[1]), imagej=True)
    os.truncate(files[1], 20_000)
    return files


def named_twice(files: list[Path]) -> list[Path]:
    return [*files, files[1]]


def a_folder(files: list[Path]) -> list[Path]:
    return [files[0].parent]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (with_a_gap, ["plane 2 of 5 is missing", "section_z00.tif", "section_z02.tif", "--skip 2"]),
        (missing, ["section_z01.tif", "does not exist"]),
        (cut_short, ["section_z01.tif", "cut short", "--skip 2"]),
        (imagej_cut_short, ["section_z01.tif", "cut short", "--skip 2"]),
        (empty, ["section_z01.tif", "--skip 2"]),
        (not_a_tiff, ["section_z01.tif", "cannot be read as TIFF", "--skip 2"]),
        (smaller, ["plane 2 of 5", "700x599", "the others are 700x600 uint16", "--skip 2"]),
        (of_another_type, ["plane 2 of 5", "uint8", "the others are 700x600 uint16", "--skip 2"]),
        (damaged_inside, ["plane 2", "section_z01.tif", "--skip 2"]),
        (named_twice, ["section_z01.tif is named 2 times: name each plane once"]),
        (a_folder, ["is a folder", "*.tif"]),
    ],
)
def test_a_bad_stack_is_one_sentence_and_leaves_nothing(
    full_brain: Brain, tmp_path: Path, harm: Callable[[list[Path]], list[Path]], words: list[str]
) -> None:
    files = harm(a_stack(tmp_path / "bad", planes=5))
    before = state(full_brain.path)
    said = sentence_of(nissl(*ingest_arguments(full_brain.path, files, "0043")))
    for word in words:
        assert word in said
    assert state(full_brain.path) == before
    assert not leftovers(full_brain.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--sample": "a_b"}, "sample 'a_b' is not a BIDS label"),
        ({"--sample": "../x"}, "sample '../x' is not a BIDS label"),
        ({"--suffix": "bf"}, "suffix 'bf' is none of BIDS microscopy's"),
        ({"--into": "nowhere"}, "is not a brain: create one with `nissl brain create"),
        ({"--pixel-size": "0"}, "is not a positive number of um"),
        ({"--pixel-size": "nan"}, "is not a positive number of um"),
    ],
)
def test_a_bad_value_is_one_sentence_and_leaves_nothing(
    full_brain: Brain, stack: list[Path], tmp_path: Path, change: dict[str, str], words: str
) -> None:
    arguments = ingest_arguments(full_brain.path, stack, "0043")
    for option, value in change.items():
        arguments[arguments.index(option) + 1] = value
    before = state(full_brain.path)
    assert words in sentence_of(nissl(*arguments, cwd=tmp_path))
    assert state(full_brain.path) == before
    assert not list(tmp_path.iterdir())


def test_a_brain_is_not_created_over_another(full_brain: Brain) -> None:
    before = state(full_brain.path)
    said = sentence_of(nissl("brain", "create", full_brain.path, "--subject", "02"))
    assert "exists already and is not empty: choose another place" in said
    assert state(full_brain.path) == before


@pytest.mark.slow
def test_a_plane_is_left_out_on_request(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = not_a_tiff(a_stack(tmp_path / "bad"))
    done = nissl(*ingest_arguments(brain.path, files), "--skip", "2")
    assert done.stdout.startswith("created sub-01_sample-0042_BF.ome.zarr: 2 x 600 x 700 uint16")


def test_two_samples_ingested_at_the_same_time_both_land(empty_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    running = [
        subprocess.Popen(["nissl", *ingest_arguments(brain.path, stack, sample)], stdout=subprocess.DEVNULL)
        for sample in ("0001", "0002")
    ]
    assert [process.wait(100) for process in running] == [0, 0]
    rows = tables.parse((brain.path / "catalogue.tsv").read_text())
    assert [row["sample"] for row in rows] == ["sample-0001", "sample-0002"]
    assert status(brain.path) == ""
    assert not leftovers(brain.path)


def a_long_stack(folder: Path, seed: int = 0) -> list[Path]:
    """Two regions of shards, so that worker processes take part."""
    return a_stack(folder, planes=4, height=8192 + 300, width=600, seed=seed)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", ["write", "annex"])
def test_an_interrupted_ingest_says_so_and_leaves_nothing_but_whole_regions(
    empty_brain: Brain, tmp_path: Path, stage: str, how: signal.Signals
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = a_long_stack(tmp_path / "long")
    before = state(brain.path)
    process = subprocess.Popen(
        ["nissl", *ingest_arguments(brain.path, files), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    for line in process.stdout:
        record = json.loads(line)
        # Some voxels are written: workers are at work by then.
        if record.get("stage") == stage and (stage == "annex" or record["done"] > 0):
            break
    # Ctrl-C in a terminal reaches all processes of the command, SIGTERM of a service manager the first of them.
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert state(brain.path) == before
    nothing = "nissl: interrupted, nothing half-made was left; run the same command to go on\n"
    if stage == "write" and said == nothing:  # neither of the two regions was finished
        assert not leftovers(brain.path)
        return
    assert re.fullmatch(
        r"nissl: interrupted: [12] of 2 regions \([\d.]+ MB\) are kept, the same command goes on from there\n", said
    )
    done = nissl(*ingest_arguments(brain.path, files))
    assert done.stdout.startswith("created"), done.stderr
    assert not leftovers(brain.path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("whom", ["nissl alone", "all its group"])
def test_an_ingest_killed_at_any_moment_leaves_what_the_same_command_completes(
    empty_brain: Brain, tmp_path: Path, whom: str
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    versions = [a_long_stack(tmp_path / str(seed), seed) for seed in range(2)]
    random = np.random.default_rng(42)
    longest = 4.0
    for turn in range(10):
        # New sections in even turns, new versions of the same in odd ones.
        sample = f"{turn // 2:04}"
        files = versions[turn % 2]
        arguments = ["nissl", *ingest_arguments(brain.path, files, sample), "--replace"]
        process = subprocess.Popen(arguments, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(random.uniform(0.3, longest)))
        if whom == "nissl alone":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        done = nissl(*arguments[1:], "--json")
        longest = min(longest, time.monotonic() - began)
        assert done.returncode == 0, f"turn {turn}: {done.stderr}"
        image = Path(json.loads(done.stdout.splitlines()[-1])["image"])
        section = image.parents[2]
        record = json.loads((section / "provenance" / f"sub-01_sample-{sample}_BF.json").read_text())
        assert Path(record["command"][2]).parent == files[0].parent
        subprocess.run(["git", "annex", "fsck", "--quiet"], cwd=section, check=True)
        assert (status(brain.path), status(section)) == ("", ""), f"turn {turn}"
        assert not leftovers(brain.path), f"turn {turn}"
        objects = list((section / ".git/annex/objects").glob("*/*/*"))
        shards = [path for path in image.glob("*/c/**/*") if path.is_file()]
        assert len(objects) == len(shards) * (1 + turn % 2), f"turn {turn}: orphans in the annex"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "height",
    [
        pytest.param(600, id="while it is annexed"),
        pytest.param(8192 + 300, id="while it is written", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_sentence_and_with_more_room_the_same_command_works(
    empty_brain: Brain, small_disk: Path, tmp_path: Path, height: int
) -> None:
    brain = a_copy(empty_brain, small_disk)
    files = a_stack(tmp_path / "stack", planes=4, height=height, width=600)
    if height == 600:
        free = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(bytes(free - 5_500_000))
    before = state(brain.path)
    arguments = ingest_arguments(brain.path, files)
    assert "no space left" in sentence_of(nissl(*arguments))
    assert state(brain.path) == before
    assert not leftovers(brain.path)
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert nissl(*arguments).returncode == 0
    assert status(brain.path) == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wherever_the_disk_fills_up_nothing_half_made_is_left(
    empty_brain: Brain, stack: list[Path], small_disk: Path
) -> None:
    brain = a_copy(empty_brain, small_disk)
    arguments = ingest_arguments(brain.path, stack)
    ballast = small_disk / "ballast"
    before = state(brain.path)
    for room in range(100_000, 12_000_000, 500_000):
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
        done = nissl(*arguments)
        ballast.unlink()  # git-annex waits for ever on a full disk, also for `git status`
        if done.returncode == 0:
            break
        assert "no space left" in sentence_of(done), f"{room}: {done.stderr}"
        assert state(brain.path) == before, room
        assert not leftovers(brain.path), room
    assert done.returncode == 0
    assert status(brain.path) == ""


def test_brain_create_on_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    said = sentence_of(nissl("brain", "create", small_disk / "brain", "--subject", "01"))
    assert "no space left" in said
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.slow
def test_an_image_is_compressed_as_ordered_also_by_the_option_of_older_versions(
    empty_brain: Brain, tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = a_stack(tmp_path / "tiny", planes=1, height=40, width=50)
    command = ingest_arguments(brain.path, files)
    assert sentence_of(nissl(*command, "--compression", "gzip:6")).startswith(
        "nissl: there is no compression 'gzip': give one of zstd, bitshuffle-zstd, bitshuffle-lz4"
    )
    assert not (brain.path / "sourcedata").exists()
    array = brain.path / "sourcedata/sample-0042/sub-01/micr/sub-01_sample-0042_BF.ome.zarr/0/zarr.json"
    for option, inner in (
        (("--compression", "bitshuffle-lz4"), ["bytes", "blosc", "crc32c"]),
        (("--zstd-level", "5"), ["bytes", "zstd"]),
    ):
        done = nissl(*command, *option, "--replace")
        assert done.returncode == 0, done.stderr
        codecs = json.loads(array.read_text())["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in codecs] == inner
    assert codecs[1]["configuration"]["level"] == 5
    assert nissl(*command, "--compression", "zstd:5").stdout.startswith("unchanged")
    assert "--zstd-level" not in nissl("ingest", "--help").stdout
