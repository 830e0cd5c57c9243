"""Who writes voxels, as commands let people choose: cores of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nissl.errors import NisslError
from nissl.progress import say_json

if TYPE_CHECKING:
    from nissl.formats.workers import Crew

Jobs = Annotated[int | None, typer.Option(min=1, help="Cores to use; all that are available by default.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Have the workers of a Dask cluster write: the scheduler's address, as in tcp://host:8786, "
        "or the path of its scheduler file.",
    ),
]
Wait = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for the Dask scheduler, and for a first worker, to be there.")
]


@contextmanager
def chosen_crew(jobs: int | None, scheduler: str | None, wait_s: float, *, as_json: bool) -> Iterator[Crew]:
    """The crew of a command's options. Raises NisslError where they contradict each other, or nobody is there."""
    from nissl.formats.workers import LocalCrew

    if scheduler is None:
        yield LocalCrew(jobs) if jobs else LocalCrew()
        return
    if jobs is not None:
        raise NisslError("--jobs counts cores of this machine, --scheduler takes a cluster: give one of the two")
    try:
        from nissl.formats.dask_crew import dask_crew
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise NisslError(
            "--scheduler needs Dask, which is not installed: run `pip install 'nissl[dask]'`, here and for the workers"
        ) from None

    def say(sentence: str) -> None:
        if as_json:
            say_json({"event": "waiting", "for": sentence})
        else:
            print(f"nissl: {sentence}", file=sys.stderr, flush=True)

    with dask_crew(scheduler, wait_s=wait_s, say=say) as crew:
        yield crew
