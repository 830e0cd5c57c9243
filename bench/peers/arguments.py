"""What every driver is asked, and what it answers. Only the standard library: it runs in every environment."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A stack to convert."""

    files: tuple[Path, ...]
    """One TIFF per plane, in order."""
    multipage: Path
    """The same planes as the pages of one TIFF; there only for drivers that say that they read it."""
    target: Path
    """The OME-Zarr to make."""
    levels: int
    """Of the pyramid, level 0 included; each halves y and x."""
    chunk_edge: int
    shard_edge: int
    zstd_level: int
    jobs: int
    """Cores to use."""


def read_job() -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    for name in ("levels", "chunk-edge", "shard-edge", "zstd-level", "jobs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    return Job(
        tuple(sorted(given.source.glob("z*.tif"))),
        given.source / "stack.tif",
        given.target,
        given.levels,
        given.chunk_edge,
        given.shard_edge,
        given.zstd_level,
        given.jobs,
    )


def snug(extent: int, shard_edge: int, chunk_edge: int) -> int:
    """The edge of a shard: no larger than the chunks that the array has."""
    return min(shard_edge, -(-extent // chunk_edge) * chunk_edge)


def answer(level0: str, made: str) -> None:
    """Say where level 0 lies below the target, and in a few words how it was made."""
    print(json.dumps({"level0": level0, "made": made}))
