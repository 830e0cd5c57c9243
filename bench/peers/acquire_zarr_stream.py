"""acquire-zarr: planes are appended to a stream; threads in C++ compress and write them, and make the pyramid.

It has zstd only inside blosc, whose level n is zstd's 2 n - 1. With `--shuffle` blosc sorts the bytes of voxels by
their place first, which makes 16-bit images smaller and compression faster; the others compress voxels as they are.
"""

# mypy: disable-error-code="import-not-found,import-untyped,attr-defined,no-untyped-call"
# What it imports is in an environment of its own, not in the one that is checked.

from __future__ import annotations

import sys

import tifffile
from acquire_zarr import (
    ArraySettings,
    CompressionCodec,
    CompressionSettings,
    Compressor,
    Dimension,
    DimensionType,
    DownsamplingMethod,
    StreamSettings,
    ZarrStream,
)

from bench.peers.arguments import answer, read_job, snug


def main() -> None:
    shuffle = "--shuffle" in sys.argv
    if shuffle:
        sys.argv.remove("--shuffle")
    job = read_job()
    first = tifffile.imread(job.files[0])
    height, width = first.shape

    def space(name: str, extent: int, chunk: int, shard: int) -> Dimension:
        return Dimension(
            name=name,
            kind=DimensionType.SPACE,
            array_size_px=extent,
            chunk_size_px=chunk,
            shard_size_chunks=shard // chunk,
        )

    edge = job.chunk_edge
    array = ArraySettings(
        dimensions=[
            space("z", len(job.files), 1, len(job.files)),
            space("y", height, edge, snug(height, job.shard_edge, edge)),
            space("x", width, edge, snug(width, job.shard_edge, edge)),
        ],
        data_type=first.dtype,
        compression=CompressionSettings(
            compressor=Compressor.BLOSC1,
            codec=CompressionCodec.BLOSC_ZSTD,
            level=(job.zstd_level + 1) // 2,
            shuffle=int(shuffle),
        ),
        downsampling_method=DownsamplingMethod.MEAN,
        max_levels=job.levels - 1,
    )
    settings = StreamSettings(arrays=[array], store_path=str(job.target), max_threads=job.jobs, overwrite=True)
    stream = ZarrStream(settings)
    for path in job.files:
        stream.append(tifffile.imread(path))
    stream.close()
    answer("0", f"zstd in blosc{', bytes shuffled' if shuffle else ''}, shards of all planes")


if __name__ == "__main__":
    main()
