from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from nissl.formats.image import open_image
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.virtual import write_virtual
from tests.formats.formats_model import (
    READERS,
    a_picture,
    build,
    shards_of,
    virtual_path,
    with_virtual_hdf5,
    write_planes,
)

VOXELS = a_picture((2, 150, 200))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("virtual")
    return build(open_tiff_stack(write_planes(folder / "tiff", VOXELS)), folder / "section.ome.zarr", shard_edge=128)


def test_the_virtual_file_shows_every_level_with_its_downsampling(image: Path) -> None:
    with h5py.File(virtual_path(image)) as file:
        assert list(file) == ["0", "1", "2"]
        assert [list(file[name].attrs["downsampling"]) for name in file] == [[1, 1, 1], [1, 2, 2], [1, 4, 4]]
        assert list(file.attrs["axes"]) == ["z", "y", "x"]
        assert list(file.attrs["voxel_size"]) == [5.0, 1.0, 1.0]
        assert file.attrs["voxel_size_unit"] == "micrometer"


def test_the_virtual_file_copies_nothing(image: Path) -> None:
    assert virtual_path(image).stat().st_size < 20_000 < VOXELS.nbytes


def test_an_image_and_its_virtual_file_can_be_moved_together(image: Path, tmp_path: Path) -> None:
    shutil.copy(virtual_path(image), tmp_path)
    moved = Path(shutil.copytree(image, tmp_path / image.name))
    assert np.array_equal(with_virtual_hdf5(moved, 0), VOXELS)


def test_the_virtual_file_may_lie_in_another_folder_than_the_image(image: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(image, tmp_path / "deep" / "er" / image.name))
    path = tmp_path / "views" / "section.h5"
    path.parent.mkdir()
    with open_image(moved) as opened:
        write_virtual(path, opened)
    with h5py.File(path) as file:
        assert np.array_equal(file["0"][...], VOXELS)


def test_a_folder_may_have_a_percent_sign_in_its_name(image: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(image, tmp_path / "100%b" / image.name))
    path = tmp_path / "section.h5"
    with open_image(moved) as opened:
        write_virtual(path, opened)
    with h5py.File(path) as file:
        assert np.array_equal(file["0"][...], VOXELS)


def test_a_level_of_fill_value_is_shown_as_zeros(tmp_path: Path) -> None:
    black = np.zeros((2, 20, 30), "uint8")
    folder = build(open_tiff_stack(write_planes(tmp_path / "t", black)), tmp_path / "a.ome.zarr")
    buffer = np.full(black.shape, 7, dtype="u1")
    with h5py.File(virtual_path(folder)) as file:
        file["0"].read_direct(buffer)
    assert not buffer.any()


def test_a_shard_of_fill_value_is_a_gap_that_hdf5_fills(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[:, 128:, 128:] = 0
    folder = build(open_tiff_stack(write_planes(tmp_path / "t", voxels)), tmp_path / "a.ome.zarr", shard_edge=128)
    assert len(shards_of(folder)) == 3
    with h5py.File(virtual_path(folder)) as file:
        assert len(file["0"].virtual_sources()) == 3
        buffer = np.full(voxels.shape, 7, dtype="u2")
        file["0"].read_direct(buffer)
    assert np.array_equal(buffer, voxels)


def test_a_shard_whose_content_is_elsewhere_is_still_named(image: Path, tmp_path: Path) -> None:
    """The file is made when some shards may be on another machine already; it must not take them for fill value."""
    moved = Path(shutil.copytree(image, tmp_path / image.name))
    shard = shards_of(moved)[0]
    content = shard.read_bytes()
    shard.unlink()
    shard.symlink_to("../../elsewhere")
    with open_image(moved) as opened:
        write_virtual(virtual_path(moved), opened)
    shard.unlink()
    shard.write_bytes(content)
    assert np.array_equal(with_virtual_hdf5(moved, 0), VOXELS)


def test_a_virtual_file_that_cannot_be_written_leaves_nothing(image: Path, tmp_path: Path) -> None:
    with open_image(image) as opened, pytest.raises(OSError):
        write_virtual(tmp_path / "missing" / "a.h5", opened)
    assert list(tmp_path.iterdir()) == []


def test_the_virtual_file_agrees_with_zarr(image: Path) -> None:
    for level in range(3):
        assert np.array_equal(with_virtual_hdf5(image, level), READERS["zarr-python"](image, level))
