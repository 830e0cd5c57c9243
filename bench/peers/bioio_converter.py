"""bioio-conversion: `OmeZarrConverter` on one TIFF of many pages, its own layout, a process per shard.

It takes one file, and works in processes only where it chooses chunks and shards itself: it is told how large. Its
pyramid takes every second voxel (nearest neighbours), which is less work than means.
"""

# mypy: disable-error-code="import-not-found,import-untyped,attr-defined,no-untyped-call"
# What it imports is in an environment of its own, not in the one that is checked.

from __future__ import annotations

import math

import tifffile
from bioio_conversion.converters import OmeZarrConverter
from zarr.codecs import ZstdCodec

from bench.peers.arguments import answer, read_job


def main() -> None:
    job = read_job()
    with tifffile.TiffFile(job.multipage) as tiff:
        nbytes = math.prod(tiff.series[0].shape) * tiff.series[0].dtype.itemsize
        itemsize = tiff.series[0].dtype.itemsize
    OmeZarrConverter(
        source=str(job.multipage),
        destination=str(job.target.parent),
        name=job.target.name.removesuffix(".ome.zarr"),
        scenes=0,
        num_levels=job.levels,
        memory_target=job.chunk_edge**2 * itemsize,
        # A shard for every process; smaller ones were slower, and a process holds one with all its levels.
        shard_limit_bytes=min(nbytes // job.jobs, 1 << 30),
        compressor=ZstdCodec(level=job.zstd_level, checksum=True),
        n_workers=job.jobs,
    ).convert()
    answer("0", "zstd, its own shards; nearest neighbours; from one TIFF")


if __name__ == "__main__":
    main()
