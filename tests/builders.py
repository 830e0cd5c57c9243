"""Stacks, brains and commands for tests: real files, real git, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from nissl.datasets.brain import Brain, create_brain, open_brain
from nissl.datasets.ingest import Ingested, Order, ingest
from nissl.datasets.names import ImageName

BIN = Path(sys.executable).parent
VOXEL_SIZE_UM = (5.0, 1.0, 1.0)


@pytest.fixture(scope="session", autouse=True)
def own_git_identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests have a home and a git configuration of their own, and find the programs beside Python."""
    home = tmp_path_factory.mktemp("home")
    config = home / "gitconfig"
    config.write_text("[user]\n\tname = Test Person\n\temail = test@example.org\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_GLOBAL", str(config))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A z-stack that no test changes."""
    return a_stack(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="session")
def empty_brain(tmp_path_factory: pytest.TempPathFactory, own_git_identity: None) -> Brain:
    """A brain without sections that no test changes: take `a_copy` of it."""
    del own_git_identity
    return create_brain(tmp_path_factory.mktemp("empty") / "brain", "01")


@pytest.fixture(scope="session")
def full_brain(tmp_path_factory: pytest.TempPathFactory, empty_brain: Brain, stack: list[Path]) -> Brain:
    """A brain with the section sample-0042, made from `stack`, that no test changes: take `a_copy` of it."""
    brain = a_copy(empty_brain, tmp_path_factory.mktemp("full"))
    ingest(brain, an_order(stack))
    return brain


def a_stack(folder: Path, planes: int = 3, height: int = 600, width: int = 700, seed: int = 0) -> list[Path]:
    """TIFF files, one per plane, with a bright disc on a noisy ground: two pyramid levels at this size."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    files = []
    for plane in range(planes):
        file = folder / f"section_z{plane:02}.tif"
        tifffile.imwrite(file, a_plane(random, height, width))
        files.append(file)
    return files


def a_plane(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint16]:
    rows, columns = np.ogrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    plane = random.integers(100, 400, (height, width), dtype=np.uint16) + disc.astype(np.uint16) * 20000
    return plane.astype(np.uint16)


def voxels_of(files: list[Path]) -> NDArray[np.uint16]:
    """What `tifffile` reads from a stack."""
    return np.stack([tifffile.imread(file) for file in files])


def a_name(sample: str = "0042", stain: str | None = None) -> ImageName:
    return ImageName("01", sample, stain, "BF")


def an_order(
    files: list[Path],
    sample: str = "0042",
    stain: str | None = None,
    voxel_size_um: tuple[float, float, float] = VOXEL_SIZE_UM,
    **edges: int,
) -> Order:
    return Order(tuple(files), a_name(sample, stain), voxel_size_um, **edges)  # type: ignore[arg-type]


def ingested(brain: Brain, files: list[Path], sample: str = "0042", *, replace: bool = False) -> Ingested:
    return ingest(brain, an_order(files, sample), replace=replace)


def a_copy(brain: Brain, folder: Path) -> Brain:
    """A copy of a brain for a test to change; hard links within it stay hard links."""
    target = folder / "brain"
    subprocess.run(["cp", "-a", str(brain.path), str(target)], check=True)
    return open_brain(target)


def a_clone(brain: Brain, folder: Path) -> Brain:
    """A clone with its section installed, but without content."""
    target = folder / "clone"
    run(folder, "datalad", "-l", "error", "clone", str(brain.path), str(target))
    run(target, "datalad", "-l", "error", "get", "-n", "sourcedata/sample-0042")
    return open_brain(target)


def run(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> str:
    """What `command` prints when run in `folder`; it must succeed."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed: {done.stdout}\n{done.stderr}"
    return done.stdout


def nissl(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        ["nissl", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ingest_arguments(
    brain: Path, files: list[Path], sample: str = "0042", pixel_size: tuple[str, str, str] = ("5", "1", "1")
) -> list[str]:
    """The command line of `nissl` that ingests `files`."""
    options = ["--into", str(brain), "--sample", sample, "--suffix", "BF", "--pixel-size", *pixel_size]
    return ["ingest", *map(str, files), *options]


def head(repository: Path) -> str:
    return run(repository, "git", "rev-parse", "HEAD").strip()


def status(repository: Path) -> str:
    return run(repository, "git", "status", "--porcelain")


def state(brain: Path) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """All that a user sees of a brain: commit and status of each dataset, and each file with its time and size."""
    datasets = [brain, *sorted(path.parent for path in brain.glob("sourcedata/*/.git"))]
    commits = {str(dataset): f"{head(dataset)}\n{status(dataset)}" for dataset in datasets}
    files = [path for path in brain.rglob("*") if ".git" not in path.relative_to(brain).parts]
    return commits, {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.is_file()}


def leftovers(brain: Path) -> list[str]:
    """What work in progress has left behind."""
    bench = brain / ".git" / "nissl" / "work"
    markers = ["registering.json", *(path.name for path in brain.glob("sourcedata/*/.git/nissl/putting.json"))]
    found = [name for name in markers if (brain / ".git" / "nissl" / name).exists()]
    unfinished = brain / ".git" / "nissl" / "unfinished"
    folders = [path for parent in (bench, unfinished) if parent.exists() for path in parent.iterdir() if path.is_dir()]
    return found + [path.name for path in folders]
