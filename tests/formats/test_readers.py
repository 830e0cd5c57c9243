"""The same voxels, or an error, whoever reads: our reader, h5py, zarr-python, zarrs, tensorstore.

Where another reader cannot be made to notice, a test says what it does instead, so that a better release is noticed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.grid import Box
from nissl.formats.image import NotAnImageError, open_image
from nissl.formats.shards import AbsentShardError, DamagedShardError, ShardReader
from nissl.formats.tiff import open_tiff_stack
from tests.formats.formats_model import (
    CODECS,
    READERS,
    a_picture,
    build,
    shards_of,
    slow_pyramid,
    virtual_path,
    with_nissl,
    with_virtual_hdf5,
    write_planes,
)

CHUNK = 64
POINTER = "/annex/objects/SHA256E-s166060--9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"

every_reader = pytest.mark.parametrize("reader", READERS)


def readers_but(*left_out: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("reader", [name for name in READERS if name not in left_out])


def readers(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("reader", names)


VOXELS = a_picture((3, 270, 333))
VOXELS[:, 64:128, 64:128] = 0  # a chunk that is missing in each plane
VOXELS[:, 256:, 256:] = 0  # a shard that is not written


@pytest.fixture(scope="module", params=["zstd", "bitshuffle-zstd"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 2 x 2 shards of 256, of which one holds only fill value."""
    folder = tmp_path_factory.mktemp("image")
    source = open_tiff_stack(write_planes(folder / "tiff", VOXELS))
    return build(source, folder / "section.ome.zarr", chunk_edge=CHUNK, codec=CODECS[request.param])


