"""Nissl against tensorstore: a TIFF stack written as sharded Zarr v3, one level and a whole pyramid.

Both write arrays with literally the same `zarr.json` (shards, inner chunks, zstd level and checksum, crc32c index at
the start), use as many threads, and make their files durable with fsync. tensorstore gets the easiest case there is:
the whole stack in memory, read by threads, written shard by shard without copies. Runs alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import tifffile
from numpy.typing import NDArray

from bench.made_stack import make_stack
from nissl.formats import ome
from nissl.formats.build import build_image
from nissl.formats.codec import ZstdCodec
from nissl.formats.image_plan import ImagePlan, plan_image
from nissl.formats.pyramid import halve
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew, available_cores

VOXEL_SIZE_UM = (5.0, 1.0, 1.0)


def with_nissl(files: Sequence[Path], folder: Path, plan: ImagePlan, jobs: int) -> None:
    build_image(open_tiff_stack(files), folder, plan, crew=LocalCrew(jobs))


def with_tensorstore(files: Sequence[Path], folder: Path, plan: ImagePlan, jobs: int) -> None:
    voxels = np.empty(plan.grids[0].array_shape, dtype=plan.dtype)

    def read(plane: int) -> None:
        voxels[plane] = tifffile.imread(files[plane])

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(read, range(len(files))))
        writes = _start_writing(voxels, folder, plan, 0, jobs)
        for level in range(1, len(plan.grids)):
            voxels = _reduce(voxels, plan.grids[level].array_shape, pool)
            writes += _start_writing(voxels, folder, plan, level, jobs)
    for write in writes:
        write.result()


def _reduce(voxels: NDArray[Any], shape: tuple[int, ...], pool: ThreadPoolExecutor) -> NDArray[Any]:
    reduced = np.empty(shape, dtype=voxels.dtype)

    def reduce(plane: int) -> None:
        reduced[plane] = halve(voxels[plane])

    list(pool.map(reduce, range(len(voxels))))
    return reduced


def _start_writing(voxels: NDArray[Any], folder: Path, plan: ImagePlan, level: int, jobs: int) -> list[Any]:
    grid = plan.grids[level]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / str(level))},
        "metadata": ome.array_document(grid, plan.dtype, plan.codec, plan.axes),
        "context": {"data_copy_concurrency": {"limit": jobs}, "file_io_sync": True},
    }
    array = tensorstore.open(spec, create=True).result()
    boxes = [grid.shard_box(shard).slices for shard in grid.shards()]
    return [array[box].write(voxels[box], can_reference_source_data_indefinitely=True) for box in boxes]


def compress_only(voxels: NDArray[Any], plan: ImagePlan, jobs: int) -> None:
    """What zstd alone can do with as many threads: chunks already lie in memory, results are thrown away."""
    edge = plan.grids[0].chunk_shape[-1]
    _, height, width = voxels.shape

    def encode(place: tuple[int, int, int]) -> None:
        z, y, x = place
        plan.codec.encode(np.ascontiguousarray(voxels[z, y : y + edge, x : x + edge]).data)

    places = [(z, y, x) for z in range(len(voxels)) for y in range(0, height, edge) for x in range(0, width, edge)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(encode, places))


def timed(work: Callable[[], None], output: Path) -> float:
    os.sync()  # what the run before left to be written is not this run's to wait for
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    shutil.rmtree(output, ignore_errors=True)
    return seconds


def same_voxels(first: Path, second: Path, levels: int) -> bool:
    """Whether both arrays read the same; through tensorstore, so that neither judges itself."""
    for level in range(levels):
        ours, theirs = (_read_whole(folder / str(level)) for folder in (first, second))
        if not np.array_equal(ours, theirs):
            return False
    return True


def _read_whole(folder: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the stack, uncompressed")
    parser.add_argument("--level", type=int, nargs="+", default=[1, 3], help="zstd levels")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--shard-edge", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        files = make_stack(work / "tiff", options.gb)
        voxels = np.stack([tifffile.imread(file) for file in files])
        print(f"{len(files)} planes of {voxels.shape[2]} x {voxels.shape[1]}, {voxels.nbytes / 1e9:.2f} GB")
        print(f"{options.jobs} threads, shards of {options.shard_edge}, median of {options.runs} alternating runs\n")
        print(f"{'':34} {'Nissl':>10} {'tensorstore':>12} {'ratio':>6} {'zstd alone':>11}   (MB/s of raw level 0)")
        for level in options.level:
            whole = plan_image(
                open_tiff_stack(files),
                "bench.ome.zarr",
                VOXEL_SIZE_UM,
                codec=ZstdCodec(level),
                shard_edge=options.shard_edge,
            )
            for title, plan in (
                ("one level", dataclasses.replace(whole, grids=whole.grids[:1])),
                ("whole pyramid", whole),
            ):
                rows.append({"what": title, "zstd_level": level, **compare(files, voxels, work, plan, options)})
                row = rows[-1]
                print(
                    f"zstd {level}, {title:26} {row['nissl_mb_s']:10.0f} {row['tensorstore_mb_s']:12.0f} "
                    f"{row['ratio']:6.2f} {row['zstd_alone_mb_s']:11.0f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def compare(
    files: Sequence[Path], voxels: NDArray[Any], work: Path, plan: ImagePlan, options: argparse.Namespace
) -> dict[str, float]:
    ours, theirs = work / "nissl", work / "tensorstore"
    with_nissl(files, ours, plan, options.jobs)
    with_tensorstore(files, theirs, plan, options.jobs)
    if not same_voxels(ours, theirs, len(plan.grids)):
        raise SystemExit("the two wrote different voxels: nothing to compare")
    shutil.rmtree(ours)
    shutil.rmtree(theirs)
    seconds: dict[str, list[float]] = {"nissl": [], "tensorstore": [], "zstd_alone": []}
    for _ in range(options.runs):
        seconds["nissl"].append(timed(lambda: with_nissl(files, ours, plan, options.jobs), ours))
        seconds["tensorstore"].append(timed(lambda: with_tensorstore(files, theirs, plan, options.jobs), theirs))
        seconds["zstd_alone"].append(timed(lambda: compress_only(voxels, plan, options.jobs), work / "none"))
    rates = {f"{name}_mb_s": voxels.nbytes / 1e6 / statistics.median(times) for name, times in seconds.items()}
    rates["ratio"] = rates["nissl_mb_s"] / rates["tensorstore_mb_s"]
    return rates


if __name__ == "__main__":
    main()
