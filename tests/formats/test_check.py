"""What `check` finds: every kind of damage is named, and what is whole or absent is never called damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the zstd filter with HDF5
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nissl.formats.check import (
    Checked,
    Part,
    Places,
    check_image,
    check_shard,
    disagreements,
    evenly,
    identity_of,
    misplaced,
)
from nissl.formats.codec import ZstdCodec
from nissl.formats.grid import ShardGrid
from nissl.formats.image import open_image
from nissl.formats.labels import build_labels, plan_labels
from nissl.formats.shard_index import decode_index, encode_index, index_nbytes
from nissl.formats.shards import DATASET, DamagedShardError, ShardReader
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew
from tests.formats.formats_model import CODECS, a_picture, build, read_whole, shards_of, virtual_path, write_planes

POINTER = "/annex/objects/SHA256E-s166060--9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"


@pytest.fixture(scope="module", params=["zstd", "bitshuffle-zstd"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 2 x 2 shards with two levels below, one chunk of it black; no test changes it."""
    folder = tmp_path_factory.mktemp("pristine")
    voxels = a_picture((2, 200, 230))
    voxels[1, 64:128, :64] = 0
    source = open_tiff_stack(write_planes(folder / "tiff", voxels))
    return build(source, folder / "a.ome.zarr", chunk_edge=64, shard_edge=128, codec=CODECS[request.param])


@pytest.fixture
def image(pristine: Path, tmp_path: Path) -> Path:
    """A copy for a test to damage."""
    shutil.copy(virtual_path(pristine), tmp_path)
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def checked(folder: Path, sample: int | None = None) -> Checked:
    return check_image(folder, virtual=virtual_path(folder), sample=sample, jobs=1)


def checked_shard(path: Path, level: int = 0) -> Checked:
    """One shard of an image, found by its path."""
    folder = path.parents[3]
    with open_image(folder.parent) as image:
        one = image.levels[level]
        shard = tuple(map(int, path.relative_to(folder / "c").parts))
        return check_shard(path, one, shard, identity_of(image, level), sample=None)


