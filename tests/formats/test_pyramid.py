from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nissl.formats.pyramid import Cascade, halve
from tests.formats.formats_model import slow_halve, slow_pyramid

integer_planes = st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4"]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 12), st.integers(1, 12)))
)


@given(integer_planes)
def test_halving_is_the_mean_of_each_2x2_rounded_half_up(plane: NDArray[Any]) -> None:
    reduced = halve(plane)
    assert reduced.dtype == plane.dtype
    assert np.array_equal(reduced, slow_halve(plane))


@given(hnp.arrays("f4", st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1e6, 1e6, width=32)))
def test_halving_floats_does_not_round(plane: NDArray[Any]) -> None:
    np.testing.assert_allclose(halve(plane), slow_halve(plane), rtol=1e-5, atol=1e-1)


def test_halving_the_brightest_voxels_does_not_overflow() -> None:
    for dtype in ("u1", "u2", "u4", "i1", "i2", "i4"):
        brightest = np.iinfo(dtype).max
        assert (halve(np.full((3, 5), brightest, dtype=dtype)) == brightest).all()


def test_a_plane_larger_than_the_cache_strip_is_halved_like_a_small_one() -> None:
    plane = np.random.default_rng(1).integers(0, 65536, (1001, 1003), dtype=np.uint16)
    reduced = halve(plane)
    for top in range(0, 1001, 100):
        assert np.array_equal(reduced[top // 2 : top // 2 + 50], halve(plane[top : top + 100]))
    assert reduced.shape == (501, 502)


@given(st.data())
def test_a_cascade_gives_every_level_in_rows_of_chunks_however_its_rows_arrive(data: st.DataObject) -> None:
    channels, height, width = (data.draw(st.integers(1, most)) for most in (3, 70, 40))
    edge = 2 * data.draw(st.integers(1, 6))
    rows = np.random.default_rng(0).integers(0, 256, (channels, height, width), dtype=np.uint8)
    expected = slow_pyramid(rows, smallest=edge)
    emitted: list[tuple[int, int, NDArray[Any]]] = []

    def emit(level: int, row: int, part: NDArray[Any]) -> None:
        emitted.append((level, row, part.copy()))

    cascade = Cascade([level.shape[-1] for level in expected], edge, emit)
    top = 0
    while top < height:
        step = data.draw(st.integers(1, height - top))
        cascade.push(rows[:, top : top + step])
        top += step
    cascade.finish()

    for number, level in enumerate(expected):
        parts = [(row, part) for at, row, part in emitted if at == number]
        assert [row for row, _ in parts] == list(range(0, level.shape[1], edge))
        assert all(part.shape[1] == edge for _, part in parts[:-1])
        assert np.array_equal(np.concatenate([part for _, part in parts], axis=1), level)


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 3), (2, 2, 5, 7)])
def test_halving_rounds_shapes_up_and_keeps_stacked_axes(shape: tuple[int, ...]) -> None:
    assert halve(np.ones(shape, dtype=np.uint8)).shape == (*shape[:-2], -(-shape[-2] // 2), -(-shape[-1] // 2))
