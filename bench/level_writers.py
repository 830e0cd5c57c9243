"""One level, written by Nissl and by its peers: the same voxels, inner chunks, shards, zstd level, and durable files.

All Zarr writers make an array with literally the same `zarr.json`. Each is called the way that was fastest here; what
was tried is in README.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the zstd filter with HDF5
import numpy as np
import tensorstore
import tifffile
import zarr
from numpy.typing import NDArray

from bench.alternating import sync_tree
from nissl.formats import ome
from nissl.formats.arrays import array_source
from nissl.formats.build import write_levels
from nissl.formats.image_plan import ImagePlan
from nissl.formats.shards import write_json
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew

NISSL = "Nissl"


@dataclass(frozen=True)
class Level:
    """What every writer is given."""

    plan: ImagePlan
    """Of one level."""
    files: tuple[Path, ...]
    """One TIFF per plane."""
    voxels: NDArray[Any] | None
    """The same in memory; None where the writer is to read the files."""
    jobs: int

    def in_memory(self) -> NDArray[Any]:
        """The voxels, read from the files in threads where they are not in memory yet."""
        if self.voxels is not None:
            return self.voxels
        voxels = np.empty(self.plan.grids[0].array_shape, dtype=self.plan.dtype)

        def read(plane: int) -> None:
            voxels[plane] = tifffile.imread(self.files[plane])

        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(read, range(len(self.files))))
        return voxels

    @property
    def document(self) -> dict[str, Any]:
        """The `zarr.json`."""
        return ome.array_document(self.plan.grids[0], self.plan.dtype, self.plan.codec, self.plan.axes)


Write = Callable[[Level, Path], None]
"""Writes the level into a new folder, durably."""


def nissl(level: Level, folder: Path) -> None:
    source = open_tiff_stack(level.files) if level.voxels is None else array_source(level.voxels)
    write_levels(source, folder, level.plan, crew=LocalCrew(level.jobs))


def with_tensorstore(level: Level, folder: Path) -> None:
    """It may refer to the whole stack in memory, and writes it without a copy."""
    voxels = level.in_memory()
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / "0")},
        "metadata": level.document,
        "context": {"data_copy_concurrency": {"limit": level.jobs}, "file_io_sync": True},
    }
    array = tensorstore.open(spec, create=True).result()
    grid = level.plan.grids[0]
    boxes = [grid.shard_box(shard).slices for shard in grid.shards()]
    writes = [array[box].write(voxels[box], can_reference_source_data_indefinitely=True) for box in boxes]
    for write in writes:
        write.result()


def zarr_python(level: Level, folder: Path) -> None:
    settings = {"threading.max_workers": level.jobs, "async.concurrency": 16 * level.jobs}
    _with_zarr(level, folder, settings)


def zarrs_pipeline(level: Level, folder: Path) -> None:
    settings = {"threading.max_workers": level.jobs, "codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
    _with_zarr(level, folder, settings)


def _with_zarr(level: Level, folder: Path, settings: dict[str, Any]) -> None:
    voxels = level.in_memory()
    write_json(folder / "0" / "zarr.json", level.document)
    # Looking for chunks of nothing but 0, as Nissl does, costs it a quarter of its speed.
    with zarr.config.set(settings | {"array.write_empty_chunks": True}):
        array = zarr.open_array(folder / "0", mode="r+")
        array[:] = voxels
    sync_tree(folder)


def h5py_hdf5plugin(level: Level, folder: Path) -> None:
    """In one call, or plane by plane from files: each chunk is filtered once, whole. It has no threads."""
    grid = level.plan.grids[0]
    used = level.plan.codec.hdf5(level.plan.dtype, math.prod(grid.chunk_shape) * level.plan.dtype.itemsize)
    folder.mkdir()
    with h5py.File(folder / "level.h5", "w", libver="latest") as file:
        dataset = file.create_dataset(
            "voxels",
            shape=grid.array_shape,
            dtype=level.plan.dtype,
            chunks=grid.chunk_shape,
            compression=used.number,
            compression_opts=used.options,
        )
        if level.voxels is not None:
            dataset[...] = level.voxels
        else:
            for number, path in enumerate(level.files):
                dataset[number] = tifffile.imread(path)
    sync_tree(folder)


WRITERS: dict[str, Write] = {
    NISSL: nissl,
    "tensorstore": with_tensorstore,
    "zarr-python": zarr_python,
    "zarr-python + zarrs": zarrs_pipeline,
    "h5py + hdf5plugin": h5py_hdf5plugin,
}


def read_back(folder: Path) -> NDArray[Any]:
    """All voxels of what a writer wrote; Zarr through tensorstore, so that Nissl does not judge itself."""
    if (folder / "level.h5").exists():
        with h5py.File(folder / "level.h5") as file:
            return np.asarray(file["voxels"][...])
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "0")}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def compress_only(level: Level, voxels: NDArray[Any]) -> None:
    """The limit: zstd alone, as many threads; chunks are gathered from memory, results are thrown away."""
    edge = level.plan.grids[0].chunk_shape[-1]
    planes, height, width = voxels.shape

    def encode(place: tuple[int, int, int]) -> None:
        z, y, x = place
        level.plan.codec.encode(np.ascontiguousarray(voxels[z, y : y + edge, x : x + edge]).data)

    places = [(z, y, x) for z in range(planes) for y in range(0, height, edge) for x in range(0, width, edge)]
    with ThreadPoolExecutor(level.jobs) as pool:
        list(pool.map(encode, places))
