"""Random patches per second, warm cache: Nissl against tensorstore, zarr-python, zarrs, h5py and tiled TIFF.

All but the TIFF readers read the same dual shard; the TIFF is tiled like its inner chunks and compressed with zstd at
the same level. Every reader runs in a process of its own that is confined to as many cores as the heading says, reads
the same patches in the same order, and takes its turn in every round; medians over rounds are printed. The processor
time of a patch, over all threads, is printed too: other work on the machine disturbs it less than the rate. Before
anything is timed, every reader's patches are compared with the voxels of the source.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from bench.made_stack import make_stack
from nissl.formats.build import build_image
from nissl.formats.codec import Codec, ZstdCodec, parse_codec
from nissl.formats.grid import Index
from nissl.formats.image import open_image, shard_path
from nissl.formats.image_plan import plan_image
from nissl.formats.patches import PatchReader, random
from nissl.formats.shards import DATASET
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew, available_cores

IN_FLIGHT = 32
"""Patches that a batch holds, and that tensorstore is asked for before the first is waited for."""

NISSL = "Nissl, batches of 32"


@dataclass(frozen=True)
class Job:
    """What every reader is given."""

    image: Path
    tiff: Path
    edge: int
    starts: tuple[Index, ...]
    """(z, y, x) of each patch."""
    seed: int
    cores: int


Patch = NDArray[np.uint16]
Read = Callable[[range], Sequence[Patch]]
"""Reads the patches with these indices."""


def one_by_one(job: Job, read: Callable[[Index], Patch]) -> Read:
    """Asks for one patch at a time, in as many Python threads as there are cores."""
    if job.cores == 1:
        return lambda indices: [read(job.starts[index]) for index in indices]
    pool = ThreadPoolExecutor(job.cores)
    return lambda indices: list(pool.map(lambda index: read(job.starts[index]), indices))


def nissl_reader(job: Job) -> PatchReader:
    return PatchReader(job.image, (job.edge, job.edge), random(len(job.starts), job.seed))


def nissl_batches(job: Job) -> Read:
    reader = nissl_reader(job)
    buffer = np.empty((IN_FLIGHT, job.edge, job.edge), dtype=np.uint16)

    def read(indices: range) -> Sequence[Patch]:
        voxels = buffer[:0]
        for first in range(0, len(indices), IN_FLIGHT):
            batch = indices[first : first + IN_FLIGHT]
            # As in training, each batch takes the place of the one before; the first, alone, is what is compared.
            voxels = reader.read_batch(batch, buffer[: len(batch)], threads=job.cores)
        return list(voxels)

    return read


def nissl_one_by_one(job: Job) -> Read:
    reader = nissl_reader(job)
    if job.cores == 1:
        return lambda indices: [reader[index] for index in indices]
    pool = ThreadPoolExecutor(job.cores)
    return lambda indices: list(pool.map(reader.__getitem__, indices))


def _tensorstore(job: Job) -> Any:  # noqa: ANN401  # it has no types
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(job.image / "0")},
        "context": {"data_copy_concurrency": {"limit": job.cores}},
    }
    return tensorstore.open(spec, read=True).result()


def tensorstore_one_by_one(job: Job) -> Read:
    array = _tensorstore(job)
    edge = job.edge
    return one_by_one(job, lambda at: array[at[0], at[1] : at[1] + edge, at[2] : at[2] + edge].read().result())


def tensorstore_in_flight(job: Job) -> Read:
    array = _tensorstore(job)
    edge = job.edge

    def read(indices: range) -> Sequence[Patch]:
        voxels: list[Patch] = []
        for first in range(0, len(indices), IN_FLIGHT):
            starts = [job.starts[index] for index in indices[first : first + IN_FLIGHT]]
            futures = [array[z, y : y + edge, x : x + edge].read() for z, y, x in starts]
            voxels += [future.result() for future in futures]
        return voxels

    return read


def zarr_python(job: Job) -> Read:
    import zarr

    array = zarr.open_array(job.image / "0", mode="r")
    edge = job.edge
    return one_by_one(job, lambda at: np.asarray(array[at[0], at[1] : at[1] + edge, at[2] : at[2] + edge]))


def zarrs(job: Job) -> Read:
    import zarr

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return zarr_python(job)


def _h5py(job: Job, **options: int) -> Read:
    import h5py
    import hdf5plugin  # noqa: F401  # registers the zstd filter

    with open_image(job.image) as image:
        if math.prod(image.levels[0].grid.shards_per_axis) != 1:
            raise SystemExit("h5py reads one shard here: take a smaller stack or larger shards")
    dataset = h5py.File(shard_path(job.image / "0", (0, 0, 0)), **options)[DATASET]
    edge = job.edge
    return one_by_one(job, lambda at: np.asarray(dataset[at[0], at[1] : at[1] + edge, at[2] : at[2] + edge]))


def h5py_default_cache(job: Job) -> Read:
    return _h5py(job)


def h5py_no_cache(job: Job) -> Read:
    return _h5py(job, rdcc_nbytes=0)


def tiff_aszarr(job: Job) -> Read:
    import zarr

    array = zarr.open_array(tifffile.imread(job.tiff, aszarr=True), mode="r")
    edge = job.edge
    return one_by_one(job, lambda at: np.asarray(array[at[0], at[1] : at[1] + edge, at[2] : at[2] + edge]))


def tiff_tiles(job: Job) -> Read:
    """The most that tifffile can: pages parsed beforehand, one `pread` and `TiffPage.decode` per tile."""
    pages = [page for page in tifffile.TiffFile(job.tiff).pages if isinstance(page, tifffile.TiffPage)]
    descriptor = os.open(job.tiff, os.O_RDONLY)
    edge = job.edge

    def read(at: Index) -> Patch:
        z, y, x = at
        page = pages[z]
        height, width = page.tilelength, page.tilewidth
        across = -(-page.imagewidth // width)
        patch = np.empty((edge, edge), dtype=np.uint16)
        for row in range(y // height, -(-(y + edge) // height)):
            for column in range(x // width, -(-(x + edge) // width)):
                number = row * across + column
                data = os.pread(descriptor, page.databytecounts[number], page.dataoffsets[number])
                tile, _, _ = page.decode(data, number)
                assert tile is not None
                top, left = max(y, row * height), max(x, column * width)
                bottom, right = min(y + edge, (row + 1) * height), min(x + edge, (column + 1) * width)
                part = tile[0, top - row * height : bottom - row * height, left - column * width :, 0]
                patch[top - y : bottom - y, left - x : right - x] = part[:, : right - left]
        return patch

    return one_by_one(job, read)


READERS: dict[str, Callable[[Job], Read]] = {
    NISSL: nissl_batches,
    "Nissl, one at a time": nissl_one_by_one,
    "tensorstore, 32 in flight": tensorstore_in_flight,
    "tensorstore, one at a time": tensorstore_one_by_one,
    "zarr-python + zarrs": zarrs,
    "zarr-python": zarr_python,
    "h5py, chunk cache off": h5py_no_cache,
    "h5py, default chunk cache": h5py_default_cache,
    "tiled TIFF, tile by tile": tiff_tiles,
    "tiled TIFF, aszarr": tiff_aszarr,
}


def serve(name: str, job: Job, line: Connection) -> None:
    """One reader in its process: says what it reads first, then for each range its seconds and processor seconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.cores])
    read = READERS[name](job)
    line.send([np.array(patch) for patch in read(range(IN_FLIGHT))])
    while (indices := line.recv()) is not None:
        start, busy = time.perf_counter(), time.process_time()
        read(indices)
        line.send((time.perf_counter() - start, time.process_time() - busy))


