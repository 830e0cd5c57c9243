"""Every kind of source: the same voxels whatever the axes, chunks and types; what is broken or absent is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nissl.formats import sources
from nissl.formats.arrays import ArraySource, array_source
from nissl.formats.build import build_image
from nissl.formats.grid import Box
from nissl.formats.image import open_image
from nissl.formats.image_plan import plan_image
from nissl.formats.label_files import open_label_files
from nissl.formats.sources import open_image_source, open_source
from nissl.formats.stack import PlaneSource, Reading, StackError
from nissl.formats.workers import LocalCrew
from tests.formats import formats_model
from tests.formats.formats_model import VOXEL_SIZE_UM, a_picture, write_planes
from tests.formats.sources_model import (
    CountedZarr,
    RawFiles,
    edit_json,
    write_hdf5,
    write_ome_zarr,
    write_zarr,
)

KINDS = ["npy", "hdf5", "zarr2", "zarr3"]
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(5, 40))


def write(kind: str, folder: Path, voxels: NDArray[Any], chunks: tuple[int, ...] | None = None) -> str:
    if kind == "npy":
        np.save(folder / "a.npy", voxels)
        return str(folder / "a.npy")
    if kind == "hdf5":
        return write_hdf5(folder / "a.h5", voxels, chunks)
    return write_zarr(folder / "a.zarr", voxels, chunks, int(kind[-1]))


def read_as_the_builder(source: PlaneSource, band: int, stripe: int) -> NDArray[Any]:
    """All voxels, (c or 1, z, y, x), region by region, plane by plane, band by band."""
    planes, height, width = source.shape
    voxels = np.zeros((source.channels or 1, planes, height, width), dtype=source.dtype)
    for left in range(0, width, stripe):
        columns = range(left, min(left + stripe, width))
        for plane in range(planes):
            for top in range(0, height, band):
                rows = range(top, min(top + band, height))
                part = source.read(plane, rows, columns)
                assert part.dtype == source.dtype
                assert part.dtype.isnative
                voxels[:, plane, top : rows.stop, left : columns.stop] = part
        source.close()
    return voxels


def refusal(name: str | Path, *more: str) -> str:
    """The one sentence with which a source is refused."""
    with pytest.raises(StackError) as raised:
        open_image_source([str(name), *more])
    said = str(raised.value)
    assert "\n" not in said
    assert said.startswith(str(name).split(":")[0]) or str(name) in said
    return said


@given(st.data())
def test_voxels_are_the_same_whatever_the_kind_chunks_type_and_portions(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    shape = data.draw(SHAPES)
    dtype = data.draw(st.sampled_from(["u1", "<u2", ">u2", ">i4", "<u4", "<f4", ">f8", "i1"]))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    voxels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        source = open_image_source([write(kind, Path(folder), voxels, chunks)])
        assert (source.shape, source.channels) == (shape, None)
        band, stripe = data.draw(st.integers(1, 32)), data.draw(st.integers(3, 40))
        assert np.array_equal(read_as_the_builder(source, band, stripe)[0], voxels)
        planes, rows, columns = (
            range(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
        )
        assert isinstance(source, ArraySource)
        part = source.read_slab(planes, rows, columns)
        source.close()
        box = tuple(slice(extent.start, extent.stop) for extent in (planes, rows, columns))
        assert np.array_equal(part, voxels[box])


@given(st.data())
def test_axes_in_any_order_become_planes(data: st.DataObject) -> None:
    axes = "".join(data.draw(st.permutations(["y", "x", *data.draw(st.sets(st.sampled_from("tcz")))])))
    length = {"t": 1, "c": data.draw(st.sampled_from([1, 3, 4])), "z": 4, "y": 9, "x": 7}
    shape = tuple(length[axis] for axis in axes)
    voxels = np.arange(np.prod(shape), dtype="u2").reshape(shape)
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    version = data.draw(st.sampled_from(["0.4", "0.5"]))
    with tempfile.TemporaryDirectory() as folder:
        source = open_image_source([write_ome_zarr(Path(folder) / "a.zarr", voxels, axes, version, chunks=chunks)])
        seen = read_as_the_builder(source, 4, 5)
        colours = length["c"] if "c" in axes else 1
        assert source.channels == (colours if colours > 1 else None)
    for axis in "zct":
        if axis not in axes:
            voxels, axes = voxels[np.newaxis], axis + axes
    assert np.array_equal(seen, voxels.transpose([axes.index(axis) for axis in "tczyx"])[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [3, 4])
def test_four_axes_that_end_in_three_or_four_samples_are_colour(kind: str, samples: int, tmp_path: Path) -> None:
    voxels = a_picture((2, 20, 30, samples), "uint8")
    source = open_image_source([write(kind, tmp_path, voxels, (1, 8, 8, samples))])
    assert (source.shape, source.channels) == ((2, 20, 30), samples)
    assert np.array_equal(read_as_the_builder(source, 8, 16), np.moveaxis(voxels, 3, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_read_as_zeros_and_ones(kind: str, tmp_path: Path) -> None:
    voxels = a_picture((2, 20, 30)) > 60
    source = open_image_source([write(kind, tmp_path, voxels, (1, 8, 8))])
    assert source.dtype == np.uint8
    assert np.array_equal(read_as_the_builder(source, 8, 16)[0], voxels)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_can_be_left_out(kind: str, tmp_path: Path) -> None:
    voxels = a_picture((7, 20, 30))
    name = write(kind, tmp_path, voxels, (3, 8, 8))
    source = open_image_source([name], skip={1, 4, 5})
    assert source.shape == (4, 20, 30)
    assert np.array_equal(read_as_the_builder(source, 8, 16)[0], voxels[[1, 2, 5, 6]])
    with pytest.raises(StackError, match="--skip 8: the stack has planes 1 to 7"):
        open_image_source([name], skip={8})
    with pytest.raises(StackError, match="all 7 planes are left out"):
        open_image_source([name], skip=range(1, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_travels_to_another_process_without_what_it_has_open(kind: str, tmp_path: Path) -> None:
    voxels = a_picture((4, 20, 30))
    source = open_image_source([write(kind, tmp_path, voxels, (4, 8, 8))])
    source.read(1, range(3, 9), range(30))
    there = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert np.array_equal(read_as_the_builder(there, 8, 16)[0], voxels)
    source.close()


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_not_stored_are_fill_value(version: Literal[2, 3], tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(2, 20, 30), chunks=(1, 8, 8), dtype="u2", fill_value=7, zarr_format=version
    )
    array[1, 3, 4] = 9
    source = open_image_source([str(tmp_path / "a.zarr")])
    assert np.array_equal(read_as_the_builder(source, 8, 30)[0], array[:])


def test_codecs_and_shards_of_zarr_are_read_as_zarr_python_reads_them(tmp_path: Path) -> None:
    from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec

    voxels = a_picture((6, 40, 50))
    ways: tuple[dict[str, Any], ...] = (
        {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
        {"compressors": GzipCodec(), "filters": TransposeCodec(order=(2, 0, 1))},
        {"shards": (6, 32, 32)},
    )
    for number, more in enumerate(ways):
        name = write_zarr(tmp_path / f"{number}.zarr", voxels, (3, 16, 16), 3, **more)
        assert np.array_equal(read_as_the_builder(open_image_source([name]), 10, 20)[0], voxels)


def test_an_image_of_ours_is_a_source_again(tmp_path: Path) -> None:
    for number, voxels in enumerate((a_picture((3, 150, 200)), a_picture((2, 70, 90, 3), "uint8"))):
        files = write_planes(tmp_path / str(number), voxels)
        first = formats_model.build(open_source([str(file) for file in files]), tmp_path / f"{number}.ome.zarr")
        again = open_image_source([str(first)])
        expected = voxels[np.newaxis] if voxels.ndim == 3 else np.moveaxis(voxels, 3, 0)
        assert np.array_equal(read_as_the_builder(again, 64, 128), expected)
        second = formats_model.build(open_image_source([str(first)]), tmp_path / f"{number}_again.ome.zarr")
        with open_image(second) as image:
            level = image.levels[0]
            assert np.array_equal(level.read(Box((0,) * len(level.shape), level.shape)), expected.squeeze())


@pytest.mark.parametrize("inside", ["", "scan.zarr"])
def test_a_zip_of_zarr_is_a_source(inside: str, tmp_path: Path) -> None:
    voxels = a_picture((3, 20, 30))
    write_ome_zarr(tmp_path / "scan.zarr", voxels)
    root = tmp_path / "scan.zarr"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in root.rglob("*"):
            if path.is_file():
                file.write(path, Path(inside) / path.relative_to(root))
    name = f"{tmp_path / 'a.zip'}{':' if inside else ''}{inside}"
    source = open_image_source([name])
    assert np.array_equal(read_as_the_builder(source, 8, 16)[0], voxels)
    assert source.files == (tmp_path / "a.zip",)
    if inside:
        assert "name the folder in it" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_what_ome_zarr_py_writes_is_read(version: str, unpacked: bool, tmp_path: Path) -> None:
    """Two small images that ome-zarr-py 0.18 wrote; it cannot be installed beside the rest of the tests' packages."""
    name = Path(__file__).parent / "data" / f"ome-zarr-py_{version}.zip"
    if unpacked:
        with zipfile.ZipFile(name) as file:
            file.extractall(tmp_path / "image")
        name = tmp_path / "image"
    source = open_image_source([str(name)])
    voxels = (np.arange(3 * 40 * 50).reshape(3, 40, 50) * 7 % 60000).astype("u2")
    assert np.array_equal(read_as_the_builder(source, 16, 50)[0], voxels)
    assert sources.pixel_size([str(name)]).um == (5.0, 0.5, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_come_from_every_kind(kind: str, tmp_path: Path) -> None:
    voxels = a_picture((3, 20, 4), "int64")
    source = open_label_files([write(kind, tmp_path, voxels, (3, 8, 3))])
    assert source.dtype == np.uint64
    assert np.array_equal(read_as_the_builder(source, 8, 4)[0], voxels)


# Read once


@pytest.mark.parametrize("chunks", [(8, 16, 16), (8, 64, 64), (3, 50, 70), (1, 100, 30), (16, 7, 200), (1, 32, 32)])
def test_chunks_deeper_or_taller_than_what_is_asked_for_are_decoded_once(
    chunks: tuple[int, int, int], tmp_path: Path
) -> None:
    voxels = a_picture((16, 140, 200))
    write_zarr(tmp_path / "a.zarr", voxels, chunks, 3)
    place = CountedZarr(tmp_path / "a.zarr")
    source = array_source(place.open(), place, how=Reading(scratch=tmp_path), chunks=chunks)
    # One region: those of several are read by further processes, whose reads nobody here would count.
    plan = plan_image(source, "a.ome.zarr", VOXEL_SIZE_UM, chunk_edge=32, shard_edge=256)
    build_image(source, tmp_path / "a.ome.zarr", plan, crew=LocalCrew(1))
    with open_image(tmp_path / "a.ome.zarr") as image:
        assert np.array_equal(image.levels[0].read(Box((0, 0, 0), voxels.shape)), voxels)
    assert len(place.fetched) == np.prod([-(-n // c) for n, c in zip(voxels.shape, chunks, strict=True)])
    assert set(place.fetched.values()) == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ome.zarr", "a.zarr"]


def test_regions_share_no_chunks_but_those_that_their_border_cuts(tmp_path: Path) -> None:
    voxels = a_picture((8, 40, 120))
    write_zarr(tmp_path / "a.zarr", voxels, (4, 20, 16), 3)
    place = CountedZarr(tmp_path / "a.zarr")
    source = array_source(place.open(), place, chunks=(4, 20, 16))
    assert np.array_equal(read_as_the_builder(source, 10, 40)[0], voxels)
    # Columns 40 and 80 are borders: 40 lies in the third column of chunks, 80 between two.
    assert {key: n for key, n in place.fetched.items() if n > 1} == {f"c/{z}/{y}/2": 2 for z in (0, 1) for y in (0, 1)}


def test_without_room_for_scratch_chunks_are_decoded_again_but_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = a_picture((8, 40, 60))
    write_zarr(tmp_path / "a.zarr", voxels, (8, 20, 20), 3)
    place = CountedZarr(tmp_path / "a.zarr")
    source = array_source(place.open(), place, how=Reading(scratch=tmp_path), chunks=(8, 20, 20))
    full = os.statvfs_result((512, 512, 9, 0, 0, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    assert np.array_equal(read_as_the_builder(source, 20, 60)[0], voxels)
    assert set(place.fetched.values()) == {8}


_BUILD = """
import pathlib, re, sys
from nissl.formats.build import build_image
from nissl.formats.image_plan import plan_image
from nissl.formats.workers import LocalCrew
from nissl.formats.sources import open_image_source
if __name__ == "__main__":
    source = open_image_source([sys.argv[1]], scratch=pathlib.Path())
    build_image(source, pathlib.Path("image"), plan_image(source, "image", (5, 1, 1)), crew=LocalCrew(1))
    # Not ru_maxrss for this process itself: Linux hands that of pytest, which started it, down through fork and exec.
    print(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "hdf5", "zarr"])
def test_memory_does_not_grow_with_the_source(kind: str, tmp_path: Path) -> None:
    # 1 GB of voxels that take no room, in one region; of deep chunks 540 MB are decoded before the first plane is done.
    shape = (128, 2048, 2048)
    if kind == "npy":
        np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "u2", shape)
    if kind == "hdf5":
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("a", shape, "u2", chunks=(64, 64, 64), fillvalue=260)
    if kind == "zarr":
        zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(64, 64, 64), dtype="u2", fill_value=260)
    (tmp_path / "build.py").write_text(_BUILD)
    command = [sys.executable, "build.py", {"npy": "a.npy", "hdf5": "a.h5:a", "zarr": "a.zarr"}[kind]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000


# Absent is not zero


def an_annexed_zarr(folder: Path, version: int = 3) -> Path:
    voxels = a_picture((2, 20, 30))
    write_ome_zarr(folder / "scan.zarr", voxels, version="0.4" if version == 2 else "0.5", chunks=(1, 8, 8))
    return folder / "scan.zarr" / "full" / ("0.1.2" if version == 2 else "c/0/1/2")


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_that_is_a_dangling_link_is_refused_by_name(version: int, tmp_path: Path) -> None:
    chunk = an_annexed_zarr(tmp_path, version)
    chunk.unlink()
    chunk.symlink_to("../../.git/annex/objects/xx/yy/SHA256E-s100--00")
    with pytest.raises(StackError, match=rf"{re.escape(str(chunk))} is a link to content that is not here: get it"):
        open_image_source([str(tmp_path / "scan.zarr")])


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_that_is_a_pointer_of_git_annex_is_refused_by_name(version: int, tmp_path: Path) -> None:
    chunk = an_annexed_zarr(tmp_path, version)
    chunk.write_text("/annex/objects/SHA256E-s100--00\n")
    with pytest.raises(StackError, match=rf"{re.escape(str(chunk))} is a pointer to content that is not here: get it"):
        open_image_source([str(tmp_path / "scan.zarr")])


def test_a_chunk_without_a_byte_is_refused_by_name(tmp_path: Path) -> None:
    chunk = an_annexed_zarr(tmp_path)
    chunk.write_bytes(b"")
    with pytest.raises(StackError, match=rf"{re.escape(str(chunk))} is empty"):
        open_image_source([str(tmp_path / "scan.zarr")])


def test_a_link_to_content_that_is_here_is_read(tmp_path: Path) -> None:
    chunk = an_annexed_zarr(tmp_path)
    shutil.move(chunk, tmp_path / "object")
    chunk.symlink_to(tmp_path / "object")
    source = open_image_source([str(tmp_path / "scan.zarr")])
    assert np.array_equal(read_as_the_builder(source, 8, 16)[0], a_picture((2, 20, 30)))


@pytest.mark.parametrize("harm", [lambda part: part.unlink(), lambda part: part.write_text("/annex/objects/X\n")])
def test_a_virtual_dataset_whose_parts_are_not_here_is_refused_by_name(
    harm: Callable[[Path], Any], tmp_path: Path
) -> None:
    voxels = a_picture((2, 20, 30))
    layout = h5py.VirtualLayout(voxels.shape, voxels.dtype)
    for plane in range(2):
        write_hdf5(tmp_path / f"part{plane}.h5", voxels[plane], None)
        layout[plane] = h5py.VirtualSource(f"part{plane}.h5", "raw", shape=voxels.shape[1:])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    name = f"{tmp_path / 'a.h5'}:raw"
    source = open_image_source([name])
    assert [path.name for path in source.files] == ["a.h5", "part0.h5", "part1.h5"]
    assert np.array_equal(read_as_the_builder(source, 8, 16)[0], voxels)
    harm(tmp_path / "part1.h5")
    assert "part1.h5, which is not here: get it first" in refusal(name)


# What is refused


def test_arrays_that_are_no_planes_are_refused_with_what_they_are(tmp_path: Path) -> None:
    for number, (array, words) in enumerate(
        (
            (np.zeros((2, 2, 5, 6, 7), "u1"), "2 x 2 x 5 x 6 x 7"),
            (np.zeros((2, 5, 6, 7), "u1"), "z, y, x, c with 3 or 4 samples"),
            (np.zeros((60, 70, 3), "u1"), "60 planes of 3 columns or one plane in colour: save"),
            (np.zeros(7, "u1"), "is 7: it must have the axes"),
            (np.zeros((), "u1"), "without axes"),
            (np.zeros((0, 5, 5), "u1"), "0 x 5 x 5"),
            (np.zeros((2, 5, 6), "f2"), "float16 voxels: save it as"),
            (np.zeros((2, 5, 6), "u8"), "uint64 voxels: save it as"),
            (np.zeros((2, 5, 6), "c8"), "complex64 instead of numbers"),
            (np.zeros((2, 5, 6), "S3"), "instead of numbers"),
            (np.zeros((2, 5, 6), [("a", "u1")]), "instead of numbers"),
        )
    ):
        np.save(tmp_path / f"{number}.npy", array)
        assert words in refusal(tmp_path / f"{number}.npy")
        if array.shape and array.size and array.dtype.kind != "V":
            assert words.split(":")[0] in refusal(write_hdf5(tmp_path / f"{number}.h5", array, None))
            assert words.split(":")[0] in refusal(write_zarr(tmp_path / f"{number}.zarr", array, None, 2))


def test_hdf5_text_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = "voxels"
        file.create_dataset("text", (2, 5, 6), dtype=h5py.string_dtype())
        file["nothing"] = h5py.Empty("u1")
    for dataset, words in (
        ("raw", "must have the axes"),
        ("text", "instead of numbers"),
        ("nothing", "without voxels"),
    ):
        assert words in refusal(f"{tmp_path / 'a.h5'}:{dataset}")


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("tzyx", (2, 3, 8, 9), "holds 2 times: save each as a z-stack of its own"),
        ("czyx", (2, 3, 8, 9), "holds 2 channels: save each as a z-stack of its own"),
        ("zyxs", (2, 3, 8, 9), "with axes z, y, x, s: it must have y and x"),
        ("zx", (3, 8), "with axes z, x"),
    ],
)
def test_named_axes_that_are_no_planes_are_refused(
    axes: str, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    assert words in refusal(write_ome_zarr(tmp_path / "a.zarr", np.zeros(shape, "u1"), axes))


def test_names_of_axes_beside_an_array_are_believed(tmp_path: Path) -> None:
    voxels = a_picture((3, 2, 8, 9))
    name = write_zarr(tmp_path / "a.zarr", voxels, None, 3, dimension_names=("c", "z", "y", "x"))
    assert open_image_source([name]).channels == 3
    name = write_zarr(tmp_path / "b.zarr", voxels[0], None, 3, dimension_names=("dim_0", "dim_1", "dim_2"))
    assert open_image_source([name]).shape == (2, 8, 9)
    zarr.create_array(
        tmp_path / "c.zarr", data=voxels, zarr_format=2, attributes={"_ARRAY_DIMENSIONS": ["c", "z", "y", "x"]}
    )
    assert open_image_source([str(tmp_path / "c.zarr")]).channels == 3
    name = write_hdf5(tmp_path / "a.h5", voxels, None)
    assert "z, y, x, c with 3 or 4" in refusal(name)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for axis, letter in enumerate("czyx"):
            file["raw"].dims[axis].label = letter
    assert open_image_source([name]).channels == 3


def test_zarr_that_is_broken_or_something_else_is_refused(tmp_path: Path) -> None:
    voxels = a_picture((3, 20, 30))
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "group.zarr").create_array("raw/em", data=voxels)
    zarr.create_group(tmp_path / "series.zarr", attributes={"ome": {"bioformats2raw.layout": 3, "version": "0.5"}})
    zarr.create_group(tmp_path / "plate.zarr", zarr_format=2, attributes={"plate": {}})
    for name in ("broken", "short", "level", "axes", "none"):
        write_ome_zarr(tmp_path / f"{name}.zarr", voxels)
    (tmp_path / "broken.zarr/zarr.json").write_text('{"zarr_format": 3, ')
    (tmp_path / "short.zarr/full/zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    shutil.rmtree(tmp_path / "level.zarr/full")
    ome = json.loads((tmp_path / "axes.zarr/zarr.json").read_text())["attributes"]["ome"]
    del ome["multiscales"][0]["axes"]
    edit_json(tmp_path / "axes.zarr/zarr.json", attributes={"ome": ome})
    edit_json(tmp_path / "none.zarr/zarr.json", attributes={"ome": {"multiscales": []}})
    (tmp_path / "text.zip").write_text("no zip")
    for name, words in {
        "empty.zarr": "holds no Zarr array and no OME-Zarr image",
        "group.zarr": "is a group, not an array or an image: name one in it; it has: raw",
        "series.zarr": "is a series of images",
        "plate.zarr": "is a plate",
        "broken.zarr": "cannot be read as Zarr",
        "short.zarr": "cannot be read as Zarr",
        "level.zarr": "cannot be read as Zarr",
        "axes.zarr": "does not say its axes",
        "none.zarr": "is a group",
        "nowhere.zarr": "does not exist",
        "text.zip": "is no zip file",
    }.items():
        assert words in refusal(tmp_path / name), name
    assert open_image_source([str(tmp_path / "group.zarr/raw/em")]).shape == voxels.shape


def test_a_damaged_chunk_is_one_sentence_that_names_the_array(tmp_path: Path) -> None:
    name = write_zarr(tmp_path / "a.zarr", a_picture((2, 20, 30)), (1, 20, 30), 3)
    (tmp_path / "a.zarr/c/1/0/0").write_bytes(b"no zstd at all")
    source = open_image_source([name])
    source.read(0, range(20), range(30))
    with pytest.raises(StackError, match=rf"{re.escape(name)} cannot be read at plane 2: "):
        source.read(1, range(20), range(30))


def test_names_that_mean_nothing_say_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a letter")
    np.save(tmp_path / "a.npy", a_picture((2, 8, 8)))
    assert "is a folder: name the files in it" in (said := refusal(tmp_path))
    assert "--pattern '{sample}_z{z}.tif'" in said
    assert "not a kind of file that is read: .tif, .npy, .h5, .zarr" in refusal(tmp_path / "a.txt")
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "does not exist" in refusal(f"{tmp_path / 'a.h5'}:raw")
    with pytest.raises(StackError, match="only TIFF stacks may have several files"):
        open_source([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")])
    with pytest.raises(StackError, match="no files given"):
        open_source([])


def test_a_tiff_file_is_known_by_its_first_bytes_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.lsm2", a_picture((2, 8, 9)), photometric="minisblack")
    assert open_image_source([str(tmp_path / "scan.lsm2")]).shape == (2, 8, 9)


def test_a_further_kind_is_one_module_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = a_picture((3, 150, 200))
    (tmp_path / "scan_3x150x200_uint16.raw").write_bytes(voxels.tobytes())
    monkeypatch.setattr(sources, "KINDS", (*sources.KINDS, RawFiles()))
    source = open_image_source([str(tmp_path / "scan_3x150x200_uint16.raw")], skip={2})
    folder = formats_model.build(source, tmp_path / "a.ome.zarr")
    with open_image(folder) as image:
        assert np.array_equal(image.levels[0].read(Box((0, 0, 0), (2, 150, 200))), voxels[[0, 2]])
