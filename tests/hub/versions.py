"""A hub with a section of many shards that has changed: two versions of its image, and labels beside the second."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from nissl.datasets.brain import create_brain
from nissl.datasets.ingest import Order, ingest
from nissl.datasets.labelling import LabelOrder, add_labels
from nissl.formats.workers import LocalCrew
from nissl.hub.intake import add_dataset
from nissl.hub.root import create_hub
from nissl.hub.versions import object_path
from tests.hub.conftest import IMAGE, SECTION, RunningHub, serving

CHUNK, SHARD = 64, 128
EMPTY_CHUNK = (slice(None), slice(0, 64), slice(64, 128))
EMPTY_SHARD = (slice(None), slice(256, 384), slice(256, 384))
"""Where the image of the second version is 0."""


@dataclass(frozen=True)
class VersionedHub(RunningHub):
    """The hub's branch `main` ends at `labelled`; `voxels` are those of `second` and `labelled`."""

    first: str
    second: str
    labelled: str
    before: NDArray[np.uint16]
    """The voxels of `first`."""
    labels: NDArray[np.uint32]

    def zarr(self, ref: str, path: str = "", *, surface: str = "zarr") -> str:
        """The URL of something in the image at `ref`."""
        return f"{self.url}/{surface}/{SECTION}/{ref}/{IMAGE.image}{path}"

    def object(self, path: str) -> Path:
        """The hub's annexed object of a shard of the image, as it is now: `/0/c/0/0/0`."""
        pointer = subprocess.run(
            ["git", "show", f"HEAD:{IMAGE.image}{path}"], cwd=self.section, capture_output=True, text=True, check=True
        ).stdout
        found = object_path(self.root.repository(SECTION), pointer.strip().rpartition("/")[2])
        assert found is not None
        return found

    @contextlib.contextmanager
    def without(self, *paths: str) -> Iterator[None]:
        """The hub does not have the content of these shards until the context ends."""
        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(changed(self.object(path), None))
            yield


@contextlib.contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """`path` has other content, or none, until the context ends."""
    aside = path.parents[2] / f"aside-{path.name}"
    path.parent.chmod(0o755)
    path.rename(aside)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@contextlib.contextmanager
def a_versioned_hub(folder: Path, *, public: bool) -> Iterator[VersionedHub]:
    """3 planes of 300 x 400 in chunks of 64 and shards of 128, served until the context ends."""
    rng = np.random.default_rng(3)
    before, after = rng.integers(1, 4000, (2, 3, 300, 400), dtype=np.uint16)
    after[EMPTY_CHUNK] = after[EMPTY_SHARD] = 0
    labels = np.repeat(np.repeat(rng.integers(0, 9, (3, 15, 20), dtype=np.uint32), 20, 1), 20, 2)
    np.save(folder / "labels.npy", labels)
    brain = create_brain(folder / "brain", "01")
    section = brain.section(IMAGE)
    commits = []
    for name, voxels in (("before", before), ("after", after)):
        files = _planes(folder / name, voxels)
        order = Order(tuple(files), IMAGE, (3.0, 0.5, 0.5), chunk_edge=CHUNK, shard_edge=SHARD)
        ingest(brain, order, replace=name == "after", crew=LocalCrew(1))
        commits.append(_head(section))
    add_labels(section, LabelOrder((str(folder / "labels.npy"),), IMAGE, "cells"), crew=LocalCrew(1))
    root = create_hub(folder / "hub", "Madrid")
    add_dataset(root, brain.path)
    with serving(root.path, public=public) as url:
        first, second = commits
        yield VersionedHub(root, brain, url, after, first, second, _head(section), before, labels)


def _planes(folder: Path, voxels: NDArray[Any]) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = [folder / f"z{number}.tif" for number in range(len(voxels))]
    for file, plane in zip(files, voxels, strict=True):
        tifffile.imwrite(file, plane)
    return files


def _head(repository: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()
