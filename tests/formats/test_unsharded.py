from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nissl.formats.codec import ZstdCodec
from nissl.formats.grid import ShardGrid
from nissl.formats.ome import array_document
from nissl.formats.unsharded import consolidate, unshard

GRID = ShardGrid((3, 300, 400), (3, 128, 128), (1, 64, 64))


def a_document(grid: ShardGrid = GRID) -> dict[str, Any]:
    return array_document(grid, np.dtype("uint16"), ZstdCodec(3), ("z", "y", "x"))


def test_a_sharded_array_becomes_one_of_inner_chunks_and_the_original_stays_as_it_is() -> None:
    document = a_document()
    before = copy.deepcopy(document)
    plain = unshard(document).document
    assert document == before
    assert plain["chunk_grid"] == {"name": "regular", "configuration": {"chunk_shape": [1, 64, 64]}}
    assert [codec["name"] for codec in plain["codecs"]] == ["bytes", "zstd"]


@pytest.mark.parametrize(
    ("chunk", "located"),
    [
        ((0, 0, 0), ((0, 0, 0), (0, 0, 0))),
        ((2, 3, 5), ((0, 1, 2), (2, 1, 1))),
        ((2, 4, 6), ((0, 2, 3), (2, 0, 0))),
        ((3, 0, 0), None),
        ((0, 5, 0), None),  # inside the last shard, outside the array
        ((0, 0, 7), None),
        ((0, 0), None),
        ((0, 0, 0, 0), None),
        ((), None),
    ],
)
def test_a_chunk_of_the_array_lies_in_a_shard(chunk: tuple[int, ...], located: object) -> None:
    assert unshard(a_document()).locate(chunk) == located


def test_an_empty_list_has_no_chunks() -> None:
    plain = unshard({**a_document(ShardGrid((1,), (8,), (4,))), "shape": [0]})
    assert plain.document["shape"] == [0]
    assert plain.locate((0,)) is None


def _at_the_end(document: dict[str, Any]) -> None:
    document["codecs"][0]["configuration"]["index_location"] = "end"


def _compressed_index(document: dict[str, Any]) -> None:
    document["codecs"][0]["configuration"]["index_codecs"].append({"name": "zstd"})


def _codec_behind(document: dict[str, Any]) -> None:
    document["codecs"].append({"name": "crc32c"})


def _plain(document: dict[str, Any]) -> None:
    document["codecs"] = [{"name": "bytes"}]


def _other_keys(document: dict[str, Any]) -> None:
    document["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "."}}


def _uneven(document: dict[str, Any]) -> None:
    document["codecs"][0]["configuration"]["chunk_shape"] = [1, 50, 64]


def _endless(document: dict[str, Any]) -> None:
    document["chunk_grid"]["configuration"]["chunk_shape"] = [10**9, 64, 64]


def _fractions(document: dict[str, Any]) -> None:
    document["shape"] = [3, 300.5, 400]


def _nothing(document: dict[str, Any]) -> None:
    document.clear()


@pytest.mark.parametrize(
    "spoil",
    [_at_the_end, _compressed_index, _codec_behind, _plain, _other_keys, _uneven, _endless, _fractions, _nothing],
)
def test_arrays_that_are_sharded_in_another_way_are_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    document = a_document()
    spoil(document)
    with pytest.raises((ValueError, KeyError, TypeError)):
        unshard(document)


def test_consolidating_leaves_out_what_no_group_leads_to() -> None:
    group = {"zarr_format": 3, "node_type": "group"}
    nodes: dict[str, dict[str, Any]] = {"labels/a/0": a_document(), "labels": group, "labels/a": group, "lost/0": group}
    nodes["0"], nodes["0/inside"] = a_document(), group
    consolidated = consolidate(group, nodes)["consolidated_metadata"]
    assert list(consolidated["metadata"]) == ["0", "labels", "labels/a", "labels/a/0"]
    assert (consolidated["kind"], consolidated["must_understand"]) == ("inline", False)
