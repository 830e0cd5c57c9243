"""The command line, put together. Built on Typer: help, completion and the handling of wrong arguments are its own."""

from __future__ import annotations

from typing import Annotated

import typer

from nissl import __version__
from nissl.commands import brain, hub, labels
from nissl.commands.check import check, repair
from nissl.commands.ingest import ingest
from nissl.commands.plan import plan

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Manage brains imaged as thousands of histological sections: turn scanners' z-stacks into DataLad datasets "
    "whose files are Zarr and HDF5 at once, and serve them.",
    epilog="Start with `nissl brain create ./brain --subject 01`.",
)
brains = typer.Typer(no_args_is_help=True, help="Create brains: the datasets that hold sections.")
brains.command("create")(brain.create)
hubs = typer.Typer(no_args_is_help=True, help="Run a hub: datasets over HTTP for datalad, browsers and programs.")
for command in (hub.init, hub.add, hub.serve, hub.token):
    hubs.command()(command)

app.add_typer(brains, name="brain")
app.command()(ingest)
app.command()(plan)
app.command()(check)
app.command()(repair)
app.add_typer(labels.app, name="labels")
app.add_typer(hubs, name="hub")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nissl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    del version
