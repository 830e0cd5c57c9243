"""Patterns: which files are whose planes."""

from __future__ import annotations

import random
import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.patterns import Pattern, PatternError

LABELS = st.text("abcXYZ0189", min_size=1, max_size=6)
STACKS = st.dictionaries(LABELS, st.sets(st.integers(0, 3000), min_size=1, max_size=12), min_size=1, max_size=5)
PATTERNS = [
    "{sample}_z{z}.tif",
    "{sample}/plane_{z}.tif",
    "z{z}/{sample}.tif",
    "{sample}/{sample}_{z}.tif",
    "scan-{z}-of-{sample}.ome.tif",
    "{z}.{sample}",
]


def named(pattern: str, sample: str, z: int, width: int = 0) -> PurePosixPath:
    return PurePosixPath(pattern.replace("{sample}", sample).replace("{z}", f"{z:0{width}}"))


@given(st.sampled_from(PATTERNS), STACKS, st.integers(0, 5), st.randoms())
def test_every_stack_comes_back_with_its_planes_in_order(
    text: str, stacks: dict[str, set[int]], width: int, chance: random.Random
) -> None:
    paths = [named(text, sample, z, width) for sample, planes in stacks.items() for z in planes]
    strangers = [PurePosixPath("notes.txt"), PurePosixPath("a/b/c/d.tif")]
    shuffled = paths + strangers
    chance.shuffle(shuffled)
    found = Pattern(text).group(shuffled)
    assert {group.sample: group.files for group in found.groups} == {
        sample: tuple(named(text, sample, z, width) for z in sorted(planes)) for sample, planes in stacks.items()
    }
    assert not any(group.problem for group in found.groups)
    assert [group.sample for group in found.groups] == sorted(stacks)
    assert found.ignored == tuple(sorted(strangers))


@given(st.text("ab1_z./", min_size=1, max_size=12))
def test_a_file_is_a_plane_or_ignored_and_never_both_or_neither(name: str) -> None:
    path = PurePosixPath(name)
    found = Pattern("{sample}_z{z}.b").group([path])
    fits = re.fullmatch(r"[^/]+_z[0-9]+\.b", str(path)) is not None
    assert (len(found.groups), found.ignored) == ((1, ()) if fits else (0, (path,)))


@given(LABELS, st.integers(0, 99))
def test_text_outside_of_fields_must_match_exactly(sample: str, z: int) -> None:
    pattern = Pattern("{sample}_z{z}.tif")
    for wrong in (
        "{}_Z{}.tif",
        "{}_z{}.tiff",
        "{}_z{}xtif",
        "x/{}_z{}.tif",
        "{}_z{}.tif ",
        "{}_z-{}.tif",
        "{}_z{}a.tif",
    ):
        assert pattern.match(PurePosixPath(wrong.format(sample, z))) is None


def test_the_last_separator_separates() -> None:
    found = Pattern("{sample}_z{z}.tif").match(PurePosixPath("a_z1_z20.tif"))
    assert found is not None
    assert (found.sample, found.z) == ("a_z1", 20)


def test_a_field_that_stands_twice_has_one_value() -> None:
    pattern = Pattern("{sample}/{sample}_z{z}.tif")
    assert pattern.match(PurePosixPath("a/a_z1.tif")) is not None
    assert pattern.match(PurePosixPath("a/b_z1.tif")) is None


def test_stains_of_a_sample_are_images_of_their_own() -> None:
    found = Pattern("{sample}_{stain}_{z}.tif").group(
        map(PurePosixPath, ["1_Nissl_1.tif", "1_cfos_1.tif", "1_Nissl_2.tif"])
    )
    assert [(group.sample, group.stain, len(group.files)) for group in found.groups] == [
        ("1", "Nissl", 2),
        ("1", "cfos", 1),
    ]


def test_a_file_per_section_needs_no_z() -> None:
    found = Pattern("{sample}.ome.zarr").group(map(PurePosixPath, ["1.ome.zarr", "2.ome.zarr"]))
    assert [group.sample for group in found.groups] == ["1", "2"]
    assert not any(group.problem for group in found.groups)


def test_two_files_for_one_plane_are_the_section_s_problem() -> None:
    found = Pattern("{sample}_z{z}.tif").group(map(PurePosixPath, ["a_z1.tif", "a_z01.tif", "b_z1.tif"]))
    assert [group.problem for group in found.groups] == [
        "a_z01.tif and a_z1.tif both are plane 1: keep one of them",
        "",
    ]
    (group,) = Pattern("{stain}_x.tif").group(map(PurePosixPath, ["a_x.tif"])).groups
    assert (group.sample, group.stain) == (None, "a")


def test_a_pattern_for_one_sample_fits_its_files_alone() -> None:
    alone = Pattern(Pattern("{sample}/z{z}.tif").only("0042"))
    assert alone.match(PurePosixPath("0042/z1.tif")) is not None
    assert alone.match(PurePosixPath("0043/z1.tif")) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{sample}_{channel}_{z}.tif", "each channel is an image of its own"),
        ("{sample}_{t}.tif", "has {t}: the fields are {sample}, {z} and {stain}"),
        ("{sample}{z}.tif", "two fields side by side"),
        ("{}.tif", "the fields are"),
        ("a.tif", "has no field"),
        ("", "no path within the folder"),
        ("/a/{sample}_{z}.tif", "no path within the folder"),
        ("../{sample}_{z}.tif", "no path within the folder"),
        ("{sample}//{z}.tif", "no path within the folder"),
        ("{sample}_*.tif", "'*' outside of a field"),
        ("{sample}_{z.tif", "'{' outside of a field"),
        ("{sample}_z}.tif", "'}' outside of a field"),
    ],
)
def test_a_pattern_that_cannot_be_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(PatternError) as raised:
        Pattern(text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
