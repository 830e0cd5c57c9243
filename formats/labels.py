"""Labels beside an image: which voxel belongs to which supervoxel, as OME-Zarr `labels/<name>/`.

A pyramid of dual shards like the image's, reduced to the mode (`formats.pyramid.halve_labels`; the well-kept
`tinybrain` does not serve here: on a tie it takes what stands at a certain place, background too). Stacks of planes are
cut like images; volumes, whose voxels are about as deep as wide, into cubes. OME-Zarr wants as many levels as the image
has: labels of an image follow its levels, shape by shape. A volume without an image has z halved too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from nissl.errors import NisslError
from nissl.formats import ome
from nissl.formats.build import write_levels
from nissl.formats.codec import Codec, ZstdCodec
from nissl.formats.grid import (
    CHUNK_EDGE,
    SHARD_EDGE,
    VOLUME_CHUNK_EDGE,
    VOLUME_SHARD_EDGE,
    is_volume,
    level_shapes,
    shard_grid,
    volume_grid,
)
from nissl.formats.image import Image, open_image
from nissl.formats.image_plan import ImagePlan
from nissl.formats.pyramid import Reduction
from nissl.formats.shards import write_json
from nissl.formats.stack import PlaneSource
from nissl.formats.stream import Progress
from nissl.formats.workers import Crew

LABELS = "labels"
"""The folder of an image in which OME-Zarr looks for its labels."""

DTYPES = ("uint32", "uint64")


class LabelsError(NisslError):
    """Labels that do not fit their image, that are not there, or that cannot be called so."""


def check_labels_name(name: str) -> str:
    """`name` if a folder of labels can be called so. Raises LabelsError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise LabelsError(f"labels cannot be called {name!r}: use letters, digits, - and _, as in bodies or layer_4")
    return name


def plan_labels(
    source: PlaneSource,
    name: str,
    voxel_size_um: tuple[float, float, float],
    *,
    image: Image | None = None,
    codec: Codec | None = None,
    chunk_edge: int | None = None,
    shard_edge: int | None = None,
) -> ImagePlan:
    """Lay out the pyramid that `source`, uint32 or uint64 with axes (z, y, x), will become.

    image: the image that the labels belong to, whose levels they follow. chunk_edge must be even, shard_edge a multiple
    of it; what is not given is chosen by `formats.grid`. Raises LabelsError where source and image do not fit.
    """
    if source.channels is not None or source.dtype.name not in DTYPES:
        raise LabelsError(f"labels of type {source.dtype.name} are none: give uint32 or uint64, one per voxel")
    shape, volume = source.shape, is_volume(source.shape, voxel_size_um, chunk_edge=chunk_edge or VOLUME_CHUNK_EDGE)
    chunk_edge = chunk_edge or (VOLUME_CHUNK_EDGE if volume else CHUNK_EDGE)
    shard_edge = shard_edge or (VOLUME_SHARD_EDGE if volume else SHARD_EDGE)
    if chunk_edge % 2:
        raise ValueError(f"chunk edge {chunk_edge} is odd: a pyramid halves it")
    halved_axes = 3 if volume else 2
    shapes = level_shapes(shape, smallest=chunk_edge, halved_axes=halved_axes)
    if image is not None:
        shapes = [level.shape[-3:] for level in image.levels]
        if shapes[0] != shape:
            mine, its = (" x ".join(map(str, one)) for one in (shape, shapes[0]))
            raise LabelsError(
                f"the labels have {mine} voxels, the image {image.folder.name} has {its}: give those of it"
            )
        halved_axes = next(
            (axes for axes in (2, 3) if level_shapes(shape, smallest=1, halved_axes=axes)[: len(shapes)] == shapes), 0
        )
        if not halved_axes:
            raise LabelsError(f"the levels of {image.folder.name} are not halves of each other: labels cannot follow")
    lay = volume_grid if volume else shard_grid
    grids = tuple(lay(level, chunk_edge=chunk_edge, shard_edge=shard_edge) for level in shapes)
    return ImagePlan(
        name, ome.SPATIAL, source.dtype, voxel_size_um, codec or ZstdCodec(), grids, Reduction.MODE, halved_axes
    )


def build_labels(
    source: PlaneSource,
    folder: Path,
    plan: ImagePlan,
    *,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the pyramid of `source` into the new folder `folder`, which becomes `labels/<its name>` of an image.

    crew, memory and errors as of `formats.build.build_image`; the memory for a source that is read in whole rows grows
    with the rows of one chunk's planes.
    """
    write_levels(source, folder, plan, crew=crew, progress=progress)
    document = ome.label_document(folder.name, plan.voxel_size_um, len(plan.grids), ome.SPATIAL[-plan.halved_axes :])
    write_json(folder / "zarr.json", document)
    open_image(folder).close()  # the folder holds labels from here on: say so now if it did not


def list_labels(image: Path) -> list[str]:
    """Names of the labels that the image in the folder `image` says it has."""
    try:
        document = json.loads((image / LABELS / "zarr.json").read_text(encoding="utf-8"))
        return [str(name) for name in document["attributes"]["ome"]["labels"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise LabelsError(f"{image / LABELS / 'zarr.json'} does not list labels ({error!r}): restore it") from None


def write_labels_list(image: Path) -> None:
    """Say in the image's `labels` group what labels lie there."""
    folder = image / LABELS
    names = sorted(path.parent.name for path in folder.glob("*/zarr.json"))
    write_json(folder / "zarr.json", ome.labels_document(names))


def labels_folder(image: Path, name: str | None = None) -> Path:
    """The folder of the labels `name` of an image, or of its only labels. Raises LabelsError where there are none."""
    names = list_labels(image)
    if not names:
        hint = "" if (image / "zarr.json").exists() else ", and no image either"
        raise LabelsError(f"{image} has no labels{hint}: add some with `nissl labels add`")
    if name is None and len(names) > 1:
        raise LabelsError(f"{image} has several labels: choose one with --name, of {', '.join(names)}")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise LabelsError(f"{image} has no labels {chosen!r}: it has {', '.join(names)}")
    return image / LABELS / chosen
