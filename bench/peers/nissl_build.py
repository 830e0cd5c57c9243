"""Nissl without a dataset: the pyramid only, as the peers make it, but with plane quality and both formats.

Compressed as users get it, where they ask for nothing else."""

from __future__ import annotations

from bench.peers.arguments import answer, read_job
from nissl.formats.build import build_image
from nissl.formats.image_plan import plan_image
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew


def main() -> None:
    job = read_job()
    source = open_tiff_stack(job.files)
    plan = plan_image(
        source,
        job.target.name,
        (5.0, 1.0, 1.0),
        chunk_edge=job.chunk_edge,
        shard_edge=job.shard_edge,
    )
    build_image(source, job.target, plan, crew=LocalCrew(job.jobs))
    answer("0", f"{plan.codec.name}, shards of all planes, Zarr and HDF5")


if __name__ == "__main__":
    main()
