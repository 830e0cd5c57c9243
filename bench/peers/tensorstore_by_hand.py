"""tensorstore, called by hand: the stack in memory, reduced by Nissl's own `halve` in threads, level by level.

Not a program that does the whole job, but what a good programmer writes in an afternoon, who has the memory.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorstore
import tifffile
from numpy.typing import NDArray

from bench.peers.arguments import Job, answer, read_job
from nissl.formats import ome
from nissl.formats.codec import ZstdCodec
from nissl.formats.image_plan import plan_image
from nissl.formats.pyramid import halve
from nissl.formats.shards import write_json
from nissl.formats.tiff import open_tiff_stack

VOXEL_SIZE_UM = (5.0, 1.0, 1.0)


def main() -> None:
    job = read_job()
    convert(job)
    answer("0", "zstd, shards; the stack in memory; reduced by Nissl's code")


def convert(job: Job) -> None:
    plan = plan_image(
        open_tiff_stack(job.files),
        job.target.name,
        VOXEL_SIZE_UM,
        codec=ZstdCodec(job.zstd_level),
        chunk_edge=job.chunk_edge,
        shard_edge=job.shard_edge,
    )
    voxels = np.empty(plan.grids[0].array_shape, dtype=plan.dtype)
    context = {"data_copy_concurrency": {"limit": job.jobs}, "file_io_sync": True}

    def read(plane: int) -> None:
        voxels[plane] = tifffile.imread(job.files[plane])

    def reduced(finer: NDArray[Any], shape: tuple[int, ...], pool: ThreadPoolExecutor) -> NDArray[Any]:
        coarser = np.empty(shape, dtype=finer.dtype)

        def reduce(plane: int) -> None:
            coarser[plane] = halve(finer[plane])

        list(pool.map(reduce, range(len(finer))))
        return coarser

    writes = []
    with ThreadPoolExecutor(job.jobs) as pool:
        list(pool.map(read, range(len(job.files))))
        for level, grid in enumerate(plan.grids):
            if level:
                voxels = reduced(voxels, grid.array_shape, pool)
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(job.target / str(level))},
                "metadata": ome.array_document(grid, plan.dtype, plan.codec, plan.axes),
                "context": context,
            }
            array = tensorstore.open(spec, create=True).result()
            boxes = [grid.shard_box(shard).slices for shard in grid.shards()]
            writes += [array[box].write(voxels[box], can_reference_source_data_indefinitely=True) for box in boxes]
    for write in writes:
        write.result()
    channels = (ome.Channel("intensity", "FFFFFF", (0.0, 65535.0)),)
    group = ome.group_document(plan.name, plan.axes, VOXEL_SIZE_UM, len(plan.grids), channels, plan.dtype)
    write_json(job.target / "zarr.json", group)


if __name__ == "__main__":
    main()
