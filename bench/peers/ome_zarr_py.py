"""ome-zarr-py: a dask array of the TIFF files, `write_image` with its own pyramid by local means."""

# mypy: disable-error-code="import-not-found,import-untyped,attr-defined,no-untyped-call"
# What it imports is in an environment of its own, not in the one that is checked.

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import tifffile
import zarr
from ome_zarr.scale import Methods
from ome_zarr.writer import write_image
from zarr.codecs import ZstdCodec

from bench.peers.arguments import answer, read_job, snug


def main() -> None:
    job = read_job()
    first = tifffile.imread(job.files[0])
    read = dask.delayed(tifffile.imread, pure=True)
    planes = [da.from_delayed(read(path), first.shape, first.dtype)[np.newaxis] for path in job.files]
    edge = job.chunk_edge
    height, width = first.shape
    options = {
        "chunks": (1, edge, edge),
        "shards": (1, snug(height, job.shard_edge, edge), snug(width, job.shard_edge, edge)),
        "compressors": [ZstdCodec(level=job.zstd_level, checksum=True)],
    }
    settings = {"threading.max_workers": job.jobs, "array.write_empty_chunks": True}
    with zarr.config.set(settings), dask.config.set(scheduler="threads", num_workers=job.jobs):
        write_image(
            da.concatenate(planes),
            zarr.open_group(job.target, mode="w"),
            axes="zyx",
            scale_factors=[2**level for level in range(1, job.levels)],
            method=Methods.LOCAL_MEAN,
            storage_options=options,
        )
    answer("s0", "zstd, a shard per plane")


if __name__ == "__main__":
    main()
