"""`nissl hub`: datasets over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from nissl.commands import Json
from nissl.progress import Display, say_json


def init(
    path: Annotated[Path, typer.Argument(help="The hub's folder; it must not exist yet.")],
    name: Annotated[
        str | None, typer.Option(help="What people will read as its name; the folder's by default.")
    ] = None,
) -> None:
    """Make a hub's folder, with a key of its own."""
    from nissl.hub.root import create_hub

    hub = create_hub(path, name or path.absolute().name)
    typer.echo(f"made the hub {hub.name!r} at {path}, node key {hub.key.public.id}")


def add(
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


def serve(
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


def token(
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
