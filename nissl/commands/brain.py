"""`nissl brain`: brains, the datasets that hold sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nissl.commands import Json
from nissl.progress import say_json


def create(
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
