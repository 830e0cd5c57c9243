"""`nissl ingest`: a stack becomes a section, or a folder of them many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nissl.amounts import human_bytes
from nissl.commands import Json
from nissl.commands.crew import Jobs, Scheduler, Wait, chosen_crew
from nissl.progress import Display, say_json

if TYPE_CHECKING:
    from nissl.datasets.batch import Batch, Preview
    from nissl.datasets.ingest import Ingested
    from nissl.formats.pixel_size import Resolved


def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="The planes of one z-stack: one TIFF file per plane, ordered by the numbers in their names, "
            "or one multi-page TIFF; or an array: scan.npy, a dataset scan.h5:raw, a Zarr folder or OME-Zarr image. "
            "Axes of an array are z, y, x, or y, x, or with colour z, y, x, c, unless it names them. "
            "With --pattern: a folder."
        ),
    ],
    into: Annotated[Path, typer.Option(help="The brain.")],
    suffix: Annotated[str, typer.Option(help="The modality as BIDS names it: BF bright field, FLUO, SPIM, ...")],
    sample: Annotated[
        str | None,
        typer.Option(help="The section's label, letters and digits, as in 0042; or {sample} in --pattern says it."),
    ] = None,
    pixel_size: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="Z Y X",
            help="Voxel size in micrometres: z, then y, then x; by default what the files say, if they say all three.",
        ),
    ] = None,
    stain: Annotated[str | None, typer.Option(help="The stain's label, as in Nissl or cfos.")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Ingest a folder's files as many sections, as in '{sample}_z{z}.tif' or '{sample}/{z}.tif'; "
            "{stain} may stand in it too. A section that fails does not stop the others."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be ingested; write nothing.")] = False,
    skip: Annotated[
        list[int] | None, typer.Option(help="Number of a plane to leave out, from 1; may be given several times.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a new version of an image that was made from something else.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a stack that the quality report warns about.")
    ] = False,
    compression: Annotated[
        str,
        typer.Option(
            help="bitshuffle-zstd, bitshuffle-lz4 (faster, larger) or zstd alone (for readers without blosc), "
            "and a level after a colon: 1 is fast, 9 (of zstd alone 22) small."
        ),
    ] = "bitshuffle-zstd:1",
    zstd_level: Annotated[int | None, typer.Option(hidden=True, min=1, max=22)] = None,  # in records of older versions
    chunk_edge: Annotated[int, typer.Option(help="Edge of an inner chunk, what a viewer fetches, in voxels.")] = 512,
    shard_edge: Annotated[int, typer.Option(help="Edge of a shard, which is one file, in voxels.")] = 8192,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    wait: Wait = 60,
    as_json: Json = False,
) -> None:
    """Turn a z-stack into a section of a brain: checked, with its provenance, committed whole or not at all.

    Repeating the same command changes nothing. Interrupted or killed, it leaves nothing half-made: run it again, and of
    a large section it goes on from what was finished.
    """
    from nissl.datasets.batch import each_section, find_sections, preview
    from nissl.datasets.brain import open_brain
    from nissl.datasets.ingest import Order, ingest
    from nissl.datasets.names import ImageName
    from nissl.formats.codec import parse_codec
    from nissl.formats.pixel_size import COMMAND_LINE, Resolved
    from nissl.formats.sources import pixel_size as said_pixel_size

    for option, value in (("sample", sample), ("stain", stain)):
        if value is not None and f"{{{option}}}" in (pattern or ""):
            raise typer.BadParameter(f"--{option} and a pattern with {{{option}}} exclude each other")
    if sample is None and "{sample}" not in (pattern or ""):
        raise typer.BadParameter("give the section's label with --sample, or {sample} in --pattern")
    if pattern is not None and len(files) > 1:
        raise typer.BadParameter(f"--pattern takes one folder, not {len(files)} paths")
    codec = parse_codec(compression if zstd_level is None else f"zstd:{zstd_level}")
    brain = open_brain(into)
    ImageName(brain.subject, sample or "0", stain, suffix)  # what is wrong with all sections is said once

    def one(names: Sequence[str], sample: str, stain: str | None) -> Ingested | Preview:
        """Ingest the section that these files hold, or look at it on a dry run."""
        size = said_pixel_size(names) if pixel_size is None else Resolved(pixel_size, COMMAND_LINE)
        order = Order(
            files=tuple(Path(name).absolute() for name in names),
            image=ImageName(brain.subject, sample, stain, suffix),
            voxel_size_um=size.um,
            skip=frozenset(skip or ()),
            codec=codec,
            chunk_edge=chunk_edge,
            shard_edge=shard_edge,
        )
        if dry_run:
            return preview(order, size)
        about = {} if pattern is None else {"sample": sample}
        with (
            chosen_crew(jobs, scheduler, wait, as_json=as_json) as crew,
            Display(as_json=as_json, about=about) as display,
        ):
            done = ingest(brain, order, replace=replace, strict=strict, crew=crew, progress=display)
        _say(done, size, sample, as_json=as_json)
        return done

    if pattern is None:
        done = one(list(map(str, files)), sample or "", stain)
        if dry_run:
            _show([(sample or "", stain, len(files), done, "")], as_json=as_json)
        return
    batch = find_sections(files[0], pattern)
    if batch.ignored and not as_json:
        typer.echo(f"ignored {len(batch.ignored)} that do not fit {pattern!r}, as {batch.ignored[0]}")
    rows = []
    for outcome in each_section(
        batch, lambda group, names: one(names, group.sample or sample or "", group.stain or stain)
    ):
        group = outcome.group
        rows.append((group.sample or sample or "", group.stain or stain, len(group.files), outcome.done, outcome.error))
        if outcome.error and not dry_run:
            _say_failed(*rows[-1][:2], outcome.error, as_json=as_json)
    if dry_run:
        _show(rows, as_json=as_json)
    _sum_up(batch, rows, dry_run=dry_run, as_json=as_json)


Row = tuple[str, str | None, int, "Ingested | Preview | None", str]
"""A section: sample, stain, number of files, what became of it, why not."""


def _say(done: Ingested, size: Resolved, sample: str, *, as_json: bool) -> None:
    """What became of a section."""
    if as_json:
        say_json(
            {
                "event": done.status,
                "sample": sample,
                "section": str(done.section),
                "image": str(done.image),
                "shape": done.shape,
                "dtype": done.dtype,
                "levels": done.levels,
                "bytes": done.nbytes,
                "pixel_size_um": size.um,
                "pixel_size_from": size.origin,
                "warnings": done.warnings,
            }
        )
        return
    typer.echo(
        f"{done.status} {done.image.name}: {' x '.join(map(str, done.shape))} {done.dtype}, "
        f"{done.levels} levels, {human_bytes(done.nbytes)}, pixels of {_um(size)} ({size.origin})"
    )
    for warning in done.warnings:
        typer.echo(f"  look at it: {warning}")


def _say_failed(sample: str, stain: str | None, error: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"event": "failed", "sample": sample, "stain": stain, "error": error})
    else:
        typer.echo(f"failed {_named(sample, stain)}: {error}")


def _show(rows: Sequence[Row], *, as_json: bool) -> None:
    """The sections that would be ingested, as a table."""
    from rich.console import Console
    from rich.table import Table

    from nissl.datasets.batch import Preview

    table = Table("sample", "files", "planes", "size", "type", "pixels, um", "or why not")
    for sample, stain, files, found, error in rows:
        seen = found if isinstance(found, Preview) else None
        if as_json:
            said = (
                {"error": error}
                if seen is None
                else {
                    "shape": seen.shape,
                    "dtype": seen.dtype,
                    "pixel_size_um": seen.size.um,
                    "pixel_size_from": seen.size.origin,
                }
            )
            say_json(
                {
                    "event": "would fail" if error else "would ingest",
                    "sample": sample,
                    "stain": stain,
                    "files": files,
                    **said,
                }
            )
        elif seen is None:
            table.add_row(_named(sample, stain), str(files), "", "", "", "", error)
        else:
            planes, height, width = seen.shape[-3:]
            table.add_row(
                _named(sample, stain),
                str(files),
                str(planes),
                f"{width} x {height}",
                seen.dtype,
                _um(seen.size),
                seen.size.origin,
            )
    if not as_json:
        Console(width=None if Console().is_terminal else 160).print(table)


def _sum_up(batch: Batch, rows: Sequence[Row], *, dry_run: bool, as_json: bool) -> None:
    """Say how many sections went which way. Raises NisslError naming those that failed."""
    from nissl.datasets.ingest import Ingested
    from nissl.errors import NisslError

    counts = Counter(found.status for *_, found, _ in rows if isinstance(found, Ingested))
    failed = [(_named(sample, stain), error) for sample, stain, _, _, error in rows if error]
    if as_json:
        ignored = {"ignored": len(batch.ignored), "first_ignored": str(batch.ignored[0]) if batch.ignored else None}
        say_json({"event": "summary", "sections": len(rows), **counts, "failed": len(failed), **ignored})
    elif not dry_run:
        typer.echo(
            f"{len(rows)} sections: "
            + ", ".join(f"{n} {what}" for what, n in (counts | {"failed": len(failed)}).items())
        )
    if failed:
        lines = "".join(f"\n  {name}: {error}" for name, error in failed)
        what = "would fail" if dry_run else "failed; the same command tries them again"
        raise NisslError(f"{len(failed)} of {len(rows)} sections {what}:{lines}")


def _named(sample: str, stain: str | None) -> str:
    return sample if stain is None else f"{sample} {stain}"


def _um(size: Resolved) -> str:
    return " x ".join(f"{length:g}" for length in size.um) + " um"