@pytest.fixture
def image(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copy(virtual_path(pristine), tmp_path)
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


@every_reader
def test_every_reader_sees_the_same_voxels_at_every_level(reader: str, pristine: Path) -> None:
    for number, expected in enumerate(slow_pyramid(VOXELS, CHUNK)):
        voxels = READERS[reader](pristine, number)
        assert voxels.dtype == expected.dtype
        assert np.array_equal(voxels, expected)


@every_reader
@pytest.mark.parametrize("codec", CODECS)
def test_every_reader_sees_the_same_colours(reader: str, codec: str, tmp_path: Path) -> None:
    colours = np.moveaxis(a_picture((3, 2, 70, 90), "uint8"), 0, -1)
    source = open_tiff_stack(write_planes(tmp_path / "tiff", colours))
    folder = build(source, tmp_path / "rgb.ome.zarr", chunk_edge=32, codec=CODECS[codec])
    for number, expected in enumerate(slow_pyramid(np.moveaxis(colours, -1, 0), 32)):
        assert np.array_equal(READERS[reader](folder, number), expected)


@every_reader
def test_every_reader_sees_the_real_stack(reader: str, real_image: tuple[Path, NDArray[np.uint16]]) -> None:
    folder, voxels = real_image
    assert np.array_equal(READERS[reader](folder, 0), voxels)


@pytest.fixture(scope="module", params=CODECS)
def real_image(
    request: pytest.FixtureRequest, zstack_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, NDArray[np.uint16]]:
    import tifffile

    voxels = np.stack([tifffile.imread(file) for file in zstack_files])
    folder = tmp_path_factory.mktemp("real") / "cortex.ome.zarr"
    build(open_tiff_stack(zstack_files), folder, chunk_edge=128, shard_edge=512, jobs=2, codec=CODECS[request.param])
    return folder, voxels


def first_chunk_of(shard: Path, image: Path) -> tuple[int, int]:
    with open_image(image) as opened, ShardReader(shard, opened.levels[0].grid) as reader:
        place = reader.place((0, 0, 0))
    assert place is not None
    return place


def flip(path: Path, offset: int, bit: int = 2) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


@every_reader
def test_a_flipped_bit_in_a_chunk_is_an_error(reader: str, image: Path) -> None:
    # zarr-python, zarrs and tensorstore notice through zstd's content checksum or the crc32c behind a blosc frame; HDF5
    # through its Fletcher-32, because hdf5plugin's zstd filter does not look at the result of decompressing.
    shard = shards_of(image)[0]
    offset, nbytes = first_chunk_of(shard, image)
    for place in (offset + 20, offset + nbytes // 2, offset + nbytes - 1):
        flip(shard, place)
        with pytest.raises(Exception, match=r"."):
            READERS[reader](image, 0)
        flip(shard, place)
    assert np.array_equal(READERS[reader](image, 0), VOXELS)


@readers_but("HDF5, shard by shard", "HDF5, virtual file")
def test_a_flipped_bit_in_the_index_is_an_error(reader: str, image: Path) -> None:
    flip(shards_of(image)[0], 3)
    with pytest.raises(Exception, match=r"(?i)checksum|digest"):
        READERS[reader](image, 0)


@readers("HDF5, shard by shard", "HDF5, virtual file")
def test_hdf5_does_not_need_the_zarr_index(reader: str, image: Path) -> None:
    flip(shards_of(image)[0], 3)
    assert np.array_equal(READERS[reader](image, 0), VOXELS)


@every_reader
def test_a_shard_cut_short_is_an_error(reader: str, image: Path) -> None:
    shard = shards_of(image)[0]
    offset, nbytes = first_chunk_of(shard, image)
    whole = shard.read_bytes()
    for left in (offset + nbytes // 2, 100, 1):
        shard.write_bytes(whole[:left])
        with pytest.raises(Exception, match=r"."):
            READERS[reader](image, 0)


@readers_but("zarr-python")
def test_a_shard_of_no_bytes_is_an_error(reader: str, image: Path) -> None:
    shards_of(image)[0].write_bytes(b"")
    with pytest.raises(Exception, match=r"."):
        READERS[reader](image, 0)


def test_zarr_python_alone_takes_a_shard_of_no_bytes_for_fill_value(image: Path) -> None:
    shards_of(image)[0].write_bytes(b"")
    assert not READERS["zarr-python"](image, 0)[:, :256, :256].any()


@every_reader
def test_an_unlocked_annex_pointer_is_an_error_and_never_zeros(reader: str, image: Path) -> None:
    shards_of(image)[0].write_text(POINTER)
    with pytest.raises(Exception, match=r"."):
        READERS[reader](image, 0)


@readers("nissl", "HDF5, shard by shard")
def test_a_dangling_annex_link_is_an_error(reader: str, image: Path) -> None:
    leave_dangling(shards_of(image)[0])
    with pytest.raises((AbsentShardError, FileNotFoundError)):
        READERS[reader](image, 0)


@readers("zarr-python", "zarrs", "tensorstore", "HDF5, virtual file")
def test_other_readers_take_a_dangling_annex_link_for_fill_value(reader: str, image: Path) -> None:
    """Why Nissl keeps shards unlocked: this is silent, and nothing in the file format can prevent it."""
    leave_dangling(shards_of(image)[0])
    assert not READERS[reader](image, 0)[:, :256, :256].any()


def leave_dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../../../.git/annex/objects/Xx/Yy/SHA256E-s1--0/SHA256E-s1--0")


def test_our_errors_name_the_shard_and_the_remedy(image: Path) -> None:
    shard = shards_of(image)[0]
    shard.write_text(POINTER)
    with pytest.raises(AbsentShardError, match=rf"{shard} is not on this machine: .*datalad get"):
        with_nissl(image, 0)
    shard.write_bytes(b"\x00" * 5000)
    with pytest.raises(DamagedShardError, match=rf"{shard} is damaged .*nissl check"):
        with_nissl(image, 0)


def test_only_the_shards_that_a_box_touches_must_be_here(image: Path) -> None:
    shards_of(image)[0].write_text(POINTER)
    with open_image(image) as opened:
        box = Box((0, 0, 256), (3, 256, 333))
        assert np.array_equal(opened.levels[0].read(box), VOXELS[box.slices])


def random_boxes(shape: tuple[int, ...], count: int) -> Iterable[Box]:
    generator = np.random.default_rng(5)
    for _ in range(count):
        ends = [sorted(generator.choice(n + 1, 2, replace=False).tolist()) for n in shape]
        yield Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def test_a_box_is_stitched_from_whatever_shards_and_chunks_it_crosses(pristine: Path) -> None:
    levels = slow_pyramid(VOXELS, CHUNK)
    with open_image(pristine) as opened:
        for level, expected in zip(opened.levels, levels, strict=True):
            for box in random_boxes(level.shape, 40):
                assert np.array_equal(level.read(box), expected[box.slices])


@pytest.mark.parametrize(
    "box", [Box((0, 0, 0), (4, 1, 1)), Box((0, -1, 0), (1, 1, 1)), Box((1, 1, 1), (1, 2, 2))], ids=str
)
def test_a_box_outside_the_image_is_refused(box: Box, pristine: Path) -> None:
    with open_image(pristine) as opened, pytest.raises(NisslError, match=r"does not lie inside the image"):
        opened.levels[0].read(box)


def test_an_image_says_its_axes_voxel_size_and_levels(pristine: Path) -> None:
    with open_image(pristine) as opened:
        assert opened.axes == ("z", "y", "x")
        assert opened.voxel_size_um == (5.0, 1.0, 1.0)
        assert [level.shape for level in opened.levels] == [(3, 270, 333), (3, 135, 167), (3, 68, 84), (3, 34, 42)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zarr.json", ""),
        ("zarr.json", "[]"),
        ("zarr.json", '{"zarr_format": 3, "node_type": "group"}'),
        ("zarr.json", '{"attributes": {"ome": {"multiscales": []}}}'),
        ("0/zarr.json", '{"codecs": []}'),
        ("0/zarr.json", '{"codecs": [{"name": "bytes"}]}'),
        ("0/zarr.json", '{"codecs": "sharding"}'),
    ],
)
def test_a_folder_with_other_metadata_is_no_image(name: str, text: str, image: Path) -> None:
    (image / name).write_text(text)
    with pytest.raises(NotAnImageError, match=str(image)):
        open_image(image)


def test_a_folder_without_metadata_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(NotAnImageError, match=r"zarr\.json is missing"):
        open_image(tmp_path)


def test_the_virtual_file_still_shows_all_after_an_hdf5_edit_of_a_shard(image: Path) -> None:
    with h5py.File(shards_of(image)[0], "r+") as file:
        file["voxels"].attrs["note"] = "edited"
    assert np.array_equal(with_virtual_hdf5(image, 0), VOXELS)
    assert np.array_equal(READERS["zarr-python"](image, 0), VOXELS)
