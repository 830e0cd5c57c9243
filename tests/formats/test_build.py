from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nissl.errors import NoSpaceError
from nissl.formats.build import build_image
from nissl.formats.codec import ZstdCodec
from nissl.formats.image import open_image
from nissl.formats.image_plan import plan_image
from nissl.formats.quality import look
from nissl.formats.stack import StackError
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew
from tests.formats.formats_model import (
    VOXEL_SIZE_UM,
    a_picture,
    build,
    shards_of,
    slow_pyramid,
    with_hdf5_shard_by_shard,
    with_nissl,
    with_zarr_python,
    write_planes,
)


def assert_holds(folder: Path, voxels: NDArray[Any], smallest: int) -> None:
    """Every level of the image is what the slow model makes of `voxels`, and nothing else lies in its folder."""
    expected = slow_pyramid(voxels, smallest)
    for number, level in enumerate(expected):
        assert np.array_equal(with_nissl(folder, number), level)
        if level.any():
            assert np.array_equal(with_hdf5_shard_by_shard(folder, number), level)
    assert {path.name for path in folder.iterdir()} == {"zarr.json", *map(str, range(len(expected)))}
    assert not list(folder.rglob("*.part"))


def planes_first(colours_or_grey: NDArray[Any]) -> NDArray[Any]:
    """(z, y, x, samples) as (c, z, y, x); grey planes as they are."""
    return np.moveaxis(colours_or_grey, -1, 0) if colours_or_grey.ndim == 4 else colours_or_grey


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    planes=st.integers(1, 2),
    samples=st.sampled_from([None, 3]),
    tile=st.sampled_from([None, (32, 32), (48, 80)]),
    edges=st.sampled_from([(32, 64), (32, 128), (32, 256), (64, 64), (64, 192), (64, 256)]),
    black=st.booleans(),
)
@example(height=257, width=301, planes=2, samples=None, tile=(32, 32), edges=(32, 128), black=True)
@example(height=257, width=301, planes=2, samples=None, tile=None, edges=(32, 64), black=False)
@example(height=261, width=150, planes=1, samples=3, tile=(48, 80), edges=(32, 64), black=False)
@example(height=261, width=150, planes=1, samples=3, tile=None, edges=(64, 128), black=True)
@settings(max_examples=8)
def test_an_image_of_many_shards_made_by_several_processes_is_what_the_slow_model_says(
    height: int,
    width: int,
    planes: int,
    samples: int | None,
    tile: tuple[int, int] | None,
    edges: tuple[int, int],
    black: bool,
) -> None:
    voxels = a_picture((planes, height, width, *([samples] if samples else [])), "uint8" if samples else "uint16")
    if black:
        voxels[:, : height // 2, width // 3 :] = 0
    chunk_edge, shard_edge = edges
    with tempfile.TemporaryDirectory() as name:
        source = open_tiff_stack(write_planes(Path(name) / "tiff", voxels, tile=tile))
        many = build(source, Path(name) / "many.ome.zarr", jobs=2, chunk_edge=chunk_edge, shard_edge=shard_edge)
        assert_holds(many, planes_first(voxels), chunk_edge)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 200), st.integers(1, 200)),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32"]),
    tile=st.sampled_from([None, (32, 32)]),
    chunk_edge=st.sampled_from([32, 64]),
)
@settings(max_examples=15)
def test_an_image_of_one_shard_is_what_the_slow_model_says(
    shape: tuple[int, int, int], dtype: str, tile: tuple[int, int] | None, chunk_edge: int
) -> None:
    voxels = a_picture(shape, dtype)
    with tempfile.TemporaryDirectory() as name:
        source = open_tiff_stack(write_planes(Path(name) / "tiff", voxels, tile=tile))
        folder = build(source, Path(name) / "one.ome.zarr", jobs=2, chunk_edge=chunk_edge)
        assert_holds(folder, voxels, chunk_edge)


@pytest.mark.parametrize("tile", [None, (32, 32)], ids=["strips", "tiles"])
def test_how_an_image_is_cut_into_shards_does_not_change_its_voxels(
    tile: tuple[int, int] | None, tmp_path: Path
) -> None:
    source = open_tiff_stack(write_planes(tmp_path / "tiff", a_picture((2, 211, 307)), tile=tile))
    one = build(source, tmp_path / "one.ome.zarr", chunk_edge=32, shard_edge=512)
    many = build(source, tmp_path / "many.ome.zarr", chunk_edge=32, shard_edge=64, jobs=2)
    assert len(shards_of(one)) == 1 < len(shards_of(many))
    for level in range(5):
        assert np.array_equal(with_zarr_python(one, level), with_zarr_python(many, level))


