"""`nissl ingest --scheduler`: a Dask cluster writes the voxels, on this machine or in Slurm jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.brain import Brain
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from tests.builders import (
    a_copy,
    a_name,
    a_stack,
    ingest_arguments,
    leftovers,
    nissl,
    run,
    state,
    status,
    voxels_of,
)
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.slurm import Slurm, missing_programs, running_slurm

pytestmark = pytest.mark.slow  # clusters are started and killed

SMALL = ("--chunk-edge", "128", "--shard-edge", "256")
"""3 x 3 regions of the stack."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask")) as running:
        yield running


@pytest.fixture(scope="module")
def tall_stack(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Many regions, in files of strips: rows of shards."""
    return a_stack(tmp_path_factory.mktemp("tall"), planes=8, height=12000, width=2000)


@pytest.fixture(scope="module")
def home_brain(empty_brain: Brain, stack: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Brain:
    """The stack as this machine alone ingests it."""
    brain = a_copy(empty_brain, tmp_path_factory.mktemp("home"))
    assert nissl(*ingest_arguments(brain.path, stack), *SMALL).returncode == 0
    return brain


def record_of(brain: Brain) -> dict[str, object]:
    document = json.loads((brain.section(a_name()) / "provenance/sub-01_sample-0042_BF.json").read_text())
    crew: dict[str, object] = document["crew"]
    return crew


def annexed(brain: Brain) -> str:
    """Every file of the section's image with its annex key or git object: equal where all bytes are."""
    return run(brain.section(a_name()), "git", "ls-tree", "-r", "HEAD", "sub-01/micr/sub-01_sample-0042_BF.ome.zarr")


def holds(brain: Brain, files: list[Path]) -> bool:
    with open_image(brain.section(a_name()) / "sub-01/micr/sub-01_sample-0042_BF.ome.zarr") as image:
        level = image.levels[0]
        return np.array_equal(level.read(Box((0,) * len(level.shape), level.shape)), voxels_of(files))


def wait_for_voxels(process: subprocess.Popen[str]) -> None:
    """Wait until an ingest with --json has voxels, but not all."""
    assert process.stdout is not None
    for line in process.stdout:
        record = json.loads(line)
        if record.get("stage") == "write" and 0 < record["done"] < record["total"]:
            return
    pytest.fail("it ended too early")


def test_a_cluster_makes_the_same_section_and_the_record_says_who_did(
    empty_brain: Brain, home_brain: Brain, stack: list[Path], cluster: DaskCluster, tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    order = [*ingest_arguments(brain.path, stack), *SMALL]
    done = nissl(*order, "--scheduler", cluster.scheduler_file)
    assert (done.returncode, done.stderr) == (0, "")
    assert annexed(brain) == annexed(home_brain)
    assert holds(brain, stack)
    assert status(brain.path) == status(brain.section(a_name())) == ""
    assert not leftovers(brain.path)
    crew = record_of(brain)
    assert crew["scheduler"] == cluster.address
    rows = 3  # of shards: the files have strips
    assert crew["workers"] == [{"host": socket.gethostname(), "threads": 1, "slurm_job_id": None, "regions": rows}]
    # Where it was made is no part of what was ordered.
    assert nissl(*order).stdout.startswith("unchanged")


def test_labels_are_written_by_a_cluster_too(full_brain: Brain, cluster: DaskCluster, tmp_path: Path) -> None:
    brain = a_copy(full_brain, tmp_path)
    np.save(tmp_path / "seg.npy", np.arange(3 * 600 * 700, dtype=np.uint32).reshape(3, 600, 700) // 5000)
    options = ["--image", "sub-01_sample-0042_BF", "--name", "bodies"]
    done = nissl(
        "labels", "add", brain.section(a_name()), tmp_path / "seg.npy", *options, "--scheduler", cluster.address
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("created bodies: 251 labels in 3 x 600 x 700 uint32")
    (record,) = brain.section(a_name()).glob("provenance/*bodies*.json")
    assert json.loads(record.read_text())["crew"]["scheduler"] == cluster.address


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_what_workers_do_and_keeps_whole_regions_only(
    empty_brain: Brain, tall_stack: list[Path], cluster: DaskCluster, how: signal.Signals, tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    before = state(brain.path)
    arguments = [*ingest_arguments(brain.path, tall_stack), "--shard-edge", "1024", "--scheduler", cluster.address]
    process = subprocess.Popen(
        ["nissl", *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_voxels(process)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"nissl: interrupted(: \d+ of 12 regions .* are kept|, nothing half-made was left).*\n", said)
    kept = files_below(brain.unfinished)
    time.sleep(1.5)  # a worker that still wrote would show
    assert files_below(brain.unfinished) == kept
    assert not [path for path in kept if path.endswith(".part")]
    assert state(brain.path) == before
    done = nissl(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert holds(brain, tall_stack)
    assert not leftovers(brain.path)


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_after_the_command_was_killed_the_same_command_completes_on_the_same_cluster(
    empty_brain: Brain, tall_stack: list[Path], cluster: DaskCluster, tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    order = [*ingest_arguments(brain.path, tall_stack), "--shard-edge", "1024", "--scheduler", cluster.address]
    process = subprocess.Popen(["nissl", *order, "--json"], stdout=subprocess.PIPE, text=True)
    wait_for_voxels(process)
    process.kill()
    process.communicate()
    done = nissl(*order)
    assert (done.returncode, done.stderr) == (0, "")
    assert holds(brain, tall_stack)
    assert status(brain.path) == status(brain.section(a_name())) == ""
    assert not leftovers(brain.path)


def test_a_scheduler_that_dies_is_one_sentence_and_the_same_command_completes_on_another(
    empty_brain: Brain, tall_stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    order = [*ingest_arguments(brain.path, tall_stack), "--shard-edge", "1024"]
    with dask_cluster(tmp_path / "first") as own:
        process = subprocess.Popen(
            ["nissl", *order, "--scheduler", own.address, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_voxels(process)
        own.scheduler.kill()
        _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert re.fullmatch(r"nissl: the Dask scheduler at tcp://\S+ is gone: start it again and .*\n", said)
    with dask_cluster(tmp_path / "second") as another:
        done = nissl(*order, "--scheduler", another.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert holds(brain, tall_stack)
    assert not leftovers(brain.path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scheduler", "tcp://127.0.0.1:1", "--wait", "0"], "nobody answers at tcp://127.0.0.1:1 after 0 s: start"),
        (["--scheduler", "nowhere.json", "--wait", "0"], "there is no scheduler file nowhere.json after 0 s: start"),
        (["--scheduler", "tcp://127.0.0.1:1", "--jobs", "2"], "--scheduler takes a cluster: give one of the two"),
    ],
)
def test_a_wrong_scheduler_is_one_sentence_and_leaves_nothing(
    options: list[str], sentence: str, empty_brain: Brain, stack: list[Path]
) -> None:
    before = state(empty_brain.path)
    done = nissl(*ingest_arguments(empty_brain.path, stack), *options)
    lines = [line for line in done.stderr.splitlines() if "waiting up to" not in line]
    assert (done.returncode, done.stdout, len(lines)) == (1, "", 1)
    assert sentence in lines[0]
    assert state(empty_brain.path) == before


def test_without_dask_the_sentence_says_what_to_install(empty_brain: Brain, stack: list[Path], tmp_path: Path) -> None:
    # Python takes this one for the package, and it says what a missing one says.
    (tmp_path / "distributed.py").write_text('raise ModuleNotFoundError("no", name="distributed")\n')
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = [*ingest_arguments(empty_brain.path, stack), "--scheduler", "tcp://127.0.0.1:1"]
    done = nissl(*arguments, env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr == (
        "nissl: --scheduler needs Dask, which is not installed: run `pip install 'nissl[dask]'`, here and for the "
        "workers\n"
    )


# Slurm


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = missing_programs()
    if missing:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)} missing): `apt-get install slurm-wlm munge`, as make test does"
        )
    with running_slurm() as running:
        yield running


def example_scripts() -> dict[str, str]:
    """The scripts that docs/cluster.md shows, by the name in their first comment."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text()
    scripts = re.findall(r"```bash\n(#!/bin/bash\n# (\S+\.sh).*?)```", text, flags=re.DOTALL)
    return {name: script for script, name in scripts}


def submitted(slurm: Slurm, folder: Path, name: str, variables: dict[str, str]) -> int:
    script = folder / name
    script.write_text(example_scripts()[name])
    exported = ",".join(["ALL", *(f"{key}={value}" for key, value in variables.items())])
    return slurm.sbatch(script, f"--export={exported}")


def test_the_scripts_of_the_documentation_ingest_a_stack_in_slurm_jobs(
    slurm: Slurm, empty_brain: Brain, home_brain: Brain, stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    variables = {"BRAIN": str(brain.path), "STACK": str(stack[0].parent), "OPTIONS": " ".join(SMALL)}
    job = submitted(slurm, tmp_path, "ingest.sh", variables)
    assert slurm.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") == "COMPLETED", slurm.output(job)
    assert "created sub-01_sample-0042_BF.ome.zarr: 3 x 600 x 700 uint16" in slurm.output(job)
    assert annexed(brain) == annexed(home_brain)
    crew = record_of(brain)
    assert isinstance(crew["workers"], list)
    assert {worker["slurm_job_id"] for worker in crew["workers"]} == {str(job)}
    assert sum(worker["regions"] for worker in crew["workers"]) == 3


def test_a_worker_job_that_is_cancelled_in_the_middle_harms_nothing(
    slurm: Slurm, empty_brain: Brain, tall_stack: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(empty_brain, tmp_path)
    file = tmp_path / "scheduler.json"
    scheduler = submitted(slurm, tmp_path, "scheduler.sh", {"SCHEDULER_FILE": str(file)})
    workers = [submitted(slurm, tmp_path, "worker.sh", {"SCHEDULER_FILE": str(file)}) for _ in range(2)]
    for job in (scheduler, *workers):
        slurm.wait(job, "RUNNING")
    process = subprocess.Popen(
        ["nissl", *ingest_arguments(brain.path, tall_stack), "--shard-edge", "1024", "--scheduler", file, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_voxels(process)
    slurm.run("scancel", "--signal=KILL", "--full", str(workers[0]))
    out, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    assert json.loads(out.splitlines()[-1])["event"] == "created"
    assert holds(brain, tall_stack)
    crew = record_of(brain)
    assert isinstance(crew["workers"], list)
    assert str(workers[1]) in {worker["slurm_job_id"] for worker in crew["workers"]}
    for job in (scheduler, workers[1]):
        slurm.run("scancel", str(job))
