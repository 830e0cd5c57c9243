"""`nissl plan`: files, inodes and bytes of a brain that does not exist yet."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from nissl.amounts import human_bytes
from nissl.commands import Json
from nissl.progress import say_json


def plan(
    size: Annotated[str, typer.Option(metavar="WxHxPLANES", help="A section's voxels, as in 100000x100000x29.")],
    sections: Annotated[int, typer.Option(min=1, help="Sections of the brain.")] = 1,
    dtype: Annotated[str, typer.Option(help="Type of a voxel: uint8, uint16, ...")] = "uint8",
    ratio: Annotated[float, typer.Option(min=1.0, help="How much smaller compression makes it: raw / stored.")] = 1.6,
    channels: Annotated[int | None, typer.Option(min=2, help="Samples per voxel of a colour: 3 for RGB.")] = None,
    as_json: Json = False,
) -> None:
    """Count the files, inodes and bytes of a brain, for dual shards and for what people use instead."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from nissl.datasets.planning import footprints
    from nissl.errors import NisslError

    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size)
    if found is None or not all(map(int, found.groups())):
        raise NisslError(f"size {size!r} is not width x height x planes in voxels: write it as in 100000x100000x29")
    width, height, planes = map(int, found.groups())
    try:
        voxel = np.dtype(dtype)
    except TypeError:
        raise NisslError(f"{dtype!r} is not a type of voxels: use uint8, uint16, int16, uint32 or float32") from None
    if voxel.kind not in "iuf":
        raise NisslError(f"{dtype!r} is not a type of voxels: use uint8, uint16, int16, uint32 or float32")
    table = Table(title=f"{sections} sections of {width} x {height} x {planes} {voxel.name}, ratio {ratio:g}")
    table.add_column("layout")
    for column in (
        "files",
        "inodes, work tree",
        "inodes, hub",
        "bytes",
        "files, brain",
        "inodes, brain",
        "bytes, brain",
    ):
        table.add_column(column, justify="right")
    for one in footprints((planes, height, width), voxel, ratio, channels):
        if as_json:
            say_json(
                {
                    "layout": str(one.layout),
                    "sections": sections,
                    "section": {
                        "voxel_files": one.annexed,
                        "files": one.files,
                        "work_inodes": one.work_inodes,
                        "hub_inodes": one.hub_inodes,
                        "bytes": one.nbytes,
                    },
                    "brain": {
                        "files": one.files * sections,
                        "work_inodes": one.work_inodes * sections,
                        "hub_inodes": one.hub_inodes * sections,
                        "bytes": one.nbytes * sections,
                    },
                }
            )
        table.add_row(
            str(one.layout),
            *(f"{count:,}" for count in (one.files, one.work_inodes, one.hub_inodes)),
            human_bytes(one.nbytes),
            *(f"{count:,}" for count in (one.files * sections, one.work_inodes * sections)),
            human_bytes(one.nbytes * sections),
        )
    if not as_json:
        Console(width=None if Console().is_terminal else 140).print(table)
