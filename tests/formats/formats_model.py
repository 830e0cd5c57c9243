"""Builders and slow, obvious models for the tests of `nissl.formats`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the zstd and blosc filters with HDF5
import numpy as np
import tensorstore
import tifffile
import zarr
from numpy.typing import NDArray

from nissl.formats import ome
from nissl.formats.build import build_image
from nissl.formats.codec import BloscCodec, Codec, ZstdCodec
from nissl.formats.grid import Box, Index, ShardGrid, level_shapes
from nissl.formats.image import Level, open_image, shard_path
from nissl.formats.image_plan import plan_image
from nissl.formats.shards import DATASET, ShardIdentity, ShardWriter, write_json
from nissl.formats.stack import PlaneSource
from nissl.formats.virtual import write_virtual
from nissl.formats.workers import LocalCrew

CODECS: dict[str, Codec] = {
    "zstd": ZstdCodec(1),
    "bitshuffle-zstd": BloscCodec("zstd", 1),
    "bitshuffle-lz4": BloscCodec("lz4", 5),
    "shuffle-zstd": BloscCodec("zstd", 3, "shuffle"),
}
"""Every kind of compression that a shard may have."""

VOXEL_SIZE_UM = (5.0, 1.0, 1.0)
SPATIAL = ("z", "y", "x")


def a_picture(shape: Index, dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
    """Voxels like those of a microscope: smooth, noisy, and never 0."""
    generator = np.random.default_rng(seed)
    waves = sum(np.sin(np.arange(n).reshape(-1, *(1,) * (len(shape) - k - 1)) / 7) for k, n in enumerate(shape))
    voxels = 60 + 10 * waves + generator.normal(0, 3, shape)
    return np.clip(voxels, 1, 120).astype(dtype)


def axes_of(rank: int) -> tuple[str, ...]:
    return ("c", *SPATIAL)[-rank:]


def an_identity(array: str = "sub-01_BF.ome.zarr/0", axes: tuple[str, ...] = SPATIAL) -> ShardIdentity:
    return ShardIdentity(array, 0, axes, VOXEL_SIZE_UM)


def chunks_with_voxels(grid: ShardGrid, shard: Index, voxels: NDArray[Any]) -> dict[Index, NDArray[Any]]:
    """The inner chunks of `shard` that hold anything but 0, padded with 0 to whole chunks."""
    origin = grid.shard_box(shard).start
    found = {}
    for chunk in grid.chunks_of(shard):
        start = tuple(o + i * c for o, i, c in zip(origin, chunk, grid.chunk_shape, strict=True))
        part = voxels[tuple(slice(a, a + c) for a, c in zip(start, grid.chunk_shape, strict=True))]
        if part.any():
            padded = np.zeros(grid.chunk_shape, dtype=voxels.dtype)
            padded[tuple(slice(0, n) for n in part.shape)] = part
            found[chunk] = padded
    return found


def write_array(folder: Path, grid: ShardGrid, voxels: NDArray[Any], codec: Codec | None = None) -> Level:
    """A whole sharded array, written chunk by chunk through the public writer."""
    codec = codec or ZstdCodec(1)
    axes = axes_of(grid.rank)
    write_json(folder / "zarr.json", ome.array_document(grid, voxels.dtype, codec, axes))
    for shard in grid.shards():
        with ShardWriter(shard_path(folder, shard), grid, shard, voxels.dtype, codec, an_identity(axes=axes)) as writer:
            for chunk, content in chunks_with_voxels(grid, shard, voxels).items():
                writer.write_chunk(chunk, codec.encode(np.ascontiguousarray(content).data))
    return Level(folder, grid, voxels.dtype, codec)


def write_planes(folder: Path, voxels: NDArray[Any], **options: Any) -> list[Path]:  # noqa: ANN401
    """One TIFF file per plane; voxels (z, y, x) or, in colour, (z, y, x, samples). options: of `tifffile.imwrite`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"sample-0042_z{number}.tif" for number in range(1, len(voxels) + 1)]
    for path, plane in zip(paths, voxels, strict=True):
        tifffile.imwrite(path, plane, photometric="rgb" if plane.ndim == 3 else "minisblack", **options)
    return paths