def test_a_black_image_has_no_shards_at_all(tmp_path: Path) -> None:
    black = np.zeros((2, 150, 150), "uint8")
    source = open_tiff_stack(write_planes(tmp_path / "tiff", black))
    folder = build(source, tmp_path / "a.ome.zarr", shard_edge=64, jobs=2)
    assert [path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json"] == []
    assert not with_nissl(folder, 0).any()


def test_floats_and_missing_values_keep_their_bits(tmp_path: Path) -> None:
    voxels = a_picture((2, 70, 90), "float32") / 7
    voxels[0, 3, 4] = np.nan
    folder = build(open_tiff_stack(write_planes(tmp_path / "tiff", voxels)), tmp_path / "a.ome.zarr")
    assert np.array_equal(with_nissl(folder, 0), voxels, equal_nan=True)


@pytest.mark.parametrize("shard_edge", [64, 512])
def test_every_plane_is_judged_whole_however_it_was_cut(shard_edge: int, tmp_path: Path) -> None:
    voxels = a_picture((3, 130, 200), "uint8")
    voxels[1, :20] = 255
    source = open_tiff_stack(write_planes(tmp_path / "tiff", voxels, tile=(32, 32)))
    plan = plan_image(source, "a", VOXEL_SIZE_UM, chunk_edge=64, shard_edge=shard_edge)
    quality = build_image(source, tmp_path / "a.ome.zarr", plan, crew=LocalCrew(2))
    for seen, whole in zip(quality, map(look, voxels), strict=True):
        exact = ("lowest", "highest", "saturated", "voxels", "intensity", "sampled")
        assert [getattr(seen, name) for name in exact] == [getattr(whole, name) for name in exact]
        assert seen.focus == pytest.approx(whole.focus, rel=0.1)  # pairs across chunk borders are not compared


@pytest.mark.parametrize("shard_edge", [64, 512])
def test_progress_adds_up_to_every_voxel(shard_edge: int, tmp_path: Path) -> None:
    source = open_tiff_stack(write_planes(tmp_path / "tiff", a_picture((3, 130, 200))))
    steps: list[int] = []
    plan = plan_image(source, "a", VOXEL_SIZE_UM, chunk_edge=64, shard_edge=shard_edge)
    build_image(source, tmp_path / "a.ome.zarr", plan, crew=LocalCrew(2), progress=steps.append)
    assert sum(steps) == 3 * 130 * 200


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = open_tiff_stack(write_planes(tmp_path / "tiff", a_picture((2, 130, 200))))
    first = build(source, tmp_path / "first" / "a.ome.zarr", jobs=2).parent
    time.sleep(1.1)  # HDF5 can store the second in which something was made
    second = build(source, tmp_path / "second" / "a.ome.zarr", jobs=2).parent
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert Path("a.h5") in files
    assert [file for file in files if (first / file).read_bytes() != (second / file).read_bytes()] == []


@pytest.mark.parametrize("shard_edge", [64, 512])
def test_a_plane_that_turns_out_damaged_stops_the_build_without_a_half_shard(shard_edge: int, tmp_path: Path) -> None:
    files = write_planes(tmp_path / "tiff", a_picture((3, 130, 200)), compression="zstd", tile=(64, 64))
    with tifffile.TiffFile(files[2]) as file:
        offset = file.pages[0].dataoffsets[3]
    data = bytearray(files[2].read_bytes())
    data[offset : offset + 20] = b"\xff" * 20
    files[2].write_bytes(data)
    source = open_tiff_stack(files)
    folder = tmp_path / "a.ome.zarr"
    plan = plan_image(source, "a", VOXEL_SIZE_UM, chunk_edge=64, shard_edge=shard_edge)
    with pytest.raises(StackError, match=r"plane 3 \(.*_z3\.tif\) cannot be read.*--skip 3"):
        build_image(source, folder, plan, crew=LocalCrew(2))
    assert not (folder / "zarr.json").exists()
    assert not list(folder.rglob("*.part"))


def test_a_plane_that_vanishes_during_the_build_is_named(tmp_path: Path) -> None:
    files = write_planes(tmp_path / "tiff", a_picture((3, 130, 200)))
    source = open_tiff_stack(files)
    files[1].unlink()
    plan = plan_image(source, "a", VOXEL_SIZE_UM, chunk_edge=64, shard_edge=128)
    with pytest.raises(StackError, match=r"plane 2 \(.*_z2\.tif\) cannot be read"):
        build_image(source, tmp_path / "a.ome.zarr", plan, crew=LocalCrew(2))


def test_an_odd_chunk_edge_is_refused(tmp_path: Path) -> None:
    source = open_tiff_stack(write_planes(tmp_path, a_picture((1, 8, 8))))
    with pytest.raises(ValueError, match="chunk edge 33 is odd"):
        plan_image(source, "a", VOXEL_SIZE_UM, chunk_edge=33, shard_edge=66)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system to fill: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


@pytest.mark.parametrize("shard_edge", [512, 1024])
def test_a_disk_that_fills_up_during_the_build_is_one_sentence(
    shard_edge: int, small_disk: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (4, 700, 900), dtype=np.uint16)
    source = open_tiff_stack(write_planes(tmp_path / "tiff", noise))
    plan = plan_image(source, "a", VOXEL_SIZE_UM, codec=ZstdCodec(1), chunk_edge=128, shard_edge=shard_edge)
    folder = small_disk / "a.ome.zarr"
    with pytest.raises(NoSpaceError, match=r"no space left on the device while writing .* free some space"):
        build_image(source, folder, plan, crew=LocalCrew(2))
    assert not (folder / "zarr.json").exists()
    assert not list(folder.rglob("*.part"))


def test_the_real_stack_is_what_the_slow_model_says(zstack_files: list[Path], tmp_path: Path) -> None:
    files = zstack_files[:3]
    voxels = np.stack([tifffile.imread(file) for file in files])
    folder = build(open_tiff_stack(files), tmp_path / "cortex.ome.zarr", jobs=2, chunk_edge=128, shard_edge=256)
    assert_holds(folder, voxels, 128)
    with open_image(folder) as image:
        assert image.levels[0].dtype == np.uint16


_INGEST = """
import json, pathlib, re, resource, sys
from nissl.formats.build import build_image
from nissl.formats.image_plan import plan_image
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import LocalCrew

if __name__ == "__main__":
    source = open_tiff_stack(sorted(pathlib.Path(sys.argv[1]).glob("*.tif")))
    plan = plan_image(source, "big.ome.zarr", (5.0, 1.0, 1.0))
    build_image(source, pathlib.Path(sys.argv[2]), plan, crew=LocalCrew(2))
    # Not ru_maxrss for this process itself: Linux hands that of pytest, which started it, down through fork and exec.
    own = int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"own": own * 1024, "largest_child": child * 1024, "shards": len(list(plan.grids[0].shards()))}))
"""

GIGABYTES = 4.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tile", [None, (512, 512)], ids=["strips", "tiles"])
def test_a_stack_of_4_gb_is_ingested_in_less_than_500_mb_of_memory(
    tile: tuple[int, int] | None, tmp_path: Path
) -> None:
    planes, edge = 24, 9216  # 2 x 2 shards: two processes, each with a region of its own
    tissue = a_picture((1024, 1024))
    (tmp_path / "tiff").mkdir()
    with contextlib.ExitStack() as stack:
        for number in range(planes):
            path = tmp_path / "tiff" / f"z{number:02}.tif"
            stack.callback(path.unlink, missing_ok=True)
            plane = np.tile(np.roll(tissue, 37 * number, axis=1), (edge // 1024, edge // 1024))
            tifffile.imwrite(path, plane, tile=tile)
        assert sum(path.stat().st_size for path in (tmp_path / "tiff").iterdir()) > GIGABYTES * 1e9
        done = subprocess.run(
            [sys.executable, "-c", _INGEST, tmp_path / "tiff", tmp_path / "big.ome.zarr"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout)
    assert usage["shards"] == 4
    # There are two children, and each is counted as the larger one.
    assert usage["own"] + 2 * usage["largest_child"] < 500e6, usage
    for file in (tmp_path / "big.ome.zarr").rglob("*"):
        if file.is_file():
            os.truncate(file, 0)  # pytest keeps the folders of the last runs, and this one is large
