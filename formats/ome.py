"""OME-Zarr 0.5 metadata of an image of dual shards. Pure: values in, JSON documents out.

Specification: https://ngff.openmicroscopy.org/0.5/ (metadata under `attributes.ome`, Zarr v3, `dimension_names`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nissl.formats.codec import Codec
from nissl.formats.grid import ShardGrid

SPATIAL = ("z", "y", "x")


@dataclass(frozen=True)
class Channel:
    """One channel as `omero` metadata shows it: the display window, and the colour as six hex digits."""

    label: str
    color: str
    window: tuple[float, float]
    """Intensities shown black and full."""


def array_document(grid: ShardGrid, dtype: np.dtype[Any], codec: Codec, axes: tuple[str, ...]) -> dict[str, Any]:
    """`zarr.json` of one level: a Zarr v3 array whose shards carry their index at the start."""
    little_endian: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        little_endian["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(grid.array_shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid.shard_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(grid.chunk_shape),
                    "codecs": [little_endian, *codec.zarr(dtype)],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "start",
                },
            }
        ],
        "attributes": {},
        "dimension_names": list(axes),
    }


def group_document(
    name: str,
    axes: tuple[str, ...],
    voxel_size_um: tuple[float, float, float],
    levels: int,
    channels: tuple[Channel, ...],
    dtype: np.dtype[Any],
) -> dict[str, Any]:
    """`zarr.json` of the image: one multiscale of `levels` levels, halved in y and x.

    voxel_size_um: (z, y, x) of level 0.
    """
    lowest, highest = _range_of(dtype)
    shown = [
        {
            "label": channel.label,
            "color": channel.color,
            "active": True,
            "window": {"min": lowest, "max": highest, "start": channel.window[0], "end": channel.window[1]},
        }
        for channel in channels
    ]
    multiscale = {
        "name": name,
        "axes": [_axis(axis) for axis in axes],
        "datasets": _datasets(axes, voxel_size_um, levels, ("y", "x")),
        "type": "mean",
        "metadata": {"description": "2x2 mean in y and x; focus planes are kept at every level"},
    }
    return _group({"multiscales": [multiscale], "omero": {"channels": shown}})


def labels_document(names: Sequence[str]) -> dict[str, Any]:
    """`zarr.json` of an image's group `labels`: which labels there are."""
    return _group({"labels": list(names)})


def label_document(
    name: str,
    voxel_size_um: tuple[float, float, float],
    levels: int,
    halved: tuple[str, ...],
) -> dict[str, Any]:
    """`zarr.json` of the labels `name` of an image two folders further up; halved: the axes that every level halves."""
    window = "x".join("2" for _ in halved)
    multiscale = {
        "name": name,
        "axes": [_axis(axis) for axis in SPATIAL],
        "datasets": _datasets(SPATIAL, voxel_size_um, levels, halved),
        "type": "mode",
        "metadata": {
            "description": f"{window} mode in {', '.join(halved)}; on a tie the smallest label, "
            "background only where it has more voxels than every label"
        },
    }
    # No colours: there may be millions of labels, and viewers colour them by their ids.
    return _group({"multiscales": [multiscale], "image-label": {"source": {"image": "../../"}}})


def _group(ome: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **ome}}}


def _datasets(
    axes: tuple[str, ...], voxel_size_um: tuple[float, float, float], levels: int, halved: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The levels' places and transformations.

    A voxel of level n stands for 2^n voxels of level 0 along each halved axis, so its centre lies (2^n - 1) / 2 of them
    further: that is each level's translation.
    """
    datasets = []
    for level in range(levels):
        scale, translation = [], []
        for axis in axes:
            step = dict(zip(SPATIAL, voxel_size_um, strict=True)).get(axis, 1.0)
            factor = 2**level if axis in halved else 1
            scale.append(step * factor)
            translation.append(step * (factor - 1) / 2)
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if level:
            transformations.append({"type": "translation", "translation": translation})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return datasets


def _axis(name: str) -> dict[str, str]:
    if name == "c":
        return {"name": "c", "type": "channel"}
    return {"name": name, "type": "space", "unit": "micrometer"}


def _range_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return limits.min, limits.max
    return 0.0, 1.0
