"""The command line. Built on Typer: help, completion and the handling of wrong arguments are its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from nissl import __version__
from nissl.progress import Display, human_bytes, say_json

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Manage brains imaged as thousands of histological sections: turn scanners' z-stacks into DataLad datasets "
    "whose files are Zarr and HDF5 at once, and serve them.",
    epilog="Start with `nissl brain create ./brain --subject 01`.",
)
brain_app = typer.Typer(no_args_is_help=True, help="Create brains: the datasets that hold sections.")
hub_app = typer.Typer(no_args_is_help=True, help="Run a hub: datasets over HTTP for datalad, browsers and programs.")
app.add_typer(brain_app, name="brain")
app.add_typer(hub_app, name="hub")

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, one per event, instead of text.")]


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


@brain_app.command("create")
def brain_create(
    path: Annotated[Path, typer.Argument(help="Where the brain's dataset is to lie; it must not exist yet.")],
    subject: Annotated[str, typer.Option(help="The subject's label, letters and digits, as in 01.")],
    as_json: Json = False,
) -> None:
    """Create a brain: a DataLad superdataset, a BIDS dataset of type study, still without sections."""
    from nissl.datasets.brain import create_brain

    brain = create_brain(path, subject)
    if as_json:
        say_json({"event": "created", "brain": str(brain.path), "subject": brain.subject})
    else:
        typer.echo(f"created the brain of subject {brain.subject} at {path}")


@app.command()
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
    zstd_level: Annotated[int, typer.Option(min=1, max=22, help="Compression: 1 is fast, 22 small.")] = 3,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cores to use; all that are available by default.")] = None,
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
    )
    with Display(as_json=as_json) as display:
        done = ingest(brain, order, replace=replace, jobs=jobs, progress=display)
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


@hub_app.command("init")
def hub_init(
    path: Annotated[Path, typer.Argument(help="The hub's folder; it must not exist yet.")],
    name: Annotated[
        str | None, typer.Option(help="What people will read as its name; the folder's by default.")
    ] = None,
) -> None:
    """Make a hub's folder, with a key of its own."""
    from nissl.hub.root import create_hub

    hub = create_hub(path, name or path.absolute().name)
    typer.echo(f"made the hub {hub.name!r} at {path}, node key {hub.key.public.id}")


@hub_app.command("add")
def hub_add(
    hub: Annotated[Path, typer.Argument(help="The hub's folder.")],
    dataset: Annotated[Path, typer.Argument(help="A brain, or a single dataset, on this machine.")],
    name: Annotated[str | None, typer.Option(help="Its name on the hub; the folder's by default.")] = None,
    sibling: Annotated[
        str, typer.Option(help="What the dataset is to call this hub, as in `datalad push --to`.")
    ] = "hub",
    as_json: Json = False,
) -> None:
    """Take a dataset and all subdatasets installed in it into the hub; do it again to bring what is new."""
    from nissl.hub.intake import add_dataset
    from nissl.hub.root import open_hub

    with Display(as_json=as_json, unit="files") as display:
        taken = add_dataset(open_hub(hub), dataset, name, sibling=sibling, progress=display)
    for one in taken:
        if as_json:
            say_json(
                {"event": "updated" if one.known_before else "added", "dataset": one.name, "commit": one.commit}
                | {"files": one.files}
            )
        else:
            news = "updated" if one.known_before else "added"
            typer.echo(f"{news} {one.name} at {one.commit[:10]}, {one.files} annexed files copied")


@hub_app.command("serve")
def hub_serve(
    hub: Annotated[Path, typer.Argument(help="The hub's folder.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for the whole network.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8080,
    public: Annotated[
        bool,
        typer.Option("--public", help="Let everybody read. Otherwise a token is needed; writing always needs one."),
    ] = False,
    url: Annotated[str, typer.Option(help="The hub's address behind a proxy, as in https://hub.example.org.")] = "",
) -> None:
    """Serve the hub until Ctrl-C."""
    from nissl.hub.root import open_hub
    from nissl.hub.server import serve
    from nissl.hub.site import trust_command

    opened = open_hub(hub)

    def ready(address: str) -> None:
        count = sum(1 for _ in opened.datasets())
        whom = "everybody may read" if public else "a token is needed: `nissl hub token`"
        typer.echo(f"hub {opened.name!r} serves {count} datasets at {address}/ ({whom})")
        command = trust_command(host) if not url else None
        if command is not None:
            typer.echo(f"git-annex trusts this address after, once: {command}")

    serve(opened, host=host, port=port, public=public, url=url, ready=ready)


@hub_app.command("token")
def hub_token(
    hub: Annotated[Path, typer.Argument(help="The hub's folder.")],
    subject: Annotated[str, typer.Option("--for", help="Whom it is for, as the log will name them.")] = "anonymous",
    write: Annotated[bool, typer.Option("--write", help="Allow pushing, besides reading.")] = False,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this dataset and what is below it; may be given several times.")
    ] = None,
    hours: Annotated[float, typer.Option(help="How long it is valid.")] = 12.0,
) -> None:
    """Print an access token: git and datalad take it as the password, with any user name."""
    from nissl.federation.access import Action, Grant
    from nissl.federation.tokens import issue_token
    from nissl.hub.root import check_dataset_name, open_hub

    opened = open_hub(hub)
    actions = frozenset({Action.READ, Action.WRITE} if write else {Action.READ})
    grant = Grant(subject, actions, tuple(check_dataset_name(name) for name in dataset or ()))
    typer.echo(issue_token(opened.key, grant, timedelta(hours=hours), datetime.now(UTC)))
