"""`nissl check` and `nissl repair`: is what lies here what it should be, and a lost index made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nissl.commands import Json
from nissl.progress import Display, say_json

_SHOWN = 20  # findings of one file that people are shown; --json gives all

Jobs = Annotated[int | None, typer.Option(min=1, help="Cores to use; all that are available by default.")]


def check(
    path: Annotated[Path, typer.Argument(help="A brain, a section, an image (.ome.zarr) or a single shard.")],
    full: Annotated[
        bool, typer.Option("--full", help="Read every chunk, and compare files with their annex keys' checksums.")
    ] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Look for damage: shards' indexes and chunks, Zarr and HDF5 against each other, metadata, annex, records.

    Changes nothing. Ends with 1 where something is damaged; what is merely not on this machine is listed, not damage.
    """
    from nissl.datasets.check import check as look

    with Display(as_json=as_json, unit="files") as display:
        report = look(path, full=full, jobs=jobs, progress=display)
    checked = report.checked
    shown: dict[Path, int] = {}
    for finding in checked.findings:
        if as_json:
            say_json(
                {
                    "event": "finding",
                    "path": str(finding.path),
                    "chunk": finding.chunk,
                    "part": str(finding.part),
                    "problem": finding.problem,
                    "remedy": finding.remedy,
                }
            )
            continue
        shown[finding.path] = shown.get(finding.path, 0) + 1
        if shown[finding.path] <= _SHOWN:
            typer.echo(finding.sentence)
    if as_json:
        say_json(
            {
                "event": "checked",
                "path": str(report.path),
                "kind": report.kind,
                "findings": len(checked.findings),
                "shards": checked.shards,
                "chunks": checked.chunks,
                "chunks_read": checked.chunks_read,
                "absent": [str(absent) for absent in checked.absent],
                "not_installed": list(report.not_installed),
                "notes": list(report.notes),
            }
        )
    else:
        for one, count in shown.items():
            if count > _SHOWN:
                typer.echo(f"{one}: {count - _SHOWN} more")
        verdict = "nothing is damaged" if report.fine else f"{len(checked.findings)} findings"
        typer.echo(
            f"{report.kind} {path}: {verdict}; {checked.shards} shards here, "
            f"{checked.chunks_read} of {checked.chunks} chunks read"
        )
        if checked.absent:
            typer.echo(f"{len(checked.absent)} shards are not on this machine, {checked.absent[0]} among them")
        if report.not_installed:
            typer.echo(f"{len(report.not_installed)} sections are not installed, {report.not_installed[0]} among them")
        for note in report.notes:
            typer.echo(note)
    if not report.fine:
        raise typer.Exit(1)


def repair(
    path: Annotated[Path, typer.Argument(help="A shard, as `nissl check` names it.")],
    aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="For a shard of which more than the index is damaged: move it into .git/annex/bad, so that "
            "`datalad get` brings another copy.",
        ),
    ] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Rebuild a shard's lost Zarr index from its HDF5 side, byte for byte as it was."""
    from nissl.datasets.check import repair as rebuild
    from nissl.datasets.check import set_aside

    if aside:
        set_aside(path)
        event, text = "set aside", f"set {path} aside: now `datalad get {path}`"
    elif rebuild(path, jobs=jobs):
        event, text = "repaired", f"rebuilt the index of {path}"
    else:
        event, text = "unchanged", f"{path} is whole: nothing to repair"
    if as_json:
        say_json({"event": event, "path": str(path)})
    else:
        typer.echo(text)
