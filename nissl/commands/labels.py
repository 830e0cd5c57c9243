"""`nissl labels`: labels beside an image, and what their index answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nissl.commands import Json
from nissl.commands.crew import Jobs, Scheduler, Wait, chosen_crew
from nissl.errors import NisslError
from nissl.progress import Display, say_json

if TYPE_CHECKING:
    from nissl.formats.grid import Box
    from nissl.formats.label_index import LabelIndex

app = typer.Typer(
    no_args_is_help=True, help="Put labels beside an image, and ask which lie where without scanning voxels."
)

Image = Annotated[Path, typer.Argument(help="The image, a folder that ends in .ome.zarr.")]
Name = Annotated[str | None, typer.Option("--name", help="Which labels, where the image has several.")]
Label = Annotated[int, typer.Argument(min=1, help="The label's number.")]


@app.command()
def add(
    section: Annotated[Path, typer.Argument(help="The section's dataset.")],
    files: Annotated[
        list[str],
        typer.Argument(help="Labels as seg.npy, a dataset seg.h5:labels, a Zarr folder, or TIFF files; axes z, y, x."),
    ],
    image: Annotated[str, typer.Option(help="The image in it, as in sub-01_sample-0042_stain-Nissl_BF.")],
    name: Annotated[str, typer.Option(help="What the labels are to be called, as in bodies.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a new version of labels that were made from something else.")
    ] = False,
    zstd_level: Annotated[int, typer.Option(min=1, max=22, help="Compression: 1 is fast, 22 small.")] = 3,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    wait: Wait = 60,
    as_json: Json = False,
) -> None:
    """Put labels beside an image: their pyramid, their index and their provenance, committed whole or not at all.

    Repeating the same command changes nothing. Interrupted or killed, it leaves nothing behind; run it again.
    """
    from nissl.datasets.labelling import LabelOrder, add_labels
    from nissl.datasets.names import ImageName
    from nissl.formats.codec import ZstdCodec

    order = LabelOrder(tuple(files), ImageName.parse(image), name, ZstdCodec(zstd_level))
    with chosen_crew(jobs, scheduler, wait, as_json=as_json) as crew, Display(as_json=as_json) as display:
        done = add_labels(section, order, replace=replace, crew=crew, progress=display)
    if as_json:
        say_json(
            {
                "event": done.status,
                "folder": str(done.folder),
                "shape": done.shape,
                "dtype": done.dtype,
                "levels": done.levels,
                "labels": done.labels,
            }
        )
        return
    typer.echo(
        f"{done.status} {done.folder.name}: {done.labels} labels in {' x '.join(map(str, done.shape))} {done.dtype}, "
        f"{done.levels} levels"
    )


@app.command()
def ids(
    image: Image,
    box: Annotated[str, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Half-open, in voxels of level 0.")],
    name: Name = None,
    whole_chunks: Annotated[
        bool,
        typer.Option("--whole-chunks", help="Read no voxels: all labels of every chunk that the box touches."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the labels in a box. Voxels are read only of chunks that the box cuts, and only where there is a doubt."""
    wanted = _box(box)
    with _index(image, name) as index:
        found = index.ids_in_box(wanted, exact=not whole_chunks).tolist()
    if as_json:  # as decimal strings: JavaScript's numbers end at 2^53
        say_json({"box": [wanted.start, wanted.stop], "exact": not whole_chunks, "ids": list(map(str, found))})
        return
    for label in found:
        typer.echo(label)


@app.command()
def box(image: Image, label: Label, name: Name = None, as_json: Json = False) -> None:
    """Print the smallest box that holds a label, half-open, in voxels of level 0: z, y, x."""
    with _index(image, name) as index:
        found = index.box_of(label)
    if as_json:
        say_json({"id": str(label), "box": [found.start, found.stop]})
    else:
        typer.echo(",".join(f"{a}:{b}" for a, b in zip(found.start, found.stop, strict=True)))


@app.command()
def size(image: Image, label: Label, name: Name = None, as_json: Json = False) -> None:
    """Print how many voxels of level 0 a label has."""
    with _index(image, name) as index:
        found = index.size_of(label)
    if as_json:
        say_json({"id": str(label), "voxels": found})
    else:
        typer.echo(found)


def _box(text: str) -> Box:
    from nissl.formats.grid import Box

    found = re.fullmatch(",".join([r"(\d+):(\d+)"] * 3), text.replace(" ", ""))
    if found is None:
        raise NisslError(f"box {text!r} is not z0:z1,y0:y1,x0:x1: write it as in 0:29,512:1024,0:2048")
    numbers = list(map(int, found.groups()))
    return Box(tuple(numbers[0::2]), tuple(numbers[1::2]))


@contextmanager
def _index(image: Path, name: str | None) -> Iterator[LabelIndex]:
    from nissl.formats.label_index import open_label_index
    from nissl.formats.labels import labels_folder

    with open_label_index(labels_folder(image, name)) as index:
        yield index
