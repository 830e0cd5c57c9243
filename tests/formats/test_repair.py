from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nissl.formats.check import check_shard, identity_of
from nissl.formats.image import open_image
from nissl.formats.repair import RepairError, repair_index
from nissl.formats.tiff import open_tiff_stack
from tests.formats.formats_model import a_picture, build, shards_of, with_nissl, with_zarr_python, write_planes

VOXELS = a_picture((2, 100, 120))
VOXELS[1, 64:, :64] = 0


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    source = open_tiff_stack(write_planes(folder / "tiff", VOXELS))
    return build(source, folder / "a.ome.zarr", chunk_edge=64, shard_edge=128)


@pytest.fixture
def image(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def repaired(folder: Path) -> bool:
    with open_image(folder) as image:
        level = image.levels[0]
        return repair_index(level.shard_path((0, 0, 0)), level, (0, 0, 0), identity_of(image, 0))


def findings(folder: Path) -> int:
    with open_image(folder) as image:
        level = image.levels[0]
        path, identity = level.shard_path((0, 0, 0)), identity_of(image, 0)
        return len(check_shard(path, level, (0, 0, 0), identity, sample=None).findings)


def overwrite(start: int, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[start : start + len(content)] = content
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        overwrite(3, b"\x10"),
        overwrite(0, bytes(512)),
        overwrite(0, b"\xff" * 512),
        overwrite(16 * 8, bytes(4)),
        overwrite(400, b"scribble"),
    ],
    ids=["one byte", "all zero", "all missing", "the checksum", "the padding"],
)
def test_a_lost_index_is_rebuilt_byte_for_byte(damage: Callable[[Path], None], image: Path) -> None:
    (path,) = shards_of(image)
    original = path.read_bytes()
    damage(path)
    assert path.read_bytes() != original
    assert findings(image)
    assert repaired(image)
    assert path.read_bytes() == original
    assert not findings(image)
    assert np.array_equal(with_nissl(image, 0), VOXELS)
    assert np.array_equal(with_zarr_python(image, 0), VOXELS)


def test_another_shards_index_is_replaced(image: Path) -> None:
    (path,) = shards_of(image)
    (other,) = shards_of(image, 1)
    original = path.read_bytes()
    overwrite(0, other.read_bytes()[:512])(path)
    assert repaired(image)
    assert path.read_bytes() == original


def test_a_whole_shard_is_left_alone(image: Path) -> None:
    (path,) = shards_of(image)
    before = path.stat()
    assert not repaired(image)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_file_is_a_new_one_and_a_hard_link_keeps_the_old_bytes(image: Path, tmp_path: Path) -> None:
    (path,) = shards_of(image)
    overwrite(3, b"\x10")(path)
    damaged = path.read_bytes()
    os.link(path, tmp_path / "annex-object")
    path.chmod(0o640)
    assert repaired(image)
    assert (tmp_path / "annex-object").read_bytes() == damaged
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (overwrite(520, b"\xff" * 20), "cannot be read as HDF5"),
        (overwrite(-9, b"\xff"), r"chunk \(\d, \d, \d\), is damaged"),
        (lambda path: os.truncate(path, 700), "cannot be read as HDF5"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "HDF5 has written"),
    ],
    ids=["superblock", "chunk", "cut short", "longer"],
)
def test_a_shard_whose_hdf5_side_is_damaged_too_is_refused_and_left_as_it_is(
    damage: Callable[[Path], None], said: str, image: Path
) -> None:
    (path,) = shards_of(image)
    overwrite(3, b"\x10")(path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(RepairError, match=f"the HDF5 side is damaged too: .*{said}"):
        repaired(image)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_absent_shard_is_refused(image: Path) -> None:
    (path,) = shards_of(image)
    path.write_text("/annex/objects/SHA256E-s123456--0123456789abcdef\n")
    with pytest.raises(RepairError, match="is not on this machine"):
        repaired(image)


def test_a_locked_shard_is_refused(image: Path, tmp_path: Path) -> None:
    (path,) = shards_of(image)
    path.rename(tmp_path / "object")
    path.symlink_to(tmp_path / "object")
    with pytest.raises(RepairError, match="git annex unlock"):
        repaired(image)
