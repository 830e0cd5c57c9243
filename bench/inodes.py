"""Inodes of a 290 GB section against unsharded OME-Zarr, counted on disk, in a section of as many chunks and shards.

A section of 100000 x 100000 x 29 with chunks of 512 and shards of 8192 is made smaller by `--scale` on y and x, chunks
and shards with it: the numbers of levels, shards and chunks stay the same, and so do all files and folders. It is
really ingested (`nissl ingest`), saved (`datalad save`) and packed (`git gc`). Against it stands

- OME-Zarr with the same inner chunks, unsharded, no dataset: all its files, created empty in the same layout. That the
  layout is zarr-python's is checked against what zarr-python writes for `--written-planes` planes of it.
- The same as a dataset, which nobody has made here: what `nissl plan` says.

Files with two names count once; folders count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from bench.disk_count import Count, count
from bench.made_stack import made_plane, real_planes
from nissl.datasets.planning import Layout, footprints
from nissl.formats.grid import CHUNK_EDGE, SHARD_EDGE, Index, level_shapes, shard_grid
from nissl.formats.workers import available_cores

FULL_EDGE = 100_000
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=32, help="how much smaller than 100000 x 100000; a power of two")
    parser.add_argument("--edge", type=int, default=FULL_EDGE, help="of the full section, in voxels")
    parser.add_argument("--planes", type=int, default=29)
    parser.add_argument("--written-planes", type=int, default=1, help="how many planes zarr-python really writes")
    parser.add_argument("--no-files", action="store_true", help="compute the unsharded files instead of creating them")
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    chunk, shard, edge = CHUNK_EDGE // options.scale, SHARD_EDGE // options.scale, -(-options.edge // options.scale)
    shape = (options.planes, edge, edge)
    levels = level_shapes(shape, smallest=chunk)
    if len(levels) != len(level_shapes((options.planes, options.edge, options.edge))):
        raise SystemExit(f"scale {options.scale} changes the number of levels: take a power of two")
    print(
        f"{options.planes} planes of {edge} x {edge} uint8, {len(levels)} levels, chunks of {chunk}, shards of {shard}"
    )
    shards = sum(math.prod(shard_grid(one, chunk_edge=chunk, shard_edge=shard).shards_per_axis) for one in levels)
    chunks = sum(math.prod(_chunk_counts(one, chunk)) for one in levels)
    print(f"{shards} shards, {chunks} chunks", flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        section = ingest(work, shape, chunk, shard, options.jobs)
        parts = count_section(section)
        subprocess.run(["chmod", "-R", "u+w", str(work / "brain")], check=True)
        shutil.rmtree(work / "brain")
        check_layout(work, [(options.written_planes, *one[1:]) for one in levels], chunk)
        unsharded = unsharded_count(levels, chunk) if options.no_files else create_unsharded(work, levels, chunk)
    plan = {one.layout: one for one in footprints(shape, np.dtype(np.uint8), 1.6, chunk_edge=chunk, shard_edge=shard)}
    ours = sum(part.inodes for part in parts.values())
    report = {
        "shape": shape,
        "shards": shards,
        "chunks": chunks,
        "parts": {part: vars(found) | {"inodes": found.inodes} for part, found in parts.items()},
        "section_inodes": ours,
        "section_inodes_planned": plan[Layout.DUAL].work_inodes,
        "unsharded_inodes": unsharded.inodes,
        "unsharded_created": not options.no_files,
        "unsharded_dataset_inodes_planned": plan[Layout.CHUNKS].work_inodes,
        "ratio": unsharded.inodes / ours,
        "ratio_of_datasets": plan[Layout.CHUNKS].work_inodes / ours,
    }
    show(report, parts)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def ingest(work: Path, shape: tuple[int, int, int], chunk: int, shard: int, jobs: int) -> Path:
    """A saved and packed section of real tissue in a new brain."""
    real = real_planes()
    (work / "tiff").mkdir()
    for number in range(shape[0]):
        # No voxel is 0, so that no chunk is left out.
        plane = np.clip(made_plane(real[number % len(real)], shape[1], number) // 16, 1, 255).astype(np.uint8)
        tifffile.imwrite(work / "tiff" / f"z{number:03}.tif", plane)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*command: str, folder: Path = work) -> None:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")

    nissl = (sys.executable, "-m", "nissl")
    run(*nissl, "brain", "create", "brain", "--subject", "01")
    files = map(str, sorted((work / "tiff").glob("*.tif")))
    options = ["--into", "brain", "--sample", "1", "--suffix", "BF", "--pixel-size", "5", "1", "1", "--jobs", str(jobs)]
    start = time.perf_counter()
    run(*nissl, "ingest", *files, *options, "--chunk-edge", str(chunk), "--shard-edge", str(shard))
    print(f"ingested in {time.perf_counter() - start:.0f} s", flush=True)
    section = work / "brain" / "sourcedata" / "sample-1"
    run("datalad", "save", "-d", str(section))
    run("git", "gc", "--quiet", folder=section)
    return section


def count_section(section: Path) -> dict[str, Count]:
    """Part by part; an annexed file that is also in the work tree counts there."""
    seen: set[tuple[int, int]] = set()
    git = section / ".git"
    return {
        "work tree": count(section, seen, without=git),
        "annexed objects and their folders": count(git / "annex" / "objects", seen),
        "the rest of .git/annex": count(git / "annex", seen),
        "the rest of .git": count(git, seen),
    }


def _chunk_counts(shape: Index, chunk: int) -> tuple[int, int, int]:
    planes, height, width = shape
    return planes, -(-height // chunk), -(-width // chunk)


def unsharded_count(levels: Sequence[Index], chunk: int) -> Count:
    """Files and folders of unsharded OME-Zarr by its layout, `<level>/c/z/y/x`, without making them."""
    files, folders = 1, 1
    for level in levels:
        planes, down, across = _chunk_counts(level, chunk)
        files += 1 + planes * down * across
        folders += 2 + planes + planes * down
    return Count(files, folders, 0, 0)


def create_unsharded(work: Path, levels: Sequence[Index], chunk: int) -> Count:
    """Create them, empty, and count them on disk."""
    root = work / "unsharded.ome.zarr"
    root.mkdir()
    (root / "zarr.json").touch()
    for number, level in enumerate(levels):
        planes, down, across = _chunk_counts(level, chunk)
        (root / str(number)).mkdir()
        (root / str(number) / "zarr.json").touch()
        for z in range(planes):
            for y in range(down):
                row = f"{root}/{number}/c/{z}/{y}"
                os.makedirs(row)  # noqa: PTH103  # a Path for each of a million files takes longer than the file
                for x in range(across):
                    os.close(os.open(f"{row}/{x}", os.O_CREAT | os.O_WRONLY, 0o644))
    found = count(root)
    shutil.rmtree(root)
    if found != unsharded_count(levels, chunk):
        raise SystemExit(f"{found} on disk, {unsharded_count(levels, chunk)} by the layout: the bench is wrong")
    return found


def check_layout(work: Path, levels: Sequence[Index], chunk: int) -> None:
    """Let zarr-python write `levels`, unsharded, and compare what is on disk with the layout."""
    root = work / "written.ome.zarr"
    group = zarr.create_group(root)
    for number, level in enumerate(levels):
        array = group.create_array(str(number), shape=level, chunks=(1, chunk, chunk), dtype="uint8", fill_value=0)
        array[:] = 1
    found, expected = count(root), unsharded_count(levels, chunk)
    shutil.rmtree(root)
    if (found.files, found.folders) != (expected.files, expected.folders):
        raise SystemExit(f"zarr-python made {found}, the layout has {expected}: the bench is wrong")
    print(f"zarr-python's files for {levels[0][0]} planes are as the layout says: {found.inodes} inodes", flush=True)


def show(report: dict[str, Any], parts: dict[str, Count]) -> None:
    print(f"\n{'':42} {'files':>9} {'folders':>9} {'inodes':>9}")
    for part, found in parts.items():
        print(f"{part:42} {found.files + found.links:9} {found.folders:9} {found.inodes:9}")
    print(f"{'section':42} {'':9} {'':9} {report['section_inodes']:9}")
    print(f"{'  as `nissl plan` says':42} {'':9} {'':9} {report['section_inodes_planned']:9}")
    how = "created on disk" if report["unsharded_created"] else "by its layout"
    unsharded = f"unsharded OME-Zarr, {how}"
    print(f"{unsharded:42} {'':9} {'':9} {report['unsharded_inodes']:9}")
    dataset = report["unsharded_dataset_inodes_planned"]
    print(f"{'  as a dataset, as `nissl plan` says':42} {'':9} {'':9} {dataset:9}")
    print(
        f"the section has 1/{report['ratio']:.0f} of the inodes of unsharded OME-Zarr, "
        f"1/{report['ratio_of_datasets']:.0f} of those of an unsharded dataset"
    )


if __name__ == "__main__":
    main()
