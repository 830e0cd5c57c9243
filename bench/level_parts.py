"""What writing one level costs Nissl: processor seconds per GB, part by part, in one thread, out of the page cache.

Chunk after chunk goes through the calls that `formats.build` and `formats.shards` make, with a stopwatch between them,
so that the sum can be compared with the processor time of whole runs (the last rows). What a whole run takes beyond the
sum is threads: handing chunks over, waiting for Python's lock, and page faults of memory that one thread allocates and
another frees.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.alternating import median_busy_seconds, median_seconds, timed
from bench.made_stack import make_stack
from nissl.formats.build import ImagePlan, plan_image, write_levels
from nissl.formats.codec import ZstdCodec, hdf5_checksum
from nissl.formats.image import shard_path
from nissl.formats.quality import look
from nissl.formats.shards import ShardWriter
from nissl.formats.tiff import open_tiff_stack


class Stopwatch:
    """Adds up wall and processor seconds of this thread by the part that has just ended."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
        self.restart()

    def restart(self) -> None:
        self._wall, self._busy = time.perf_counter(), time.thread_time()

    def lap(self, part: str) -> None:
        wall, busy = time.perf_counter(), time.thread_time()
        self.parts[part][0] += wall - self._wall
        self.parts[part][1] += busy - self._busy
        self.restart()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=0.25, help="size of the stack, uncompressed")
    parser.add_argument("--level", type=int, nargs="+", default=[1, 3], help="zstd levels")
    parser.add_argument("--runs", type=int, default=3, help="of the whole runs in the last rows")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    tables: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        files = make_stack(work / "tiff", options.gb)
        for level in options.level:
            source = open_tiff_stack(files)
            whole = plan_image(source, "bench.ome.zarr", (5.0, 1.0, 1.0), codec=ZstdCodec(level))
            plan = dataclasses.replace(whole, grids=whole.grids[:1])
            gigabytes = float(np.prod(source.shape)) * plan.dtype.itemsize / 1e9
            parts = measure(files, work, plan)
            parts["sum of the parts"] = [sum(part[column] for part in parts.values()) for column in (0, 1)]
            for jobs in options.jobs:
                runs = []
                for _ in range(options.runs):
                    runs.append(timed(functools.partial(whole_run, files, work / "whole", plan, jobs)))
                    shutil.rmtree(work / "whole")
                parts[f"whole run, {jobs} jobs"] = [median_seconds(runs), median_busy_seconds(runs)]
            tables[level] = {part: [value / gigabytes for value in cost] for part, cost in parts.items()}
            print(f"\nzstd {level:<24} {'s/GB':>8} {'CPU s/GB':>9}")
            for part, (seconds, busy) in tables[level].items():
                print(f"{part:29} {seconds:8.2f} {busy:9.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


def measure(files: list[Path], work: Path, plan: ImagePlan) -> dict[str, list[float]]:
    """Wall and processor seconds of each part, for the whole stack."""
    source = open_tiff_stack(files)
    grid = plan.grids[0]
    planes, height, width = source.shape
    edge = grid.chunk_shape[-1]
    little_endian = plan.dtype.newbyteorder("<")
    (work / "shard").mkdir(exist_ok=True)
    path = shard_path(work / "shard", (0, 0, 0))
    writer = ShardWriter(path, grid, (0, 0, 0), plan.dtype, plan.codec, plan.identity(0))
    os.sync()
    watch = Stopwatch()
    for z in range(planes):
        for top in range(0, height, edge):
            watch.restart()
            rows = source.read(z, range(top, min(top + edge, height)), range(width))
            watch.lap("read TIFF")
            for left in range(0, width, edge):
                voxels = rows[:, :, left : left + edge]
                look(voxels)
                watch.lap("look (quality)")
                voxels.any()
                watch.lap("any voxel but 0")
                if voxels.shape[1:] != (edge, edge):
                    padded = np.zeros((1, edge, edge), dtype=voxels.dtype)
                    padded[:, : voxels.shape[1], : voxels.shape[2]] = voxels
                    voxels = padded
                chunk: Any = np.ascontiguousarray(voxels.astype(little_endian, copy=False))
                watch.lap("pad or copy")
                payload = plan.codec.encode(chunk.data)
                watch.lap("zstd")
                checksum = hdf5_checksum(payload)
                watch.lap("Fletcher-32")
                stored = payload + checksum
                watch.lap("append the checksum")
                # What `write_chunk` does beside these two.
                writer._dataset.id.write_direct_chunk((z, top, left), stored)
                watch.lap("HDF5 direct chunk write")
    writer._written = 1
    writer.close()
    watch.lap("close, index, fsync, rename")
    path.unlink()
    return dict(watch.parts)


def whole_run(files: list[Path], folder: Path, plan: ImagePlan, jobs: int) -> None:
    write_levels(open_tiff_stack(files), folder, plan, jobs=jobs)


if __name__ == "__main__":
    main()
