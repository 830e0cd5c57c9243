from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nissl.formats.quality import PlaneQuality, look, report


@given(hnp.arrays("u1", st.tuples(st.integers(1, 20), st.integers(1, 8))), st.integers(1, 5))
def test_a_plane_looked_at_in_parts_is_judged_like_the_whole(plane: NDArray[Any], step: int) -> None:
    parts = [look(plane[top : top + step]) for top in range(0, len(plane), step)]
    assert functools.reduce(operator.add, parts) == look(plane)


def test_a_black_plane_is_reported() -> None:
    quality = report([look(np.zeros((4, 4), "u2")), look(np.arange(16, dtype="u2"))])
    assert quality.warnings == ("plane 1 is constant: every voxel is 0",)


def test_a_saturated_plane_is_reported_with_its_share() -> None:
    plane = np.arange(100, dtype="u1")
    plane[:5] = 255
    assert report([look(plane)]).warnings == ("plane 1 is saturated: 5.0% of its voxels have the largest value",)


def test_a_few_bright_voxels_are_no_saturation() -> None:
    plane = np.zeros(1000, dtype="u2")
    plane[0] = 65535
    assert report([look(plane)]).warnings == ()


def test_a_plane_that_is_there_twice_is_reported_once() -> None:
    checksums = [("z1.tif", "a"), ("z2.tif", "b"), ("z3.tif", "a")]
    assert report([], checksums).warnings == ("z3.tif is a copy of z1.tif, byte for byte",)


def test_floats_that_are_not_numbers_are_left_out() -> None:
    assert look(np.array([np.nan, 2.0, 1.0], dtype="f4")) == PlaneQuality(1.0, 2.0, 0, 3)
    assert look(np.array([np.nan, np.nan], dtype="f4")).voxels == 2


def test_the_report_counts_planes_from_one_and_gives_the_saturated_share() -> None:
    document = report([PlaneQuality(0, 255, 3, 12)]).document()
    assert document["planes"] == [
        {"plane": 1, "lowest": 0, "highest": 255, "saturated": 3, "voxels": 12, "saturated_fraction": 0.25}
    ]