def build(
    source: PlaneSource,
    folder: Path,
    *,
    jobs: int = 1,
    chunk_edge: int = 64,
    shard_edge: int = 256,
    codec: Codec | None = None,
) -> Path:
    """An image of small shards, with its virtual file beside it."""
    codec = codec or ZstdCodec(1)
    plan = plan_image(source, folder.name, VOXEL_SIZE_UM, codec=codec, chunk_edge=chunk_edge, shard_edge=shard_edge)
    build_image(source, folder, plan, crew=LocalCrew(jobs))
    with open_image(folder) as image:
        write_virtual(virtual_path(folder), image)
    return folder


def virtual_path(folder: Path) -> Path:
    return folder.with_suffix("").with_suffix(".h5")


def slow_halve(plane: NDArray[Any]) -> NDArray[Any]:
    """One plane reduced voxel by voxel: the mean of the up to four voxels that exist, half rounded up."""
    height, width = plane.shape
    reduced = np.empty(((height + 1) // 2, (width + 1) // 2), dtype=plane.dtype)
    for y in range(reduced.shape[0]):
        for x in range(reduced.shape[1]):
            block = plane[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
            total, count = sum(block), len(block)
            reduced[y, x] = total / count if plane.dtype.kind == "f" else (2 * total + count) // (2 * count)
    return reduced


def slow_pyramid(voxels: NDArray[Any], smallest: int) -> list[NDArray[Any]]:
    """Every level of an image (..., y, x), plane by plane, each from the one above."""
    levels = [voxels]
    for shape in level_shapes(voxels.shape, smallest=smallest)[1:]:
        planes = [slow_halve(plane) for plane in levels[-1].reshape(-1, *levels[-1].shape[-2:])]
        levels.append(np.stack(planes).reshape(shape))
    return levels


def read_whole(level: Level) -> NDArray[Any]:
    try:
        return level.read(Box((0,) * level.grid.rank, level.shape))
    finally:
        level.close()


Reader = Callable[[Path, int], NDArray[Any]]
"""Takes an image's folder and the number of a level, and returns all of its voxels."""


def with_nissl(folder: Path, level: int) -> NDArray[Any]:
    with open_image(folder) as image:
        return read_whole(image.levels[level])


def with_zarr_python(folder: Path, level: int) -> NDArray[Any]:
    return np.asarray(zarr.open_array(folder / str(level), mode="r")[...])


def with_zarrs(folder: Path, level: int) -> NDArray[Any]:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return np.asarray(zarr.open_array(folder / str(level), mode="r")[...])


def with_tensorstore(folder: Path, level: int) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / str(level))}}
    voxels = tensorstore.open(spec, read=True).result().read().result()
    return np.asarray(voxels)


def with_hdf5_shard_by_shard(folder: Path, level: int) -> NDArray[Any]:
    """Only from what the shards say about themselves; the Zarr metadata is not looked at."""
    shards = [path for path in sorted((folder / str(level) / "c").rglob("*")) if path.is_file() or path.is_symlink()]
    voxels: NDArray[Any] | None = None
    for path in shards:
        with h5py.File(path) as file:
            dataset = file[DATASET]
            if voxels is None:
                voxels = np.zeros(dataset.attrs["array_shape"], dtype=dataset.dtype)
            box = tuple(map(slice, dataset.attrs["origin"], dataset.attrs["origin"] + dataset.attrs["extent"]))
            voxels[box] = dataset[tuple(map(slice, dataset.attrs["extent"]))]
    assert voxels is not None
    return voxels


def with_virtual_hdf5(folder: Path, level: int) -> NDArray[Any]:
    with h5py.File(virtual_path(folder)) as file:
        return np.asarray(file[str(level)][...])


READERS: dict[str, Reader] = {
    "nissl": with_nissl,
    "zarr-python": with_zarr_python,
    "zarrs": with_zarrs,
    "tensorstore": with_tensorstore,
    "HDF5, shard by shard": with_hdf5_shard_by_shard,
    "HDF5, virtual file": with_virtual_hdf5,
}


def shards_of(folder: Path, level: int = 0) -> Sequence[Path]:
    return sorted(path for path in (folder / str(level) / "c").rglob("*") if path.is_file() or path.is_symlink())
