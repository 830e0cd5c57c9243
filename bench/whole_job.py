"""TIFF to finished pyramid: Nissl against programs that do the whole job, each in an environment of its own.

From a TIFF per plane on disk to an OME-Zarr with all levels on disk, every file synced, the start of the program
included. Before anything is timed, level 0 of each result is read back with zarr-python and compared with the planes.
Programs take turns; medians are printed. Memory is that of all processes together. Environments are made on demand,
from pinned requirements (see `bench/peers`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from bench import process_tree
from bench.alternating import sync_tree
from bench.disk_count import count
from bench.made_stack import make_stack
from bench.peers.environments import python_of, version_of
from nissl.formats.grid import level_shapes
from nissl.formats.workers import available_cores

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = "bench"


@dataclass(frozen=True)
class Program:
    """One way to do the job."""

    module: str
    package: str = ""
    arguments: tuple[str, ...] = ()
    peer: bool = True
    """Whether it does the whole job on its own, so that the claim is about it."""
    multipage: bool = False


PROGRAMS: dict[str, Program] = {
    "nissl ingest": Program("nissl_ingest", peer=False),
    "Nissl, build only": Program("nissl_build", peer=False),
    "ome-zarr": Program("ome_zarr_py", "ome-zarr"),
    "ngff-zarr": Program("ngff_zarr_py", "ngff-zarr"),
    "bioio-conversion": Program("bioio_converter", "bioio-conversion", multipage=True),
    "acquire-zarr": Program("acquire_zarr_stream", "acquire-zarr"),
    "acquire-zarr, shuffled": Program("acquire_zarr_stream", "acquire-zarr", ("--shuffle",)),
    "tensorstore, by hand": Program("tensorstore_by_hand", peer=False),
}
INGEST, BUILD = "nissl ingest", "Nissl, build only"


@dataclass(frozen=True)
class Result:
    """One run of a program."""

    usage: process_tree.Usage
    seconds: float
    """From its start until every file is synced."""
    files: int
    inodes: int
    nbytes: int
    made: str


class Bench:
    """The stack, and where programs write."""

    def __init__(self, work: Path, gigabytes: float, options: argparse.Namespace) -> None:
        self.options = options
        self.source = work / "source"
        self.brain = work / "brain"
        self.files = make_stack(self.source, gigabytes)
        self.shape = (len(self.files), *tifffile.imread(self.files[0]).shape)
        self.nbytes = 2 * int(np.prod(self.shape))
        if any(PROGRAMS[name].multipage for name in options.only):
            with tifffile.TiffWriter(self.source / "stack.tif", bigtiff=True) as tiff:
                planes = (tifffile.imread(path) for path in self.files)
                tiff.write(planes, shape=self.shape, dtype=np.uint16, photometric="minisblack")
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(self, name: str, verify: bool = False) -> Result:
        """Do the job once, and remove what came of it."""
        program = PROGRAMS[name]
        target = self.brain.parent / "out.ome.zarr"
        if name == INGEST:
            target = self.brain / "sourcedata" / f"sample-{SAMPLE}"
            create = [sys.executable, "-m", "nissl", "brain", "create", str(self.brain), "--subject", "01"]
            subprocess.run(create, check=True, env=self._environment, stdout=subprocess.DEVNULL)
        options = self.options
        levels = len(level_shapes(self.shape, smallest=options.chunk_edge))
        command = [python_of(program.module), "-m", f"bench.peers.{program.module}", *program.arguments]
        command += ["--source", str(self.source), "--target", str(target), "--levels", str(levels)]
        command += ["--chunk-edge", str(options.chunk_edge), "--shard-edge", str(options.shard_edge)]
        command += ["--zstd-level", str(options.level), "--jobs", str(options.jobs)]
        os.sync()  # what the run before left to be written is not this run's to wait for
        usage = process_tree.run(command, self._environment, ROOT)
        start = time.perf_counter()
        sync_tree(target)
        seconds = usage.seconds + time.perf_counter() - start
        said = json.loads(usage.said.strip().splitlines()[-1])
        if verify:
            self._verify(name, target / said["level0"])
        found = count(target)
        whole = self.brain if name == INGEST else target
        subprocess.run(["chmod", "-R", "u+w", str(whole)], check=True)  # git-annex protects its objects
        shutil.rmtree(whole)
        return Result(usage, seconds, found.files, found.inodes, found.nbytes, said["made"])

    def _verify(self, name: str, level0: Path) -> None:
        array = zarr.open_array(level0, mode="r")
        for number, path in enumerate(self.files):
            place = (*(0 for _ in range(array.ndim - 3)), number)
            if not np.array_equal(np.asarray(array[place]), tifffile.imread(path)):
                raise SystemExit(f"{name} wrote other voxels in plane {number + 1}: nothing to compare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0], help="sizes of the stack, uncompressed")
    parser.add_argument("--level", type=int, default=3, help="zstd level")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--chunk-edge", type=int, default=512)
    parser.add_argument("--shard-edge", type=int, default=8192)
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), help="some programs")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    options.only = list(dict.fromkeys([INGEST, BUILD, *options.only]))
    for name in options.only:
        python_of(PROGRAMS[name].module)

    tables: list[dict[str, Any]] = []
    for gigabytes in options.gb:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            bench = Bench(Path(folder), gigabytes, options)
            planes, height, width = bench.shape
            print(f"\n{planes} planes of {width} x {height} uint16, {bench.nbytes / 1e9:.2f} GB, zstd {options.level}")
            print(f"{options.jobs} cores, median of {options.runs} runs in turns", flush=True)
            rows = compare(bench, options.only, options.runs)
        tables.append({"gb": bench.nbytes / 1e9, "zstd_level": options.level, "jobs": options.jobs, "rows": rows})
        show(rows)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


def compare(bench: Bench, names: list[str], runs: int) -> list[dict[str, Any]]:
    for name in names:
        bench.run(name, verify=True)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for run in range(runs):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(bench.run(name))
    seconds = {name: statistics.median(result.seconds for result in of) for name, of in results.items()}
    return [
        {
            "program": name,
            "version": version_of(PROGRAMS[name].module, PROGRAMS[name].package) if PROGRAMS[name].package else "",
            "peer": PROGRAMS[name].peer,
            "seconds": seconds[name],
            "mb_s": bench.nbytes / 1e6 / seconds[name],
            "ingest_ratio": seconds[name] / seconds[INGEST],
            "build_ratio": seconds[name] / seconds[BUILD],
            "peak_mb": statistics.median(result.usage.peak_bytes for result in of) / 1e6,
            "anonymous_mb": statistics.median(result.usage.peak_anonymous_bytes for result in of) / 1e6,
            "largest_process_mb": statistics.median(result.usage.largest_process_bytes for result in of) / 1e6,
            "files": of[0].files,
            "inodes": of[0].inodes,
            "stored_mb": of[0].nbytes / 1e6,
            "made": of[0].made,
            "all_seconds": [result.seconds for result in of],
        }
        for name, of in results.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    widths = {"s": 7, "MB/s": 6, "ingest is": 10, "build is": 9, "peak MB": 8}
    widths |= {"anon MB": 8, "files": 7, "inodes": 7, "MB": 7}
    columns = " ".join(f"{name:>{width}}" for name, width in widths.items())
    print(f"\n{'':30} {columns}")
    for row in rows:
        print(
            f"{row['program'] + ' ' + row['version']:30} {row['seconds']:7.2f} {row['mb_s']:6.0f} "
            f"{row['ingest_ratio']:9.2f}x {row['build_ratio']:8.2f}x {row['peak_mb']:8.0f} "
            f"{row['anonymous_mb']:8.0f} {row['files']:7} {row['inodes']:7} {row['stored_mb']:7.1f}  {row['made']}"
        )
    peers = [row for row in rows if row["peer"]]
    if peers:
        fastest = min(peers, key=lambda row: row["seconds"])
        print(
            f"fastest peer: {fastest['program']}; nissl ingest is {fastest['ingest_ratio']:.2f} times as fast, "
            f"the build alone {fastest['build_ratio']:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
