"""Peak memory and time of turning a generated TIFF stack into a whole image: memory must not grow with the stack."""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.made_stack import make_stack
from nissl.formats.build import build_image
from nissl.formats.image_plan import plan_image
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew, available_cores


def own_peak_bytes() -> int:
    """Not ru_maxrss: Linux hands that of the process that started this one down through fork and exec."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def ingest(tiff: Path, target: Path, jobs: int, shard_edge: int) -> None:
    source = open_tiff_stack(sorted(tiff.glob("*.tif")))
    plan = plan_image(source, target.name, (5.0, 1.0, 1.0), shard_edge=shard_edge)
    before = own_peak_bytes()
    start = time.perf_counter()
    build_image(source, target, plan, crew=LocalCrew(jobs))
    seconds = time.perf_counter() - start
    planes, height, width = source.shape
    gigabytes = planes * height * width * source.dtype.itemsize / 1e9
    child = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{planes} planes of {width} x {height}, {gigabytes:.2f} GB, {len(plan.grids)} levels, {jobs} jobs")
    print(f"{seconds:.1f} s, {1000 * gigabytes / seconds:.0f} MB/s of raw level 0")
    print(f"peak of the process {own_peak_bytes() / 1e6:.0f} MB ({before / 1e6:.0f} MB before it began)")
    print(f"peak of its largest child {child / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the stack, uncompressed")
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--shard-edge", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--tiff", type=Path, help="ingest the stack in this folder instead of generating one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.tiff is not None:
            ingest(options.tiff, Path(name) / "bench.ome.zarr", options.jobs, options.shard_edge)
            return
        make_stack(Path(name) / "tiff", options.gb)
        # In a process of its own, so that the memory of generating is not counted.
        again = [sys.executable, __file__, "--tiff", f"{name}/tiff", "--folder", name, "--jobs", str(options.jobs)]
        subprocess.run([*again, "--shard-edge", str(options.shard_edge)], check=True)


if __name__ == "__main__":
    main()