def edit(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(path: Path, at: int) -> None:
    def change(data: bytearray) -> None:
        data[at] ^= 4

    edit(path, change)


def chunk_places(path: Path) -> dict[tuple[int, ...], tuple[int, int]]:
    """Where HDF5 has each chunk."""
    with h5py.File(path) as file:
        dataset = file[DATASET]
        infos = [dataset.id.get_chunk_info(n) for n in range(dataset.id.get_num_chunks())]
        return {
            tuple(o // c for o, c in zip(i.chunk_offset, dataset.chunks, strict=True)): (i.byte_offset, i.size)
            for i in infos
        }


def test_a_whole_image_has_no_findings_and_every_chunk_was_read(image: Path) -> None:
    result = checked(image)
    assert result.findings == ()
    assert result.absent == ()
    assert result.shards == len([*shards_of(image), *shards_of(image, 1), *shards_of(image, 2)])
    assert result.chunks == result.chunks_read == 2 * 16 - 1 + 2 * 4 + 2


def test_a_sample_reads_as_many_chunks_of_each_shard_as_it_says(image: Path) -> None:
    result = checked(image, sample=2)
    assert result.findings == ()
    assert result.chunks_read == 2 * result.shards < result.chunks


@pytest.mark.parametrize("axes", [2, 3])
def test_whole_labels_have_no_findings(axes: int, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (70, 80, 90), dtype=np.uint32) + 5
    source = open_tiff_stack(write_planes(tmp_path / "tiff", ids))
    size = (1.0, 1.0, 1.0) if axes == 3 else (5.0, 1.0, 1.0)
    plan = plan_labels(source, "bodies", size, codec=ZstdCodec(1), chunk_edge=32, shard_edge=64)
    assert plan.halved_axes == axes
    build_labels(source, tmp_path / "bodies", plan, crew=LocalCrew(1))
    result = check_image(tmp_path / "bodies", sample=None, jobs=1)
    assert result.findings == ()
    assert result.chunks_read > 0


def test_absent_shards_are_listed_and_are_no_damage(image: Path) -> None:
    first, second, *_ = shards_of(image)
    first.write_text(POINTER)
    second.unlink()
    second.symlink_to("../../.git/annex/objects/aa/bb/SHA256E-s1--0/SHA256E-s1--0")
    result = checked(image)
    assert result.findings == ()
    assert set(result.absent) == {first, second}


def test_a_damaged_chunk_is_named(image: Path) -> None:
    path = shards_of(image)[1]
    offset, size = chunk_places(path)[1, 0, 1]
    flip(path, offset + size // 2)
    (finding,) = checked(image).findings
    assert (finding.path, finding.chunk, finding.part) == (path, (1, 0, 1), Part.CHUNK)
    assert finding.sentence.startswith(f"{path}, chunk (1, 0, 1), is damaged (")


def test_a_chunk_that_only_hdf5_refuses_is_found(image: Path) -> None:
    path = shards_of(image)[0]
    offset, size = chunk_places(path)[0, 1, 1]
    flip(path, offset + size - 1)
    (finding,) = checked(image).findings
    assert (finding.chunk, finding.part) == ((0, 1, 1), Part.CHUNK)
    assert "Fletcher-32" in finding.problem


def test_a_damaged_index_is_found_and_the_chunks_are_still_looked_at(image: Path) -> None:
    path = shards_of(image)[0]
    flip(path, 3)
    result = checked(image)
    (finding,) = result.findings
    assert (finding.path, finding.part) == (path, Part.INDEX)
    assert result.chunks_read == result.chunks == 41


def test_an_index_that_is_whole_but_not_this_shards_is_found_chunk_by_chunk(image: Path) -> None:
    path = shards_of(image)[0]

    def exchange(data: bytearray) -> None:
        index = decode_index(bytes(data[: index_nbytes(8)])).copy()
        index[[0, 1]] = index[[1, 0]]
        data[: index_nbytes(8)] = encode_index(index)

    edit(path, exchange)
    found = checked(image).findings
    assert {finding.chunk for finding in found} == {(0, 0, 0), (0, 0, 1)}
    assert {finding.part for finding in found} == {Part.INDEX}


def test_shards_that_have_changed_places_are_found_by_what_they_say_about_themselves(image: Path) -> None:
    first, second = shards_of(image)[0], image / "0/c/0/1/0"
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    found = [finding for finding in checked(image).findings if "origin" in finding.problem]
    assert {finding.path for finding in found} == {first, second}


def test_a_shard_cut_short_is_found(image: Path) -> None:
    path = shards_of(image)[0]
    os.truncate(path, path.stat().st_size - 1)
    found = [finding for finding in checked(image).findings if finding.path == path]
    assert found


def test_bytes_behind_a_shards_end_are_found(image: Path) -> None:
    path = shards_of(image)[0]
    path.write_bytes(path.read_bytes() + b"more")
    (finding,) = checked(image).findings
    assert "bytes, but HDF5 has written" in finding.problem


def test_a_lost_shard_is_missed_by_the_virtual_file(image: Path) -> None:
    shards_of(image)[2].unlink()
    (finding,) = checked(image).findings
    assert finding.path == virtual_path(image)
    assert finding.problem.endswith("0/c/0/1/0, which is gone")


def test_a_lost_virtual_file_is_found(image: Path) -> None:
    virtual_path(image).unlink()
    (finding,) = checked(image).findings
    assert "is missing" in finding.problem


def test_a_stray_file_among_the_shards_is_found(image: Path) -> None:
    stray = image / "0/c/0/0/.0.123.part"
    stray.write_bytes(b"half")
    (finding,) = checked(image).findings
    assert (finding.path, finding.remedy) == (stray, "move it away")


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def set_item(*keys: Any, value: Any) -> Callable[[Any], None]:  # noqa: ANN401
    def change(document: Any) -> None:  # noqa: ANN401
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


MULTISCALE = ("attributes", "ome", "multiscales", 0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("zarr.json", set_item("attributes", "ome", "version", value="0.4")),
        ("zarr.json", set_item(*MULTISCALE, "axes", 0, "unit", value="meter")),
        ("zarr.json", set_item(*MULTISCALE, "datasets", 1, "coordinateTransformations", 0, "scale", value=[5, 9, 2])),
        ("zarr.json", set_item(*MULTISCALE, "datasets", 1, "coordinateTransformations", value=[])),
        ("zarr.json", set_item(*MULTISCALE, value={})),
        ("1/zarr.json", set_item("fill_value", value=7)),
        ("1/zarr.json", set_item("shape", value=[2, 100, 116])),
        ("1/zarr.json", set_item("data_type", value="int16")),
        ("1/zarr.json", set_item("dimension_names", value=["z", "x", "y"])),
        ("1/zarr.json", set_item("codecs", value=[])),
        ("1/zarr.json", set_item("codecs", 0, "configuration", "codecs", 1, "configuration", value={"level": 3})),
        ("1/zarr.json", set_item("codecs", 0, "configuration", "codecs", 0, "configuration", "endian", value="big")),
        ("1/zarr.json", set_item("codecs", 0, "configuration", "codecs", 1, value={"name": "gzip"})),
    ],
)
def test_metadata_that_contradicts_itself_or_the_format_is_found(
    name: str, change: Callable[[Any], None], image: Path
) -> None:
    rewrite(image / name, change)
    assert any(finding.part is Part.METADATA for finding in checked(image).findings)


def test_metadata_that_people_may_change_is_left_alone(image: Path) -> None:
    rewrite(image / "zarr.json", set_item("attributes", "ome", "omero", "channels", 0, "color", value="00FF00"))
    rewrite(image / "zarr.json", set_item(*MULTISCALE, "name", value="my favourite"))
    assert checked(image).findings == ()


def test_a_missing_document_is_one_finding(image: Path) -> None:
    (image / "1" / "zarr.json").unlink()
    (finding,) = checked(image).findings
    assert "1/zarr.json is missing" in finding.sentence


def test_the_views_of_a_shard_are_compared_chunk_by_chunk() -> None:
    named: Places = {(0, 0): (512, 10), (0, 1): (600, 10), (1, 1): (700, 10)}
    stored: Places = {(0, 0): (512, 14), (0, 1): (600, 15), (1, 0): (800, 14)}
    assert {chunk: problem.split()[0:2] for chunk, problem in disagreements(named, stored)} == {
        (0, 1): ["is", "10"],
        (1, 0): ["is", "stored"],
        (1, 1): ["is", "named"],
    }


def test_chunks_on_top_of_each_other_or_outside_the_file_or_the_array_are_found() -> None:
    grid = ShardGrid((4, 4), (8, 4), (2, 2))
    room = range(512, 1000)
    assert list(misplaced({(0, 0): (512, 10), (1, 0): (522, 478)}, room, grid, (0, 0))) == []
    assert [c for c, _ in misplaced({(0, 0): (512, 10), (1, 0): (521, 9)}, room, grid, (0, 0))] == [(1, 0)]
    assert [c for c, _ in misplaced({(0, 0): (511, 10)}, room, grid, (0, 0))] == [(0, 0)]
    assert [c for c, _ in misplaced({(0, 0): (990, 11)}, room, grid, (0, 0))] == [(0, 0)]
    assert [c for c, _ in misplaced({(2, 0): (512, 10)}, room, grid, (0, 0))] == [(2, 0)]
    # A long chunk covers more than the one that follows it.
    over: Places = {(0, 0): (512, 100), (0, 1): (520, 10), (1, 0): (540, 10)}
    assert [c for c, _ in misplaced(over, room, grid, (0, 0))] == [(0, 1), (1, 0)]


@given(st.integers(0, 40), st.integers(1, 50))
def test_a_sample_is_evenly_spaced_and_has_both_ends(total: int, count: int) -> None:
    chunks = [(n,) for n in range(total)]
    sample = evenly(chunks, count)
    assert len(sample) == len(set(sample)) == min(total, count)
    assert sample == sorted(sample)
    if count > 1 and total:
        assert (sample[0], sample[-1]) == (chunks[0], chunks[-1])
    assert evenly(chunks, None) == chunks


def test_a_frame_that_says_it_has_no_checksum_is_refused() -> None:
    payload = bytearray(ZstdCodec().encode(bytes(1000)))
    payload[4] ^= 4  # Content_Checksum_flag of the frame header descriptor (RFC 8878)
    with pytest.raises(Exception, match="no content checksum"):
        ZstdCodec().decode(bytes(payload), 1000)


def test_a_frame_of_another_size_is_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(Exception, match="holds 1000 bytes instead of 999"):
        ZstdCodec().decode(ZstdCodec().encode(bytes(1000)), 999)


def test_two_words_that_fletcher_32_takes_for_one_are_silent_in_hdf5_and_found_by_everybody_else(
    tmp_path: Path,
) -> None:
    # Fletcher-32 counts modulo 65535: 0000 and ffff are the same to it. No better filter is built into HDF5.
    noise = np.random.default_rng(0).integers(0, 65536, (1, 64, 64), dtype=np.uint16)
    noise[0, 30] = 0
    source = open_tiff_stack(write_planes(tmp_path / "tiff", noise))
    folder = build(source, tmp_path / "a.ome.zarr", chunk_edge=64)
    (path,) = shards_of(folder)
    ((offset, size),) = chunk_places(path).values()
    at = path.read_bytes()[offset : offset + size].find(bytes(40))
    assert at > 0
    at += offset + at % 2

    def exchange(data: bytearray) -> None:
        data[at : at + 2] = b"\xff\xff"

    edit(path, exchange)
    with h5py.File(path) as file:
        assert not np.array_equal(file[DATASET][...], noise)
    assert checked(folder).findings[0].part is Part.CHUNK
    for read in (by_nissl, by_nissl_chunks, by_zarr):
        assert isinstance(seen(read, folder, path), Exception)


# One thousand corruptions, and every reader.

GRID_EDGE = 64


@pytest.fixture(scope="module", params=["zstd", "bitshuffle-zstd", "bitshuffle-lz4"])
def small_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of one shard: 18 chunks, one of them black."""
    folder = tmp_path_factory.mktemp("small")
    voxels = a_picture((2, 40, 44))
    voxels[1, 16:32, :16] = 0
    source = open_tiff_stack(write_planes(folder / "tiff", voxels))
    return build(source, folder / "a.ome.zarr", chunk_edge=16, shard_edge=GRID_EDGE, codec=CODECS[request.param])


def corruptions(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """What disks, networks and programs do to files."""
    generator = random.Random(seed)
    header = 6000  # the user block and HDF5's metadata: few bytes of a real shard, but the ones that decide
    number = made = 0
    while made < count:
        number += 1
        damaged = bytearray(data)
        within = range(len(data)) if number % 2 else range(min(header, len(data)))
        kind = number % 8
        if kind < 4:
            at = generator.choice(within)
            bits = generator.choice((1, 1, 1, 2, 3))
            for _ in range(bits):
                damaged[at] ^= 1 << generator.randrange(8)
                at = (at + generator.randrange(3)) % len(data)
            what = f"{bits} bits at {at}"
        elif kind < 6:
            at, length = generator.choice(within), generator.choice((2, 4, 8, 16, 64, 512, 4096))
            fill = generator.choice((bytes(length), b"\xff" * length, generator.randbytes(length)))
            damaged[at : at + length] = fill[: len(data) - at]
            what = f"{length} bytes at {at}"
        elif kind == 6:
            length = generator.choice((generator.randrange(len(data)), len(data) - 1, len(data) - 5, 512, 100, 0))
            del damaged[length:]
            what = f"cut to {length}"
        else:
            length = generator.choice((1, 4, 512, 5000))
            at = generator.choice((len(data), len(data), generator.choice(within)))
            damaged[at:at] = generator.randbytes(length)
            what = f"{length} bytes inserted at {at}"
        if damaged != data:
            made += 1
            yield f"{number}: {what}", bytes(damaged)


def by_nissl(folder: Path, _: Path) -> NDArray[Any]:
    with open_image(folder) as image:
        return read_whole(image.levels[0])


def by_nissl_chunks(folder: Path, path: Path) -> NDArray[Any]:
    """With the reader that allocates each chunk anew."""
    with open_image(folder) as image:
        level = image.levels[0]
    voxels = np.zeros(level.grid.shard_shape, level.dtype)
    with ShardReader(path, level.grid, level.codec) as reader:
        for chunk in level.grid.chunks_of((0, 0, 0)):
            content = reader.chunk(chunk, level.dtype)
            if content is not None:
                start = [i * c for i, c in zip(chunk, level.grid.chunk_shape, strict=True)]
                voxels[tuple(slice(a, a + c) for a, c in zip(start, level.grid.chunk_shape, strict=True))] = content
    return voxels[tuple(map(slice, level.shape))]


def by_zarr(folder: Path, _: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(folder / "0", mode="r")[...])


def by_hdf5(_: Path, path: Path) -> NDArray[Any]:
    with h5py.File(path, locking=False) as file:
        return np.asarray(file[DATASET][...])


def seen(read: Callable[[Path, Path], NDArray[Any]], folder: Path, path: Path) -> NDArray[Any] | Exception:
    try:
        return read(folder, path)
    except Exception as error:  # noqa: BLE001 - every library has its own kinds; any of them is an error and no voxels
        return error


def assert_never_silent(folder: Path, path: Path, count: int, seed: int) -> dict[str, int]:
    """Damage the shard at `path` in `count` ways. Returns how many of them the check and each reader noticed."""
    readers = {"nissl": by_nissl, "nissl, chunks": by_nissl_chunks, "zarr": by_zarr, "hdf5": by_hdf5}
    data = path.read_bytes()
    truth = {name: read(folder, path) for name, read in readers.items()}
    noticed = dict.fromkeys(["all", "check", "zarr, empty", *readers], 0)
    silent = []
    for what, damaged in corruptions(data, count, seed):
        path.write_bytes(damaged)
        found = checked_shard(path)
        assert not found.absent
        noticed["all"] += 1
        noticed["check"] += bool(found.findings)
        for name, read in readers.items():
            voxels = seen(read, folder, path)
            if isinstance(voxels, Exception):
                noticed[name] += 1
                if name.startswith("nissl"):
                    assert isinstance(voxels, DamagedShardError), (what, name, voxels)
                if not found.findings:
                    silent.append(f"{what}: {name} fails ({voxels}) and check is content")
            elif name == "zarr" and not damaged:
                noticed["zarr, empty"] += 1  # zarr-python takes a file of no bytes for a shard that was never written
            elif voxels.shape != truth[name].shape or not np.array_equal(voxels, truth[name]):
                silent.append(f"{what}: {name} sees other voxels, check says {found.findings[:1]}")
    path.write_bytes(data)
    assert silent == []
    return noticed


def test_a_hundred_random_corruptions_never_change_a_voxel_silently(small_image: Path) -> None:
    noticed = assert_never_silent(small_image, shards_of(small_image)[0], 100, seed=1)
    assert noticed["check"] > 0.8 * noticed["all"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_random_corruptions_never_change_a_voxel_silently(small_image: Path) -> None:
    noticed = assert_never_silent(small_image, shards_of(small_image)[0], 1000, seed=2026)
    assert noticed["all"] == 1000
    assert noticed["check"] > 0.9 * noticed["all"]
    assert noticed["nissl"] == noticed["nissl, chunks"]
