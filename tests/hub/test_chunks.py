"""The plain Zarr view: chunks of any version, as Zarr readers and hostile clients ask for them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]
import h5py
import hdf5plugin  # noqa: F401  # registers the zstd filter with HDF5
import numpy as np
import pytest
import tensorstore
import zarr
import zarrs  # noqa: F401  # registers its pipeline with zarr-python
from numpy.typing import NDArray

from nissl.federation.access import Action
from nissl.formats.image import open_image
from nissl.formats.shards import ShardReader
from tests.hub.client import Answer, ask
from tests.hub.conftest import IMAGE, SECTION
from tests.hub.versions import VersionedHub, a_versioned_hub, changed


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersionedHub]:
    with a_versioned_hub(tmp_path_factory.mktemp("versions"), public=True) as running:
        yield running


def with_tensorstore(url: str) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": url}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def with_zarr_python(url: str) -> NDArray[Any]:
    return np.asarray(zarr.open_array(url, mode="r")[:])


def with_zarrs(url: str) -> NDArray[Any]:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return np.asarray(zarr.open_array(zarr.storage.FsspecStore.from_url(url, read_only=True), mode="r")[:])


READERS: dict[str, Callable[[str], NDArray[Any]]] = {
    "tensorstore": with_tensorstore,
    "zarr-python": with_zarr_python,
    "zarrs": with_zarrs,
}
every_reader = pytest.mark.parametrize("reader", READERS)


def ask_for(hub: VersionedHub, path: str, ref: str = "main", **options: Any) -> Answer:  # noqa: ANN401
    return ask("GET", hub.zarr(ref, path), **options)


@every_reader
def test_readers_see_the_voxels_that_hdf5_has_at_every_level(reader: str, hub: VersionedHub) -> None:
    with h5py.File((hub.section / IMAGE.image).with_suffix("").with_suffix(".h5")) as file:
        assert len(file) == 4
        for level in file:
            assert np.array_equal(READERS[reader](hub.zarr("main", f"/{level}/")), file[level][:])
    assert np.array_equal(READERS[reader](hub.zarr("main", "/0/")), hub.voxels)


@every_reader
def test_readers_see_the_labels(reader: str, hub: VersionedHub) -> None:
    assert np.array_equal(READERS[reader](hub.zarr("main", "/labels/cells/0/")), hub.labels)


@every_reader
def test_each_commit_shows_its_own_voxels(reader: str, hub: VersionedHub) -> None:
    for commit, voxels in ((hub.first, hub.before), (hub.second, hub.voxels), (hub.labelled, hub.voxels)):
        assert np.array_equal(READERS[reader](hub.zarr(commit, "/0/")), voxels)


def test_the_index_of_the_labels_is_shown_too(hub: VersionedHub) -> None:
    ids = with_tensorstore(hub.zarr("main", "/labels/cells/index/ids/"))
    assert ids.tolist() == np.unique(hub.labels[hub.labels > 0]).tolist()


def test_an_image_is_reached_through_its_brain(hub: VersionedHub) -> None:
    url = f"{hub.url}/zarr/brain/main/sourcedata/sample-0042/{IMAGE.image}/0/"
    assert np.array_equal(with_tensorstore(url), hub.voxels)


def test_the_array_is_described_as_its_inner_chunks_and_otherwise_as_it_is(hub: VersionedHub) -> None:
    sharded = ask("GET", hub.zarr("main", "/0/zarr.json", surface="data")).json
    plain = ask_for(hub, "/0/zarr.json").json
    (sharding,) = sharded["codecs"]
    assert plain["chunk_grid"]["configuration"]["chunk_shape"] == [1, 64, 64]
    assert plain["codecs"] == sharding["configuration"]["codecs"]
    assert [codec["name"] for codec in plain["codecs"]] == ["bytes", "blosc", "crc32c"]
    rewritten = {"chunk_grid", "codecs"}
    assert {k: v for k, v in plain.items() if k not in rewritten} == {
        k: v for k, v in sharded.items() if k not in rewritten
    }


def test_a_group_says_all_that_lies_below_it(hub: VersionedHub) -> None:
    group = zarr.open_group(hub.zarr("main"), mode="r", use_consolidated=True)
    below = {name for name, _ in group.members(max_depth=None)}
    assert {"0", "1", "2", "3", "labels/cells", "labels/cells/0", "labels/cells/index/ids"} <= below
    labels = zarr.open_group(hub.zarr("main", "/labels"), mode="r", use_consolidated=True)
    array = labels["cells/0"]
    assert isinstance(array, zarr.Array)
    assert np.array_equal(array[:], hub.labels)
    assert "labels" not in dict(zarr.open_group(hub.zarr(hub.second), mode="r").members())


def test_a_chunk_is_what_lies_in_the_shard(hub: VersionedHub) -> None:
    with open_image(hub.section / IMAGE.image) as image:
        grid, path = image.levels[0].grid, image.levels[0].shard_path((0, 1, 2))
        with ShardReader(path, grid) as reader:
            payload = reader.payload((2, 1, 0))
    assert ask_for(hub, "/0/c/2/3/4").body == payload


def test_chunks_of_fill_value_are_missing(hub: VersionedHub) -> None:
    for chunk in ("0/0/1", "0/4/4", "2/4/5"):  # a chunk that its shard lacks, and chunks of a shard that is no file
        answer = ask_for(hub, f"/0/c/{chunk}")
        assert (answer.status, "fill value" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("chunk", "status"),
    [
        ("0/0/-1", 400),
        ("0/0/+1", 400),
        ("0/0/1.0", 400),
        ("0/0/1e1", 400),
        ("0//0", 400),
        ("/0/0", 400),
        ("0/0/0/", 400),
        ("0/0/", 400),
        ("00/0/0", 400),
        ("0/0/01", 400),
        ("0/0/%31", 400),
        ("0/0/%D9%A3", 400),
        ("0/%2e%2e/0", 400),
        ("0/../0", 400),
        ("0/0/0%00", 400),
        ("0/0/a", 400),
        ("0/99999999999999999999/0", 400),
        ("0/999999999999999999/0", 404),
        ("0", 404),
        ("0/0", 404),
        ("0/0/0/0", 404),
        ("3/0/0", 404),
        ("0/5/0", 404),
        ("0/0/7", 404),
    ],
)
def test_addresses_that_are_no_chunks_are_refused(chunk: str, status: int, hub: VersionedHub) -> None:
    answer = ask_for(hub, f"/0/c/{chunk}")
    assert answer.status == status
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text


def test_digits_of_other_scripts_that_are_not_even_quoted_are_refused(hub: VersionedHub) -> None:
    parts = urlsplit(hub.zarr("main", "/0/c/0/0/٣"))
    with socket.create_connection((parts.hostname or "", parts.port or 0), 10) as connection:
        connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"400"


@pytest.mark.parametrize("path", ["/0/c", "/0/zarr.json/x", "/4/zarr.json", "/0/c/zarr.json", "/.zgroup"])
def test_what_is_no_part_of_the_image_is_not_found(path: str, hub: VersionedHub) -> None:
    assert ask_for(hub, path).status in (400, 404)


@pytest.mark.parametrize(
    "url",
    [
        f"/zarr/{SECTION}/gone/{IMAGE.image}/0/c/0/0/0",
        f"/zarr/{SECTION}/{'0' * 40}/{IMAGE.image}/0/c/0/0/0",
        f"/zarr/{SECTION}/main/{IMAGE.image}/9/c/0/0/0",
        f"/zarr/nobody/main/{IMAGE.image}/0/c/0/0/0",
    ],
)
def test_a_chunk_of_what_is_not_there_any_more_is_not_said_to_be_zeros(url: str, hub: VersionedHub) -> None:
    assert hub.get(url).status == 424


@every_reader
def test_content_that_the_hub_lacks_is_an_error_and_never_zeros(reader: str, hub: VersionedHub) -> None:
    with hub.without("/0/c/0/0/0"):
        answer = ask_for(hub, "/0/c/0/1/1")
        assert answer.status == 424
        assert "not on this hub" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert ask_for(hub, "/0/c/0/0/2").status == 200
        with pytest.raises(Exception, match="424"):
            READERS[reader](hub.zarr("main", "/0/"))
    assert np.array_equal(READERS[reader](hub.zarr("main", "/0/")), hub.voxels)


@every_reader
@pytest.mark.parametrize("damage", ["index", "cut", "empty"])
def test_a_damaged_shard_is_an_error_and_never_zeros(reader: str, damage: str, hub: VersionedHub) -> None:
    shard = hub.object("/0/c/0/1/1")
    whole = shard.read_bytes()
    content = {"index": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[: len(whole) // 2], "empty": b""}[damage]
    assert ask_for(hub, "/0/c/2/3/3").status == 200
    with changed(shard, content):
        answer = ask_for(hub, "/0/c/2/3/3")
        assert answer.status == 424
        assert "damaged" in answer.text
        assert str(hub.root.path) not in answer.text
        with pytest.raises(Exception, match="424"):
            READERS[reader](hub.zarr("main", "/0/"))
    assert ask_for(hub, "/0/c/2/3/3").status == 200


def test_a_flipped_bit_in_a_chunk_is_the_readers_error(hub: VersionedHub) -> None:
    shard = hub.object("/0/c/0/0/0")
    broken = bytearray(shard.read_bytes())
    broken[-2000] ^= 4
    with changed(shard, bytes(broken)), pytest.raises(Exception, match=r"(?i)checksum|corrupt|data"):
        with_tensorstore(hub.zarr("main", "/0/"))


@pytest.mark.parametrize("path", ["/0/c/0/0/0", "/0/zarr.json", "/zarr.json"])
def test_validators_head_and_caching(path: str, hub: VersionedHub) -> None:
    whole = ask_for(hub, path)
    tag = whole.headers["ETag"]
    again = ask_for(hub, path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert ask_for(hub, path, headers={"If-None-Match": '"other"'}).status == 200
    head = ask("HEAD", hub.zarr("main", path))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole.body)))
    assert whole.headers["Cache-Control"] == "no-cache"
    pinned = ask_for(hub, path, hub.labelled)
    assert "immutable" in pinned.headers["Cache-Control"]
    assert pinned.headers["X-Nissl-Commit"] == hub.labelled
    part = ask_for(hub, path, headers={"Range": "bytes=3-9"})
    assert (part.status, part.body) == (206, whole.body[3:10])
    assert part.headers["Content-Range"] == f"bytes 3-9/{len(whole.body)}"
    assert ask_for(hub, path, headers={"Range": "bytes=3-9", "If-Range": '"other"'}).body == whole.body


def test_a_chunk_that_did_not_change_keeps_its_tag_and_one_that_did_does_not(hub: VersionedHub) -> None:
    tags = [ask_for(hub, "/0/c/0/0/0", ref).headers["ETag"] for ref in (hub.first, hub.second, hub.labelled)]
    assert tags[0] != tags[1] == tags[2]


def test_viewers_on_other_sites_may_read_chunks(hub: VersionedHub) -> None:
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}
    assert ask("OPTIONS", hub.zarr("main", "/0/c/0/0/0"), headers=asked).status == 204
    for chunk, status in (("0/0/0", 200), ("0/0/1", 404), ("0/0/-1", 400)):
        answer = ask_for(hub, f"/0/c/{chunk}")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")


def test_a_branch_that_moves_shows_its_new_voxels_at_once(hub: VersionedHub) -> None:
    set_branch(hub, "moving", hub.first)
    assert np.array_equal(with_tensorstore(hub.zarr("moving", "/0/")), hub.before)
    set_branch(hub, "moving", hub.second)
    assert np.array_equal(with_tensorstore(hub.zarr("moving", "/0/")), hub.voxels)
    git(hub, "pack-refs", "--all")
    assert ask_for(hub, "/0/c/0/0/0", "moving").headers["X-Nissl-Commit"] == hub.second
    set_branch(hub, "moving", hub.first)
    assert ask_for(hub, "/0/c/0/0/0", "moving").headers["X-Nissl-Commit"] == hub.first


def test_tags_short_commits_and_branches_with_a_slash_name_versions(hub: VersionedHub) -> None:
    git(hub, "tag", "-f", "-a", "-m", "first", "release/1", hub.first)
    set_branch(hub, "cells/ana", hub.second)
    for ref, commit in (("release%2F1", hub.first), ("cells%2Fana", hub.second), (hub.first[:9], hub.first)):
        for _ in range(2):  # looked for, and remembered
            answer = ask_for(hub, "/0/c/0/0/0", ref)
            assert (answer.status, answer.headers["X-Nissl-Commit"]) == (200, commit)
            assert answer.headers["Cache-Control"] == "no-cache"


def test_only_chunks_that_cannot_be_had_are_logged(hub: VersionedHub) -> None:
    log = hub.root.path / "serve.log"
    before = log.stat().st_size
    with hub.without("/0/c/0/0/0"):
        for chunk in ("0/0/0", "0/0/2", "0/4/4", "0/0/-1"):
            ask_for(hub, f"/0/c/{chunk}")
        ask_for(hub, "/last")  # a line is written after its answer was sent
    until_it_is(True, lambda: b"/last" in log.read_bytes()[before:])
    lines = [line for line in log.read_bytes()[before:].decode().splitlines() if "/0/c/" in line]
    assert [('" 424 ' in line, '" 400 ' in line) for line in lines] == [(True, False), (False, True)]


def test_concurrent_readers_get_their_own_chunks(hub: VersionedHub) -> None:
    expected = {
        (commit, chunk): ask_for(hub, f"/0/c/{chunk}", commit).body
        for commit in (hub.first, hub.second)
        for chunk in ("0/0/0", "1/2/3", "2/3/1", "0/4/6")
    }
    wanted = list(expected) * 40
    with ThreadPoolExecutor(16) as pool:
        bodies = pool.map(lambda which: ask_for(hub, f"/0/c/{which[1]}", which[0]).body, wanted)
    assert all(body == expected[which] for which, body in zip(wanted, bodies, strict=True))


@pytest.mark.slow
def test_a_private_hub_shows_chunks_only_with_a_token_for_their_dataset(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with a_versioned_hub(tmp_path_factory.mktemp("private-versions"), public=False) as hub:
        good = hub.token(Action.READ, datasets=(SECTION,))
        through_brain = f"{hub.url}/zarr/brain/main/sourcedata/sample-0042/{IMAGE.image}/0/c/0/0/0"
        brain = hub.token(Action.READ, datasets=("brain",))
        for path in ("/0/c/0/0/0", "/0/zarr.json", "/zarr.json", ""):
            for _ in range(2):  # what is remembered opens nothing
                assert ask_for(hub, path, token=good).status == 200
                assert ask_for(hub, path).status == 401
                assert ask_for(hub, path, token=hub.token(Action.READ, datasets=("other",))).status == 403
                assert ask_for(hub, path, token=hub.token(Action.WRITE)).status == 403
                assert ask_for(hub, path, token=good[:-6] + "AAAAAA").status == 401
                assert ask_for(hub, path, token=hub.token(Action.READ, life=timedelta(seconds=-5))).status == 401
        assert ask("GET", through_brain, token=brain).status == 200
        assert ask("GET", through_brain, token=good).status == 403
        assert ask_for(hub, "/0/c/0/0/0", "gone").status == 401
        soon = hub.token(Action.READ, life=timedelta(seconds=2))
        assert ask_for(hub, "/0/c/0/0/0", token=soon).status == 200
        until_it_is(401, lambda: ask_for(hub, "/0/c/0/0/0", token=soon).status)


@pytest.mark.parametrize("surface", ["zarr", "data"])
def test_fsspec_lists_finds_and_globs(surface: str, hub: VersionedHub) -> None:
    files = fsspec.filesystem("http", skip_instance_cache=True)
    image = hub.zarr("main", surface=surface)
    for url in (image, image + "/"):
        names = {name.rstrip("/").rpartition("/")[2] for name in files.ls(url, detail=False)}
        assert names == {"0", "1", "2", "3", "labels", "zarr.json"}
    arrays = {f"{image}/{level}/zarr.json" for level in range(4)}
    assert arrays <= set(files.glob(f"{image}/*/zarr.json"))
    found = set(files.find(image))
    assert arrays | {f"{image}/zarr.json", f"{image}/labels/cells/zarr.json"} <= found
    assert (f"{image}/0/c/0/0/0" in found) == (surface == "data")
    assert {root for root, _, _ in files.walk(f"{image}/labels")} >= {f"{image}/labels/cells/0"}
    assert files.isdir(f"{image}/labels")
    assert not files.exists(f"{image}/nothing")


def test_folders_are_json_for_programs_and_links_for_people(hub: VersionedHub) -> None:
    for headers in ({}, {"Accept": "application/json"}, {"Accept": "application/json, */*;q=0.5"}):
        entries = ask_for(hub, "", headers=headers).json["entries"]
        assert {"name": "zarr.json", "kind": "file"} in entries
        assert {"name": "0", "kind": "folder"} in entries
    page = ask_for(hub, "/0", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'href="zarr.json"' in page.text
    assert 'href="c/"' not in page.text  # a section has a million chunks


def until_it_is(expected: object, look: Callable[[], object]) -> None:
    for _ in range(100):
        if look() == expected:
            return
        time.sleep(0.1)
    pytest.fail(f"it never was {expected}")


def set_branch(hub: VersionedHub, branch: str, commit: str) -> None:
    git(hub, "update-ref", f"refs/heads/{branch}", commit)


def git(hub: VersionedHub, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=hub.root.repository(SECTION), check=True, capture_output=True)
