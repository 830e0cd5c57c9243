"""`nissl ingest`: a stack becomes a section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nissl.commands import Json
from nissl.commands.crew import Jobs, Scheduler, Wait, chosen_crew
from nissl.progress import Display, human_bytes, say_json


def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="The planes of one z-stack: one TIFF file per plane, ordered by the numbers in their names, "
            "or one multi-page TIFF."
        ),
    ],
    into: Annotated[Path, typer.Option(help="The brain.")],
    sample: Annotated[str, typer.Option(help="The section's label, letters and digits, as in 0042.")],
    suffix: Annotated[str, typer.Option(help="The modality as BIDS names it: BF bright field, FLUO, SPIM, ...")],
    pixel_size: Annotated[
        tuple[float, float, float], typer.Option(metavar="Z Y X", help="Voxel size in micrometres: z, then y, then x.")
    ],
    stain: Annotated[str | None, typer.Option(help="The stain's label, as in Nissl or cfos.")] = None,
    skip: Annotated[
        list[int] | None, typer.Option(help="Number of a plane to leave out, from 1; may be given several times.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a new version of an image that was made from something else.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a stack that the quality report warns about.")
    ] = False,
    zstd_level: Annotated[int, typer.Option(min=1, max=22, help="Compression: 1 is fast, 22 small.")] = 3,
    chunk_edge: Annotated[int, typer.Option(help="Edge of an inner chunk, what a viewer fetches, in voxels.")] = 512,
    shard_edge: Annotated[int, typer.Option(help="Edge of a shard, which is one file, in voxels.")] = 8192,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    wait: Wait = 60,
    as_json: Json = False,
) -> None:
    """Turn a z-stack into a section of a brain: checked, with its provenance, committed whole or not at all.

    Repeating the same command changes nothing. Interrupted or killed, it leaves nothing behind; run it again.
    """
    from nissl.datasets.brain import open_brain
    from nissl.datasets.ingest import Order, ingest
    from nissl.datasets.names import ImageName
    from nissl.formats.codec import ZstdCodec

    brain = open_brain(into)
    order = Order(
        files=tuple(file.absolute() for file in files),
        image=ImageName(brain.subject, sample, stain, suffix),
        voxel_size_um=pixel_size,
        skip=frozenset(skip or ()),
        codec=ZstdCodec(zstd_level),
        chunk_edge=chunk_edge,
        shard_edge=shard_edge,
    )
    with chosen_crew(jobs, scheduler, wait, as_json=as_json) as crew, Display(as_json=as_json) as display:
        done = ingest(brain, order, replace=replace, strict=strict, crew=crew, progress=display)
    if as_json:
        say_json(
            {
                "event": done.status,
                "section": str(done.section),
                "image": str(done.image),
                "shape": done.shape,
                "dtype": done.dtype,
                "levels": done.levels,
                "bytes": done.nbytes,
                "warnings": done.warnings,
            }
        )
        return
    typer.echo(
        f"{done.status} {done.image.name}: {' x '.join(map(str, done.shape))} {done.dtype}, "
        f"{done.levels} levels, {human_bytes(done.nbytes)}"
    )
    for warning in done.warnings:
        typer.echo(f"  look at it: {warning}")
