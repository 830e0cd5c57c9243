from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.hub.address import Address, AddressError, UnknownError, parse_address

KNOWN = {"brain", "brain/sourcedata/sample-1"}


def known(name: str) -> bool:
    return name in KNOWN


def test_the_longest_known_dataset_is_meant() -> None:
    assert parse_address("brain/sourcedata/sample-1/main/sub-01/x.json", known) == Address(
        "brain/sourcedata/sample-1", "main", "sub-01/x.json"
    )
    assert parse_address("brain/main/sourcedata/sample-1/x", known) == Address("brain", "main", "sourcedata/sample-1/x")


def test_a_slash_in_a_branch_is_written_percent_2f() -> None:
    assert parse_address("brain/cells%2Fana/README.md", known) == Address("brain", "cells/ana", "README.md")


def test_the_root_of_a_version_has_an_empty_path() -> None:
    assert parse_address("brain/main", known).path == ""
    assert parse_address("brain/main/", known).path == ""


@pytest.mark.parametrize(
    "raw",
    [
        "brain/main/../../etc/passwd",
        "brain/main/%2e%2e/%2e%2e/etc/passwd",
        "brain/main/a%2f..%2fb",
        "brain/main/./a",
        "brain/main/a//b",
        "brain/main/a%00b",
        "brain/main/a%0d%0ab",
        "brain/ma%0ain/a",
        "brain/main/%ff%fe",
        "brain/main/a%7f",
    ],
)
def test_paths_with_tricks_are_refused(raw: str) -> None:
    with pytest.raises(AddressError):
        parse_address(raw, known)


@pytest.mark.parametrize("raw", ["", "nobody/main/x", "..", "brain%2Fsourcedata%2Fsample-1/main/x"])
def test_unknown_datasets_are_named_as_such(raw: str) -> None:
    with pytest.raises(UnknownError, match="no dataset"):
        parse_address(raw, known)


def test_a_dataset_without_a_version_is_refused_with_an_example() -> None:
    with pytest.raises(AddressError, match="brain/main"):
        parse_address("brain", known)


segments = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="/\x7f"), min_size=1)


@given(ref=segments, path=st.lists(segments.filter(lambda s: s not in (".", "..")), max_size=4))
def test_every_address_is_read_back_from_its_url(ref: str, path: list[str]) -> None:
    address = Address("brain", ref, "/".join(path))
    if ref == "sourcedata":  # would be taken for the beginning of a section's name only if the rest matched
        return
    assert parse_address(address.url("data").removeprefix("/data/"), known) == address


@given(st.text(alphabet="./%20eE\\abrin%", max_size=30))
def test_no_accepted_path_has_a_segment_that_leaves_its_folder(tail: str) -> None:
    try:
        address = parse_address("brain/main/" + tail, known)
    except AddressError:
        return
    assert not {"", ".", ".."} & set(address.path.split("/")) or address.path == ""
