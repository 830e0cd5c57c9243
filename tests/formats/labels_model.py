"""Builders and slow, obvious models for the tests of labels."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nissl.formats.arrays import array_source
from nissl.formats.codec import ZstdCodec
from nissl.formats.grid import Box, Index, level_shapes
from nissl.formats.image import open_image
from nissl.formats.label_files import as_labels
from nissl.formats.label_index import build_label_index
from nissl.formats.labels import build_labels, plan_labels, write_labels_list
from nissl.formats.workers import LocalCrew

PLANES_UM = (5.0, 1.0, 1.0)
VOLUME_UM = (0.04, 0.032, 0.032)

REAL = Path(__file__).parents[3] / "shared" / "data" / "labels" / "connectomics.npy.ckl.gz"


def real_labels() -> bytes:
    """A segmentation of mouse cortex, 512 x 512 x 512, 2,523 labels; skips the test where it is not at hand.

    As `crackle` packs it, which also says of its own accord how large each label is and where it lies.
    """
    pytest.importorskip("crackle", reason="crackle-codec is not installed: it reads the real segmentation")
    if not REAL.exists():
        pytest.skip(f"{REAL} is missing: the real segmentation lies outside of the project")
    with gzip.open(REAL) as file:
        return file.read()


def unpacked(packed: bytes) -> NDArray[np.uint32]:
    """Its voxels, (z, y, x): crackle counts the axes the other way round."""
    import crackle

    voxels: NDArray[np.uint32] = crackle.decompress(packed).T
    return voxels


def some_labels(shape: Index, dtype: str = "uint32", seed: int = 0, count: int = 12) -> NDArray[Any]:
    """Blobs around random seeds, a third of them background, with ids all over the type's range."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, np.iinfo(dtype).max, count, dtype=dtype, endpoint=True)
    ids[:: max(3, count)] = np.iinfo(dtype).max
    ids[generator.random(count) < 1 / 3] = 0
    places = generator.random((count, len(shape))) * shape
    distances = np.full(shape, np.inf)
    labels = np.zeros(shape, dtype=dtype)
    for place, label in zip(places, ids, strict=True):
        squares = [(np.arange(n) - p) ** 2 for n, p in zip(shape, place, strict=True)]
        distance = sum(np.ix_(*squares))
        nearer = distance < distances
        labels[nearer] = label
        distances = np.minimum(distance, distances)
    return labels


def build(
    voxels: NDArray[Any],
    image: Path,
    *,
    voxel_size_um: tuple[float, float, float] = PLANES_UM,
    chunk_edge: int = 32,
    shard_edge: int = 64,
    jobs: int = 1,
    name: str = "bodies",
    like: Path | None = None,
    index: bool = True,
) -> Path:
    """Labels of small shards in `labels/<name>` of the folder `image`, with their index; returns their folder."""
    source = as_labels(array_source(voxels))
    folder = image / "labels" / name
    following = open_image(like) if like is not None else None
    plan = plan_labels(
        source,
        f"{image.name}/labels/{name}",
        voxel_size_um,
        image=following,
        codec=ZstdCodec(1),
        chunk_edge=chunk_edge,
        shard_edge=shard_edge,
    )
    build_labels(source, folder, plan, crew=LocalCrew(jobs))
    if index:
        build_label_index(folder, jobs=jobs, codec=ZstdCodec(1))
    write_labels_list(image)
    return folder


def slow_mode(voxels: NDArray[Any]) -> int:
    """The most frequent label; of several the smallest, of those and background not the background."""
    counts: Counter[int] = Counter(voxels.ravel().tolist())
    return min(counts, key=lambda label: (-counts[label], label == 0, label))


def slow_halve(voxels: NDArray[Any], halved_axes: int) -> NDArray[Any]:
    """Block by block, of what is there."""
    kept = voxels.ndim - halved_axes
    shape = (*voxels.shape[:kept], *(-(-n // 2) for n in voxels.shape[kept:]))
    reduced = np.empty(shape, dtype=voxels.dtype)
    for place in itertools.product(*map(range, shape)):
        block = tuple(slice(i, i + 1) if axis < kept else slice(2 * i, 2 * i + 2) for axis, i in enumerate(place))
        reduced[place] = slow_mode(voxels[block])
    return reduced


def slow_pyramid(voxels: NDArray[Any], smallest: int, halved_axes: int) -> list[NDArray[Any]]:
    levels = [voxels]
    for _ in level_shapes(voxels.shape, smallest=smallest, halved_axes=halved_axes)[1:]:
        levels.append(slow_halve(levels[-1], halved_axes))
    return levels


def slow_ids(voxels: NDArray[Any]) -> list[int]:
    return sorted(set(voxels.ravel().tolist()) - {0})


def slow_box(voxels: NDArray[Any], label: int) -> Box:
    places = np.argwhere(voxels == label)
    return Box(tuple(places.min(axis=0).tolist()), tuple((places.max(axis=0) + 1).tolist()))
