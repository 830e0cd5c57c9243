"""The label index answers what a look at every voxel would answer."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.codec import ZstdCodec
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from nissl.formats.label_files import open_label_files
from nissl.formats.label_index import (
    LabelIndexError,
    UnknownLabelError,
    _transposed,
    build_label_index,
    merge,
    open_label_index,
    tally,
)
from nissl.formats.labels import build_labels, plan_labels
from nissl.formats.lists import open_list, write_list
from nissl.formats.shards import AbsentShardError, DamagedShardError
from tests.formats.formats_model import read_whole
from tests.formats.labels_model import (
    VOLUME_UM,
    build,
    real_labels,
    slow_box,
    slow_halve,
    slow_ids,
    some_labels,
    unpacked,
)

small_volumes = hnp.arrays(
    "u8",
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 1, 2, 2**53 + 1, 2**64 - 1]),
)


def as_rows(found: Any) -> list[tuple[int, int, Box]]:  # noqa: ANN401
    corners = [Box(tuple(start), tuple(stop)) for start, stop in found.boxes.tolist()]
    return list(zip(found.ids.tolist(), found.sizes.tolist(), corners, strict=True))


def slow_rows(voxels: NDArray[Any]) -> list[tuple[int, int, Box]]:
    return [(label, int((voxels == label).sum()), slow_box(voxels, label)) for label in slow_ids(voxels)]


@given(small_volumes)
def test_a_tally_counts_each_label_and_finds_its_corners(voxels: NDArray[Any]) -> None:
    assert as_rows(tally(voxels)) == slow_rows(voxels)


@given(small_volumes, st.data())
def test_tallies_of_parts_merge_to_that_of_the_whole_in_any_order(voxels: NDArray[Any], data: st.DataObject) -> None:
    z = data.draw(st.integers(1, voxels.shape[0]))
    x = data.draw(st.integers(1, voxels.shape[2]))
    parts = [
        tally(part, origin)
        for part, origin in (
            (voxels[:z, :, :x], (0, 0, 0)),
            (voxels[:z, :, x:], (0, 0, x)),
            (voxels[z:, :, :x], (z, 0, 0)),
            (voxels[z:, :, x:], (z, 0, x)),
        )
        if part.size
    ]
    order = data.draw(st.permutations(parts))
    assert as_rows(merge(order)) == slow_rows(voxels)
    assert as_rows(merge([merge(order[:2]), merge(order[2:])])) == slow_rows(voxels)


@st.composite
def boxes_in(draw: st.DrawFn, shape: tuple[int, int, int]) -> Box:
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    stops = [draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)]
    return Box(tuple(starts), tuple(stops))


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 1000),
    volume=st.booleans(),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_the_index_answers_what_a_look_at_every_voxel_answers(
    shape: tuple[int, int, int], seed: int, volume: bool, data: st.DataObject
) -> None:
    voxels = some_labels(shape, "uint64", seed)
    with tempfile.TemporaryDirectory() as place:
        size = VOLUME_UM if volume else (5.0, 1.0, 1.0)
        folder = build(voxels, Path(place, "a.ome.zarr"), chunk_edge=8, shard_edge=16, voxel_size_um=size)
        with open_label_index(folder) as index:
            assert index.ids.read(0, len(index.ids)).tolist() == slow_ids(voxels)
            grid = index.level.grid
            for label, count, box in slow_rows(voxels):
                assert (index.size_of(label), index.box_of(label)) == (count, box)
                holding = [
                    chunk for chunk in grid.chunks_in(box) if (voxels[grid.chunk_box(chunk).slices] == label).any()
                ]
                assert index.chunks_of(label) == holding
            everything = Box((0, 0, 0), shape)
            for chunk in grid.chunks_in(everything):
                ids, counts = index.labels_in(chunk)
                part = voxels[grid.chunk_box(chunk).slices]
                assert ids.tolist() == slow_ids(part)
                assert counts.tolist() == [int((part == label).sum()) for label in ids]
            for box in (everything, *(data.draw(boxes_in(shape)) for _ in range(6))):
                inside = slow_ids(voxels[box.slices])
                assert index.ids_in_box(box).tolist() == inside
                touched = {
                    label for chunk in grid.chunks_in(box) for label in slow_ids(voxels[grid.chunk_box(chunk).slices])
                }
                assert index.ids_in_box(box, exact=False).tolist() == sorted(touched)


@pytest.fixture
def labels(tmp_path: Path) -> tuple[Path, NDArray[Any]]:
    voxels = some_labels((3, 70, 80), "uint32", count=30)
    return build(voxels, tmp_path / "a.ome.zarr", chunk_edge=16, shard_edge=32), voxels


def test_every_list_is_an_array_that_other_readers_read(labels: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = labels
    group = zarr.open_group(folder / "index", mode="r")
    assert group.attrs["nissl"]["label_index"]["chunks_per_axis"] == [3, 5, 5]  # type: ignore[index,call-overload]
    assert group["ids"][...].tolist() == slow_ids(voxels)  # type: ignore[index,union-attr]
    for name in ("ids", "sizes", "boxes", "chunk_offsets", "chunks", "label_offsets", "labels", "counts"):
        values = np.asarray(zarr.open_array(folder / "index" / name, mode="r")[...])
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "index" / name)}}
        assert np.array_equal(tensorstore.open(spec, read=True).result().read().result(), values)
        (shard,) = (path for path in (folder / "index" / name / "c").rglob("*") if path.is_file())
        with h5py.File(shard) as file:
            assert file["voxels"].dtype == np.uint64
            assert np.array_equal(file["voxels"][: len(values)], values)


def test_what_does_not_occur_is_said_to_be_unknown(labels: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = labels
    missing = next(label for label in range(1, 1000) if label not in slow_ids(voxels))
    with open_label_index(folder) as index:
        for ask in (index.size_of, index.box_of, index.chunks_of):
            for label in (0, missing, 2**64 - 1):
                with pytest.raises(UnknownLabelError, match=f"label {label} does not occur"):
                    ask(label)


@pytest.mark.parametrize(
    "box", [Box((0, 0, 0), (0, 1, 1)), Box((0, 0, 0), (3, 70, 81)), Box((0, 0, 0), (1, 1, 1)).relative_to((1, 0, 0))]
)
def test_a_box_outside_is_refused(box: Box, labels: tuple[Path, NDArray[Any]]) -> None:
    with open_label_index(labels[0]) as index, pytest.raises(NisslError, match="does not lie inside the labels"):
        index.ids_in_box(box)


def test_a_volume_of_background_has_an_empty_index(tmp_path: Path) -> None:
    folder = build(np.zeros((2, 40, 40), dtype="u4"), tmp_path / "a.ome.zarr")
    with open_label_index(folder) as index:
        assert len(index.ids) == 0
        assert index.ids_in_box(Box((0, 0, 0), (2, 40, 40))).tolist() == []
        with pytest.raises(UnknownLabelError):
            index.size_of(1)
    assert zarr.open_array(folder / "index" / "boxes", mode="r").shape == (0, 2, 3)


def test_the_index_answers_without_the_voxels_and_says_when_it_cannot(labels: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = labels
    for shard in (folder / "0" / "c").rglob("*"):
        if shard.is_file():
            shard.write_text("/annex/objects/SHA256E-s1--0\n")  # what git-annex leaves of absent content
    with open_label_index(folder) as index:
        label = slow_ids(voxels)[0]
        assert index.box_of(label) == slow_box(voxels, label)
        assert index.ids_in_box(Box((0, 0, 0), voxels.shape)).tolist() == slow_ids(voxels)
        cut = Box((0, 1, 1), (1, 60, 60))
        assert set(slow_ids(voxels[cut.slices])) <= set(index.ids_in_box(cut, exact=False).tolist())
        with pytest.raises(AbsentShardError):
            index.ids_in_box(Box((0, 17, 17), (1, 18, 70)))


def test_a_damaged_shard_leaves_the_earlier_index(labels: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = labels
    shard = folder / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DamagedShardError):
        build_label_index(folder)
    assert not list(folder.glob(".*"))
    with open_label_index(folder) as index:
        assert len(index.ids) == len(slow_ids(voxels))


def test_an_index_of_other_labels_is_refused(labels: tuple[Path, NDArray[Any]], tmp_path: Path) -> None:
    folder, voxels = labels
    other = build(voxels[:2], tmp_path / "b.ome.zarr", chunk_edge=16, shard_edge=32, index=False)
    with pytest.raises(LabelIndexError, match="has no index"):
        open_label_index(other)
    (folder / "index").rename(other / "index")
    with pytest.raises(LabelIndexError, match="made for other labels"):
        open_label_index(other)


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_sorted_list_of_many_shards_is_searched(values: list[int], others: list[int]) -> None:
    values = sorted(values)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "list")
        write_list(folder, np.array(values, dtype="u8"), ("label",), "a", codec=ZstdCodec(1), chunk=4, shard=8)
        stored = open_list(folder)
        assert stored.read(0, len(values)).tolist() == values
        for value in (*values, *others):
            assert stored.find(value) == (values.index(value) if value in values else None)
        stored.close()


@given(small_volumes, st.integers(1, 8))
def test_transposing_in_pieces_gives_what_transposing_at_once_gives(voxels: NDArray[Any], limit: int) -> None:
    rows = [tally(plane[np.newaxis]) for plane in voxels]
    labels = np.concatenate([row.ids for row in rows])
    label_offsets = np.cumsum([0, *map(len, rows)]).astype("u8")
    whole = merge(rows)
    chunk_offsets = np.cumsum([0, *whole.chunks.tolist()]).astype("u8")
    pieces = list(_transposed(whole.ids, chunk_offsets, labels, label_offsets, limit))
    found = np.concatenate(pieces).tolist() if pieces else []
    assert found == [z for label in whole.ids for z, row in enumerate(rows) if label in row.ids]
    assert all(len(piece) <= max(limit, len(voxels)) for piece in pieces)


def test_a_part_of_a_real_segmentation(tmp_path: Path) -> None:
    voxels = np.ascontiguousarray(unpacked(real_labels())[100:220, 50:250, 90:300])
    folder = build(voxels, tmp_path / "a.ome.zarr", voxel_size_um=VOLUME_UM, chunk_edge=32, shard_edge=256)
    ids, sizes = np.unique(voxels[voxels != 0], return_counts=True)
    with open_image(folder) as image, open_label_index(folder) as index:
        for finer, coarser in itertools.pairwise(map(read_whole, image.levels)):
            corner = tuple(slice(0, 2 * (n // 2)) for n in map(min, finer.shape, (24, 24, 24)))
            expected = slow_halve(finer[corner], 3)
            assert np.array_equal(coarser[tuple(slice(0, n) for n in expected.shape)], expected)
        assert index.ids.read(0, len(index.ids)).tolist() == ids.tolist()
        assert index.sizes.read(0, len(ids)).tolist() == sizes.tolist()
        for label in ids[::20].tolist():
            assert index.box_of(label) == slow_box(voxels, label)
        for box in (Box((10, 20, 30), (40, 150, 180)), Box((63, 31, 65), (64, 129, 66))):
            assert index.ids_in_box(box).tolist() == slow_ids(voxels[box.slices])


@pytest.mark.slow
def test_the_whole_of_a_real_segmentation_is_what_an_independent_program_says(tmp_path: Path) -> None:
    packed = real_labels()
    import crackle

    np.save(tmp_path / "pinky.npy", unpacked(packed))
    source = open_label_files([str(tmp_path / "pinky.npy")])
    folder = tmp_path / "a.ome.zarr" / "labels" / "bodies"
    build_labels(source, folder, plan_labels(source, "bodies", VOLUME_UM))
    build_label_index(folder)
    sizes = {int(label): int(size) for label, size in crackle.voxel_counts(packed).items() if label}
    with open_image(folder) as image, open_label_index(folder) as index:
        assert [level.shape for level in image.levels] == [(n, n, n) for n in (512, 256, 128, 64)]
        assert len(sizes) == 2523
        assert index.ids.read(0, len(index.ids)).tolist() == sorted(sizes)
        assert index.sizes.read(0, len(index.ids)).tolist() == [sizes[label] for label in sorted(sizes)]
        for label, corners in crackle.bounding_boxes(packed, no_slice_conversion=True).items():
            x0, y0, z0, x1, y1, z1 = map(int, corners)
            assert not label or index.box_of(int(label)) == Box((z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1))
        assert index.ids_in_box(Box((0, 0, 0), (512, 512, 512))).tolist() == sorted(sizes)