class Runner:
    """A reader in a process of its own."""

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.busy_seconds: list[float] = []
        self._line, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(name, job, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def first_patches(self) -> list[Patch]:
        patches: list[Patch] = self._line.recv()
        return patches

    def time(self, indices: range) -> None:
        self._line.send(indices)
        seconds, busy_seconds = self._line.recv()
        self.seconds.append(seconds)
        self.busy_seconds.append(busy_seconds)

    def stop(self) -> None:
        self._line.send(None)
        self._process.join()


def write_files(work: Path, gigabytes: float, level: int, codec: Codec | None) -> tuple[Path, Path, NDArray[np.uint16]]:
    """The image, the tiled TIFF, and the voxels of both."""
    files = make_stack(work / "tiff", gigabytes)
    source = open_tiff_stack(files)
    plan = plan_image(source, "bench.ome.zarr", (5.0, 1.0, 1.0), codec=codec or ZstdCodec(level))
    image = work / "bench.ome.zarr"
    build_image(source, image, plan, crew=LocalCrew())
    voxels = np.stack([tifffile.imread(file) for file in files])
    tile = plan.grids[0].chunk_shape[-2:]
    with tifffile.TiffWriter(work / "tiled.tif") as tiff:
        tiff.write(voxels, tile=tile, compression="zstd", compressionargs={"level": level}, photometric="minisblack")
    return image, work / "tiled.tif", voxels


def measure(
    job: Job, names: Sequence[str], voxels: NDArray[np.uint16], rounds: int, count: int
) -> dict[str, tuple[float, float]]:
    """Median patches per second of each reader, and median processor milliseconds per patch."""
    runners = [Runner(name, job) for name in names]
    edge = job.edge
    expected = [voxels[z, y : y + edge, x : x + edge] for z, y, x in job.starts[:IN_FLIGHT]]
    for runner in runners:
        if not all(map(np.array_equal, runner.first_patches(), expected)):
            raise SystemExit(f"{runner.name} reads other voxels: nothing to compare")
    for number in range(rounds):
        for runner in runners[number % len(runners) :] + runners[: number % len(runners)]:
            runner.time(range(number * count, (number + 1) * count))
    for runner in runners:
        runner.stop()
    return {
        runner.name: (count / statistics.median(runner.seconds), 1000 * statistics.median(runner.busy_seconds) / count)
        for runner in runners
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the stack, uncompressed")
    parser.add_argument("--level", type=int, default=3, help="zstd level")
    parser.add_argument("--compression", help="of the shard, where it is another than zstd, as nissl ingest takes it")
    parser.add_argument("--edge", type=int, default=512, help="of a patch, in voxels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patches", type=int, default=256, help="per round and reader")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted({1, min(2, available_cores())}))
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS), help="some readers")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()

    codec = parse_codec(options.compression) if options.compression else None
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        image, tiff, voxels = write_files(Path(name), options.gb, options.level, codec)
        kept = options.compression or f"zstd {options.level}"
        _, height, width = voxels.shape
        print(f"{len(voxels)} planes of {width} x {height} uint16, shard {kept}, TIFF zstd {options.level}")
        print(f"patches of {options.edge} x {options.edge}, {options.patches} a round, {options.rounds} rounds")
        seed = 1
        plan = random(options.rounds * options.patches, seed)
        with PatchReader(image, (options.edge, options.edge), plan) as reader:
            starts = tuple(reader.place(index).box.start for index in range(len(reader)))
        for cores in options.cores:
            job = Job(image, tiff, options.edge, starts, seed, cores)
            rates = measure(job, options.only, voxels, options.rounds, options.patches)
            print(f"\n{f'{cores} core(s)':30} {'patches/s':>10} {'Nissl is':>10} {'CPU ms/patch':>14}")
            for reader_name, (rate, busy_ms) in rates.items():
                ratio = rates[NISSL][0] / rate if NISSL in rates else math.nan
                print(f"{reader_name:30} {rate:10.0f} {ratio:9.2f}x {busy_ms:14.2f}", flush=True)
                row = {"reader": reader_name, "patches_s": rate, "nissl_ratio": ratio, "cpu_ms_per_patch": busy_ms}
                rows.append({"cores": cores, **row})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
