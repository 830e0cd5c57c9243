from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.formats.stack import order_planes


def named(*names: str) -> list[Path]:
    return [Path("scan") / name for name in names]


def test_z2_comes_before_z10() -> None:
    assert order_planes(named("z10.tif", "z2.tif", "z1.tif", "z3.tif"))[:3] == named("z1.tif", "z2.tif", "z3.tif")


@given(st.permutations([f"sample-0042_z{number}.tif" for number in range(1, 13)]))
def test_the_order_in_which_files_are_given_does_not_matter(names: list[str]) -> None:
    assert order_planes(named(*names)) == named(*(f"sample-0042_z{number}.tif" for number in range(1, 13)))


@given(st.integers(0, 99), st.integers(3, 30), st.data())
def test_every_missing_number_between_the_first_and_the_last_is_a_gap(
    first: int, count: int, data: st.DataObject
) -> None:
    # Of a few missing numbers: where most are missing there is no telling what the numbers mean.
    missing = data.draw(st.sets(st.integers(first + 1, first + count - 2), max_size=count // 5))
    numbers = range(first, first + count)
    planes = order_planes(named(*(f"z{number:03}.tif" for number in numbers if number not in missing)))
    assert planes == [None if n in missing else Path("scan") / f"z{n:03}.tif" for n in numbers]


@pytest.mark.parametrize(
    "names",
    [
        ("z000.tif", "z005.tif", "z010.tif", "z015.tif"),
        ("a.tif", "b.tif", "d.tif"),
        ("z1_t3.tif", "z2_t9.tif", "z4_t11.tif"),
        ("z1.tif", "z4.tif"),
        ("top.tif", "z1.tif", "z3.tif"),
    ],
    ids=["positions in um", "no numbers", "two numbers vary", "two files only", "names of two kinds"],
)
def test_names_that_do_not_count_planes_have_no_gaps(names: tuple[str, ...]) -> None:
    assert order_planes(named(*names)) == named(*names)


def test_numbers_that_are_the_same_in_all_names_do_not_count() -> None:
    names = ("brain7_z1_v2.tif", "brain7_z2_v2.tif", "brain7_z4_v2.tif", "brain7_z5_v2.tif")
    planes = order_planes(named(*names))
    assert [None if plane is None else plane.name for plane in planes] == [*names[:2], None, *names[2:]]


def test_leading_zeros_do_not_matter() -> None:
    assert order_planes(named("z010.tif", "z9.tif", "z011.tif")) == named("z9.tif", "z010.tif", "z011.tif")


def test_where_all_names_are_alike_the_folders_count() -> None:
    files = named("plane_10/image.tif", "plane_9/image.tif", "plane_12/image.tif", "plane_8/image.tif")
    found = order_planes(files)
    assert [None if plane is None else plane.parent.name for plane in found] == [
        *("plane_8", "plane_9", "plane_10", None, "plane_12")
    ]


def test_a_number_that_a_name_says_twice_counts_once() -> None:
    files = named("2_z2.tif", "3_z3.tif", "5_z5.tif")
    assert order_planes(files) == [*files[:2], None, files[2]]
