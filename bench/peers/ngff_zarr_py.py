"""ngff-zarr: a dask array of the TIFF files, `to_multiscales` by local means, `to_ngff_zarr` (written in Rust)."""

# mypy: disable-error-code="import-not-found,import-untyped,attr-defined,no-untyped-call"
# What it imports is in an environment of its own, not in the one that is checked.

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import tifffile
from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

from bench.peers.arguments import answer, read_job, snug


def main() -> None:
    job = read_job()
    first = tifffile.imread(job.files[0])
    read = dask.delayed(tifffile.imread, pure=True)
    planes = [da.from_delayed(read(path), first.shape, first.dtype)[np.newaxis] for path in job.files]
    edge = job.chunk_edge
    height, width = first.shape
    per_shard = {
        "z": 1,
        "y": snug(height, job.shard_edge, edge) // edge,
        "x": snug(width, job.shard_edge, edge) // edge,
    }
    with dask.config.set(scheduler="threads", num_workers=job.jobs):
        image = to_ngff_image(da.concatenate(planes), dims=("z", "y", "x"), scale={"z": 5.0, "y": 1.0, "x": 1.0})
        pyramid = to_multiscales(
            image,
            scale_factors=[{"z": 1, "y": 2**level, "x": 2**level} for level in range(1, job.levels)],
            method=Methods.DASK_BIN_SHRINK,
            chunks={"z": 1, "y": edge, "x": edge},
        )
        to_ngff_zarr(
            str(job.target),
            pyramid,
            version="0.5",
            compressors=[{"name": "zstd", "configuration": {"level": job.zstd_level, "checksum": True}}],
            chunks_per_shard=per_shard,
        )
    answer("scale0/image", "zstd, a shard per plane")


if __name__ == "__main__":
    main()
