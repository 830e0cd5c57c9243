from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.formats.grid import Box, Index, ShardGrid, level_shapes, shard_grid


@st.composite
def grids(draw: st.DrawFn) -> ShardGrid:
    rank = draw(st.integers(1, 4))
    largest = {1: 60, 2: 25, 3: 12, 4: 6}[rank]
    array = tuple(draw(st.integers(1, largest)) for _ in range(rank))
    chunk = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    shard = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    return ShardGrid(array, shard, chunk)


def counted(grid: ShardGrid, shard: Index, within: Index) -> Index:
    """An inner chunk of one shard, counted over the whole array."""
    return tuple(s * n + i for s, n, i in zip(shard, grid.chunks_per_shard, within, strict=True))


@given(grids())
def test_the_chunks_of_all_shards_cover_the_array_exactly_once(grid: ShardGrid) -> None:
    times = np.zeros(grid.array_shape, dtype=int)
    for shard in grid.shards():
        for within in grid.chunks_of(shard):
            box = grid.chunk_box(counted(grid, shard, within))
            assert not box.empty
            times[box.slices] += 1
    assert (times == 1).all()


@given(grids())
def test_the_shards_cover_the_array_exactly_once(grid: ShardGrid) -> None:
    times = np.zeros(grid.array_shape, dtype=int)
    for shard in grid.shards():
        times[grid.shard_box(shard).slices] += 1
    assert (times == 1).all()


@given(grids())
def test_a_chunk_is_located_in_the_shard_that_lists_it(grid: ShardGrid) -> None:
    for shard in grid.shards():
        for within in grid.chunks_of(shard):
            assert grid.locate(counted(grid, shard, within)) == (shard, within)


@given(grids(), st.data())
def test_the_chunks_in_a_box_are_those_that_share_voxels_with_it(grid: ShardGrid, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.array_shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.array_shape, strict=True))
    box = Box(start, stop)
    everything = (counted(grid, shard, within) for shard in grid.shards() for within in grid.chunks_of(shard))
    touching = {chunk for chunk in everything if not grid.chunk_box(chunk).intersect(box).empty}
    assert set(grid.chunks_in(box)) == touching


def test_a_section_of_100k_by_100k_has_about_250_files() -> None:
    files = 0
    for shape in level_shapes((29, 100_000, 100_000)):
        files += len(list(shard_grid(shape).shards()))
    assert 200 < files < 260


def test_a_small_image_gets_one_shard_just_large_enough() -> None:
    grid = shard_grid((30, 510, 667))
    assert grid.shard_shape == (30, 512, 1024)
    assert list(grid.shards()) == [(0, 0, 0)]


def test_focus_planes_and_channels_are_kept_at_every_level() -> None:
    assert level_shapes((3, 29, 2001, 1001), smallest=512) == [
        (3, 29, 2001, 1001),
        (3, 29, 1001, 501),
        (3, 29, 501, 251),
    ]


def test_the_coarsest_level_is_the_first_that_fits_into_one_chunk() -> None:
    assert level_shapes((1, 512, 512)) == [(1, 512, 512)]
    assert level_shapes((1, 513, 1))[-1] == (1, 257, 1)


@pytest.mark.parametrize(
    ("array", "shard", "chunk"),
    [((4, 4), (4, 4, 4), (2, 2)), ((0, 4), (4, 4), (2, 2)), ((4, 4), (4, 5), (2, 2)), ((4, 4), (4, 4), (2, 0))],
    ids=["ranks differ", "empty axis", "shard is no multiple of its chunks", "chunk without voxels"],
)
def test_an_impossible_grid_is_refused(array: Index, shard: Index, chunk: Index) -> None:
    with pytest.raises(ValueError):
        ShardGrid(array, shard, chunk)


def test_a_shard_edge_that_is_no_multiple_of_the_chunk_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="shard edge 100 is not a multiple of chunk edge 64"):
        shard_grid((1, 10, 10), chunk_edge=64, shard_edge=100)


def test_a_box_reads_as_its_ranges() -> None:
    box = Box((1, 0, 5), (2, 10, 7))
    assert str(box) == "1:2 x 0:10 x 5:7"
    assert box.shape == (1, 10, 2)
    assert box.relative_to((1, 0, 0)) == Box((0, 0, 5), (1, 10, 7))
    assert box.intersect(Box((2, 0, 0), (9, 9, 9))).empty


def test_a_chunk_of_a_colour_image_holds_all_samples_of_one_plane() -> None:
    grid = shard_grid((3, 5, 700, 700))
    assert grid.chunk_shape == (3, 1, 512, 512)
    assert grid.shard_shape == (3, 5, 1024, 1024)
