"""Nissl, everything: checks, checksums of the sources, pyramid, metadata, git-annex, a commit in section and brain.

The target is the section's folder; the brain two levels above it is there already.
"""

from __future__ import annotations

import subprocess
import sys

from bench.peers.arguments import answer, read_job


def main() -> None:
    job = read_job()
    brain, sample = job.target.parents[1], job.target.name.removeprefix("sample-")
    command = [sys.executable, "-m", "nissl", "ingest", *map(str, job.files), "--into", str(brain), "--sample", sample]
    command += ["--suffix", "SPIM", "--pixel-size", "5", "1", "1", "--jobs", str(job.jobs)]
    command += ["--chunk-edge", str(job.chunk_edge), "--shard-edge", str(job.shard_edge)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    level0 = next(job.target.glob("sub-*/micr/*.ome.zarr/0"))
    answer(str(level0.relative_to(job.target)), "a committed DataLad dataset, content in the annex")


if __name__ == "__main__":
    main()
