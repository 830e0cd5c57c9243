"""Writing one level: Nissl against tensorstore, zarr-python, the zarrs pipeline, h5py, and against zstd alone.

A z-stack becomes one sharded array, out of memory or out of TIFF files, the same way for all. Before anything is timed,
what each wrote is read back and compared. Writers take turns; medians are printed. `of zstd` is the rate as a share of
what zstd alone does with as many threads at the same level, from memory, writing nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from bench.alternating import Timing, median_busy_seconds, median_seconds, take_turns, timed
from bench.level_writers import NISSL, WRITERS, Level, compress_only, read_back
from bench.made_stack import make_stack
from nissl.formats.codec import ZstdCodec
from nissl.formats.image_plan import plan_image
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import available_cores

LIMIT = "zstd alone"
MEMORY, TIFF = "memory", "tiff"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the stack, uncompressed")
    parser.add_argument("--level", type=int, nargs="+", default=[1, 3], help="zstd levels")
    parser.add_argument("--from", dest="sources", nargs="+", choices=[MEMORY, TIFF], default=[MEMORY, TIFF])
    parser.add_argument("--only", nargs="+", choices=list(WRITERS), default=list(WRITERS), help="some writers")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--shard-edge", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    names = list(dict.fromkeys([NISSL, *options.only]))

    tables: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        files = make_stack(work / "tiff", options.gb)
        voxels = np.stack([tifffile.imread(file) for file in files])
        print(
            f"{len(files)} planes of {voxels.shape[2]} x {voxels.shape[1]} {voxels.dtype}, {voxels.nbytes / 1e9:.2f} GB"
        )
        print(f"{options.jobs} threads, shards of {options.shard_edge}, median of {options.runs} runs in turns")
        for zstd_level in options.level:
            whole = plan_image(
                open_tiff_stack(files),
                "bench.ome.zarr",
                (5.0, 1.0, 1.0),
                codec=ZstdCodec(zstd_level),
                shard_edge=options.shard_edge,
            )
            plan = dataclasses.replace(whole, grids=whole.grids[:1])
            for source in options.sources:
                level = Level(plan, tuple(files), voxels if source == MEMORY else None, options.jobs)
                rows = compare(level, voxels, names, work / "out", options.runs)
                tables.append({"zstd_level": zstd_level, "from": source, "rows": rows})
                show(f"zstd {zstd_level}, from {source}", rows)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


def compare(level: Level, voxels: NDArray[Any], names: list[str], out: Path, runs: int) -> list[dict[str, Any]]:
    """A row per writer, and one for zstd alone."""
    stored = {name: check(level, voxels, name, out) for name in names}
    works = {name: functools.partial(write, level, name, out) for name in names}
    limit = functools.partial(timed, lambda: compress_only(level, voxels))
    timings = take_turns({**works, LIMIT: limit}, runs)
    seconds = {name: median_seconds(runs_of) for name, runs_of in timings.items()}
    return [
        {
            "writer": name,
            "mb_s": voxels.nbytes / 1e6 / seconds[name],
            "nissl_ratio": seconds[name] / seconds[NISSL],
            "of_zstd": seconds[LIMIT] / seconds[name],
            "cpu_seconds": median_busy_seconds(timings[name]),
            "stored_mb": stored.get(name, 0) / 1e6,
            "all_seconds": [timing.seconds for timing in timings[name]],
        }
        for name in [*names, LIMIT]
    ]


def check(level: Level, voxels: NDArray[Any], name: str, out: Path) -> int:
    """Bytes of what `name` writes. Ends the program where that reads back as other voxels."""
    WRITERS[name](level, out)
    if not np.array_equal(read_back(out), voxels):
        raise SystemExit(f"{name} wrote other voxels: nothing to compare")
    nbytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return nbytes


def write(level: Level, name: str, out: Path) -> Timing:
    timing = timed(lambda: WRITERS[name](level, out))
    shutil.rmtree(out)
    return timing


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title:24} {'MB/s':>7} {'Nissl is':>9} {'of zstd':>8} {'CPU s':>7} {'stored MB':>10}")
    for row in rows:
        ratio = "" if row["writer"] == LIMIT else f"{row['nissl_ratio']:.2f}x"
        stored = f"{row['stored_mb']:.1f}" if row["stored_mb"] else ""
        print(
            f"{row['writer']:24} {row['mb_s']:7.0f} {ratio:>9} {row['of_zstd']:8.2f} {row['cpu_seconds']:7.2f} "
            f"{stored:>10}",
            flush=True,
        )


if __name__ == "__main__":
    main()
