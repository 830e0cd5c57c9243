"""Names of samples and images, and the paths that follow from them."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.names import SUFFIXES, ImageName, NameFormError, check_label

LABELS = st.from_regex(r"[0-9A-Za-z]+", fullmatch=True)


@given(subject=LABELS, sample=LABELS, stain=st.none() | LABELS, suffix=st.sampled_from(SUFFIXES))
def test_every_path_of_an_image_stays_inside_its_section(
    subject: str, sample: str, stain: str | None, suffix: str
) -> None:
    name = ImageName(subject, sample, stain, suffix)
    assert name.section == PurePosixPath("sourcedata", f"sample-{sample}")
    for path in name.paths:
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert path.parts[0] in (f"sub-{subject}", "provenance")
        assert path.name.startswith(name.stem)


@given(a=st.tuples(LABELS, st.none() | LABELS), b=st.tuples(LABELS, st.none() | LABELS))
def test_different_images_never_share_a_path(a: tuple[str, str | None], b: tuple[str, str | None]) -> None:
    one, other = (ImageName("01", sample, stain, "BF") for sample, stain in (a, b))
    assert (one == other) == bool(set(one.paths) & set(other.paths))


@given(st.text().filter(lambda text: not (text.isascii() and text.isalnum())))
def test_a_label_with_anything_but_letters_and_digits_is_refused_and_named(text: str) -> None:
    with pytest.raises(NameFormError, match="use letters and digits only") as refused:
        check_label("sample", text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("suffix", ["bf", "TIFF", "", "BF\n", "../BF"])
def test_a_modality_that_bids_does_not_know_is_refused_with_those_it_knows(suffix: str) -> None:
    with pytest.raises(NameFormError, match="TEM, SEM, uCT, BF"):
        ImageName("01", "0042", None, suffix)


def test_an_image_is_named_as_bids_wants_it() -> None:
    name = ImageName("01", "0042", "Nissl", "BF")
    assert str(name.image) == "sub-01/micr/sub-01_sample-0042_stain-Nissl_BF.ome.zarr"
    assert str(name.virtual) == "sub-01/micr/sub-01_sample-0042_stain-Nissl_BF.h5"
    assert str(name.sidecar) == "sub-01/micr/sub-01_sample-0042_stain-Nissl_BF.json"
