from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nissl.formats.quality import PlaneQuality, look, report, tissue_fractions


@given(hnp.arrays("u1", st.tuples(st.integers(1, 40), st.integers(1, 8))), st.sampled_from([8, 16]))
def test_a_plane_looked_at_in_parts_is_judged_like_the_whole(plane: NDArray[Any], step: int) -> None:
    parts = [look(plane[top : top + step]) for top in range(0, len(plane), step)]
    assert functools.reduce(operator.add, parts) == look(plane)


def test_a_black_plane_is_reported() -> None:
    quality = report([look(np.zeros((4, 4), "u2")), look(np.arange(16, dtype="u2").reshape(4, 4))])
    assert quality.warnings == ("plane 1 is constant: every voxel is 0",)


def test_a_saturated_plane_is_reported_with_its_share() -> None:
    plane = np.arange(100, dtype="u1").reshape(10, 10)
    plane[0, :5] = 255
    assert report([look(plane)]).warnings == ("plane 1 is saturated: 5.0% of its voxels have the largest value",)


def test_a_few_bright_voxels_are_no_saturation() -> None:
    plane = np.zeros((10, 100), dtype="u2")
    plane[0, 0] = 65535
    assert report([look(plane)]).warnings == ()


def test_a_plane_that_is_there_twice_is_reported_once() -> None:
    checksums = [("z1.tif", "a"), ("z2.tif", "b"), ("z3.tif", "a")]
    assert report([], checksums).warnings == ("z3.tif is a copy of z1.tif, byte for byte",)


def test_floats_that_are_not_numbers_are_left_out() -> None:
    seen = look(np.array([[np.nan, 2.0, 1.0]], dtype="f4"))
    assert (seen.lowest, seen.highest, seen.voxels) == (1.0, 2.0, 3)
    assert look(np.array([[np.nan, np.nan]], dtype="f4")).voxels == 2


def test_the_report_counts_planes_from_one_and_gives_the_saturated_share() -> None:
    document = report([PlaneQuality(0, 255, 3, 12, 60.0, 12, 36.0, 4)]).document()
    assert document["sharpest_plane"] == 1
    assert document["planes"] == [
        {"plane": 1, "lowest": 0, "highest": 255, "mean": 5.0, "focus": 0.36, "saturated_fraction": 0.25}
    ]


def picture(rng: np.random.Generator, ground: float, cell: float) -> NDArray[Any]:
    """A plane of 160 x 160 with a square of tissue that fills a quarter of it."""
    plane = rng.normal(ground, 3, (160, 160))
    plane[40:120, 40:120] += rng.normal(cell - ground, 3, (80, 80))
    return plane.clip(0, 255).astype("u1")


def test_a_blurred_plane_has_a_lower_focus_score() -> None:
    sharp = np.random.default_rng(0).integers(0, 255, (64, 64), dtype="u1")
    blurred = (sharp[:, :-1] // 2 + sharp[:, 1:] // 2)[:, 1:]
    assert look(blurred).focus < look(sharp).focus / 1.5


def test_the_focus_score_does_not_depend_on_exposure() -> None:
    plane = np.random.default_rng(0).integers(10, 1000, (64, 64), dtype="u2")
    assert math.isclose(look(plane).focus, look(plane * 3).focus, rel_tol=1e-6)


@pytest.mark.parametrize(("ground", "cell"), [(230.0, 120.0), (10.0, 90.0)])
def test_tissue_is_found_in_bright_field_and_in_fluorescence(ground: float, cell: float) -> None:
    rng = np.random.default_rng(1)
    (share,) = tissue_fractions(picture(rng, ground, cell)[np.newaxis])
    assert math.isclose(share, 0.25, abs_tol=0.02)


def test_a_plane_brighter_than_its_neighbours_is_reported() -> None:
    rng = np.random.default_rng(2)
    planes = [look(picture(rng, ground, ground + 40)) for ground in (50, 50, 100, 50, 50)]
    (warning,) = report(planes).warnings
    assert warning.startswith("plane 3 is ")
    assert "brighter than its neighbours" in warning
    assert report(planes).flagged == {3}


def test_planes_that_grow_darker_step_by_step_are_no_jump() -> None:
    planes = [look(np.full((8, 8), value, "u1") + np.eye(8, dtype="u1")) for value in (200, 120, 70, 40)]
    assert report(planes).warnings == ()


def test_a_section_without_tissue_is_reported() -> None:
    empty = np.full((1, 50, 50), 200.0)
    empty[0, 20, 20] = 0
    (warning,) = report([], overview=empty).warnings
    assert warning.startswith("there is next to no tissue")
