"""Labels: pyramids of modes that every reader reads alike, beside an image that every validator accepts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from nissl.formats.arrays import array_source
from nissl.formats.grid import is_volume
from nissl.formats.image import open_image
from nissl.formats.label_files import absolute_name, open_label_files
from nissl.formats.labels import LabelsError, check_labels_name, labels_folder, list_labels, plan_labels
from nissl.formats.pyramid import halve_labels
from nissl.formats.stack import StackError
from nissl.formats.tiff import open_tiff_stack
from tests.formats import formats_model
from tests.formats.formats_model import READERS, read_whole, write_planes
from tests.formats.labels_model import PLANES_UM, VOLUME_UM, build, slow_halve, slow_pyramid, some_labels

few_labels = st.sampled_from(["u4", "u8"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
        elements=st.sampled_from([0, 1, 2, 3, int(np.iinfo(dtype).max)]),
    )
)


@given(few_labels, st.sampled_from([2, 3]))
def test_halving_labels_is_the_mode_of_each_block(voxels: NDArray[Any], halved_axes: int) -> None:
    reduced = halve_labels(voxels, halved_axes)
    assert reduced.dtype == voxels.dtype
    assert np.array_equal(reduced, slow_halve(voxels, halved_axes))


@pytest.mark.parametrize(
    ("block", "mode"),
    [
        ([[7, 7], [0, 9]], 7),
        ([[0, 0], [0, 9]], 0),
        ([[0, 0], [9, 9]], 9),
        ([[0, 0], [9, 7]], 0),
        ([[9, 9], [7, 7]], 7),
        ([[9, 8], [7, 0]], 7),
    ],
)
def test_background_wins_only_by_majority_and_a_tie_goes_to_the_smallest_label(
    block: list[list[int]], mode: int
) -> None:
    for turned in range(4):
        assert halve_labels(np.rot90(np.array([block], dtype=np.uint64), turned, axes=(1, 2))).item() == mode


def assert_holds(folder: Path, levels: list[NDArray[Any]]) -> None:
    with open_image(folder) as image:
        assert len(image.levels) == len(levels)
        for level, expected in zip(image.levels, levels, strict=True):
            assert level.dtype == expected.dtype
            assert np.array_equal(read_whole(level), expected)
    assert not list(folder.rglob("*.part")) + list(folder.rglob(".parts"))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 200), st.integers(1, 200)),
    dtype=st.sampled_from(["uint32", "uint64"]),
    shard_edge=st.sampled_from([32, 64, 96]),
)
@example(shape=(2, 150, 131), dtype="uint64", shard_edge=64)
@settings(max_examples=3, deadline=None)
def test_planes_of_labels_made_by_several_processes_are_what_the_slow_model_says(
    shape: tuple[int, int, int], dtype: str, shard_edge: int
) -> None:
    voxels = some_labels(shape, dtype)
    with tempfile.TemporaryDirectory() as place:
        folder = build(voxels, Path(place, "a.ome.zarr"), shard_edge=shard_edge, jobs=2, index=False)
        assert_holds(folder, slow_pyramid(voxels, 32, halved_axes=2))


@given(
    shape=st.tuples(st.integers(8, 40), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["uint32", "uint64"]),
    shard_edge=st.sampled_from([8, 16, 24]),
)
@example(shape=(33, 29, 35), dtype="uint32", shard_edge=16)
@settings(max_examples=3, deadline=None)
def test_a_volume_is_halved_on_all_axes_and_cut_into_cubes(
    shape: tuple[int, int, int], dtype: str, shard_edge: int
) -> None:
    voxels = some_labels(shape, dtype)
    with tempfile.TemporaryDirectory() as place:
        folder = build(
            voxels,
            Path(place, "a.ome.zarr"),
            voxel_size_um=VOLUME_UM,
            chunk_edge=8,
            shard_edge=shard_edge,
            jobs=2,
            index=False,
        )
        assert_holds(folder, slow_pyramid(voxels, 8, halved_axes=3))
        with open_image(folder) as image:
            assert all(level.grid.chunk_shape == (8, 8, 8) for level in image.levels)


def test_what_is_a_volume_and_what_a_stack_of_planes() -> None:
    assert is_volume((512, 512, 512), (0.04, 0.032, 0.032))
    assert is_volume((64, 10, 10), (1.0, 1.0, 1.0))
    assert not is_volume((512, 512, 512), (5.0, 1.0, 1.0))
    assert not is_volume((63, 512, 512), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any]]:
    """A volume beside an image whose pyramid keeps all planes, of several shards."""
    image = tmp_path_factory.mktemp("volume") / "a.ome.zarr"
    picture = formats_model.a_picture((20, 70, 60))
    formats_model.build(open_tiff_stack(write_planes(image.parent / "t", picture)), image, chunk_edge=16, shard_edge=32)
    voxels = some_labels((20, 70, 60), "uint64")
    folder = build(voxels, image, voxel_size_um=(1.0, 1.0, 1.0), chunk_edge=16, shard_edge=32, like=image)
    return folder, voxels


def test_labels_follow_the_levels_of_their_image(volume: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = volume
    assert_holds(folder, slow_pyramid(voxels, 16, halved_axes=2))
    with open_image(folder) as labels, open_image(folder.parents[1]) as image:
        assert [level.shape for level in labels.levels] == [level.shape for level in image.levels]
        assert labels.levels[0].grid.chunk_shape == (16, 16, 16)


@pytest.mark.parametrize("reader", [name for name in READERS if "virtual" not in name])
def test_every_reader_reads_the_same_labels(reader: str, volume: tuple[Path, NDArray[Any]]) -> None:
    folder, voxels = volume
    for number, expected in enumerate(slow_pyramid(voxels, 16, halved_axes=2)):
        assert np.array_equal(READERS[reader](folder, number), expected)


def test_an_independent_package_accepts_labels_their_list_and_their_image(volume: tuple[Path, NDArray[Any]]) -> None:
    folder, _ = volume
    label = ImageLabel.from_zarr(zarr.open_group(folder, mode="r"))
    assert label.ome_attributes.image_label is not None
    assert Labels.from_zarr(zarr.open_group(folder.parent, mode="r")).label_paths == ["bodies"]
    image = Image.from_zarr(zarr.open_group(folder.parents[1], mode="r"))
    assert image.labels is not None


def test_a_level_says_where_its_voxels_lie(tmp_path: Path) -> None:
    folder = build(
        some_labels((32, 20, 33)), tmp_path / "a.ome.zarr", voxel_size_um=(1.0, 1.0, 1.0), chunk_edge=8, shard_edge=8
    )
    multiscale = json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    assert multiscale["type"] == "mode"
    assert multiscale["datasets"][2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [4.0, 4.0, 4.0]},
        {"type": "translation", "translation": [1.5, 1.5, 1.5]},
    ]
    with h5py.File(folder / "2" / "c" / "0" / "0" / "0") as shard:
        assert shard["voxels"].attrs["voxel_size"].tolist() == [4.0, 4.0, 4.0]


def test_labels_of_another_size_than_the_image_are_refused(volume: tuple[Path, NDArray[Any]]) -> None:
    folder, _ = volume
    source = array_source(np.zeros((20, 70, 61), dtype="u4"))
    with open_image(folder.parents[1]) as image, pytest.raises(LabelsError, match=r"20 x 70 x 61.*20 x 70 x 60"):
        plan_labels(source, "a", PLANES_UM, image=image)


def test_labels_are_found_by_name(tmp_path: Path) -> None:
    image = tmp_path / "a.ome.zarr"
    with pytest.raises(LabelsError, match="no labels"):
        labels_folder(image)
    build(some_labels((1, 20, 20)), image, name="cells", index=False)
    assert labels_folder(image) == image / "labels" / "cells"
    build(some_labels((1, 20, 20)), image, name="bodies", index=False)
    assert list_labels(image) == ["bodies", "cells"]
    assert labels_folder(image, "cells").name == "cells"
    with pytest.raises(LabelsError, match=r"bodies, cells"):
        labels_folder(image)
    with pytest.raises(LabelsError, match="it has bodies, cells"):
        labels_folder(image, "layers")
    for name in ("", "../x", "a/b", "-a", ".a"):
        with pytest.raises(LabelsError, match="cannot be called"):
            check_labels_name(name)


class TestFiles:
    voxels = some_labels((3, 20, 30), "uint32")

    def assert_reads(self, name: str, expected: NDArray[Any] | None = None) -> None:
        expected = self.voxels if expected is None else expected
        source = open_label_files([name])
        assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
        assert np.array_equal(source.read(2, range(3, 9), range(5, 30)), expected[2:, 3:9, 5:])
        source.close()
        assert np.array_equal(source.read(0, range(20), range(30)), expected[:1])
        source.close()

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_a_numpy_file(self, order: Any, tmp_path: Path) -> None:  # noqa: ANN401
        np.save(tmp_path / "a.npy", np.array(self.voxels, order=order))
        self.assert_reads(str(tmp_path / "a.npy"))

    def test_a_dataset_of_an_hdf5_file(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["main/labels"] = self.voxels
        self.assert_reads(f"{tmp_path / 'a.h5'}:main/labels")
        for name, reason in ((":", "it has: main/labels"), ("", "it has: main/labels"), (":main", "no dataset 'main'")):
            with pytest.raises(StackError, match=reason):
                open_label_files([f"{tmp_path / 'a.h5'}{name}"])

    def test_a_tiff_stack(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", self.voxels, photometric="minisblack")
        self.assert_reads(str(tmp_path / "a.tif"))

    def test_one_plane(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", self.voxels[0])
        source = open_label_files([str(tmp_path / "a.npy")])
        assert source.shape == (1, 20, 30)
        assert np.array_equal(source.read(0, range(20), range(30)), self.voxels[:1])

    @pytest.mark.parametrize(("stored", "read"), [("u1", "u4"), ("i4", "u4"), ("i8", "u8"), (">u8", "u8"), ("?", "u4")])
    def test_other_integers_are_read_as_labels(self, stored: str, read: str, tmp_path: Path) -> None:
        voxels = (self.voxels % 2).astype(stored)
        np.save(tmp_path / "a.npy", voxels)
        self.assert_reads(str(tmp_path / "a.npy"), voxels.astype(read))

    def test_what_cannot_be_labels_is_refused_in_one_sentence(self, tmp_path: Path) -> None:
        np.save(tmp_path / "float.npy", np.zeros((2, 2, 2)))
        np.save(tmp_path / "four.npy", np.zeros((2, 2, 2, 2), dtype="u4"))
        np.save(tmp_path / "empty.npy", np.zeros((0, 2, 2), dtype="u4"))
        np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
        (tmp_path / "text.npy").write_text("no array")
        (tmp_path / "text.h5").write_text("no HDF5")
        (tmp_path / "a.txt").write_text("labels")
        tifffile.imwrite(tmp_path / "colour.tif", np.zeros((20, 20, 3), dtype="u1"), photometric="rgb")
        for name, reason in {
            "float.npy": "float64",
            "four.npy": "2 x 2 x 2 x 2",
            "empty.npy": "0 x 2 x 2",
            "object.npy": "cannot be read as a NumPy array",
            "text.npy": "cannot be read as a NumPy array",
            "text.h5:a": "cannot be read as HDF5",
            "a.txt": "not a kind of file",
            "colour.tif": "3 channels",
            "none.npy": "does not exist",
        }.items():
            with pytest.raises(StackError, match=reason) as raised:
                open_label_files([str(tmp_path / name)])
            assert name.split(":")[0] in str(raised.value)
        with pytest.raises(StackError, match="only TIFF stacks"):
            open_label_files([str(tmp_path / "float.npy")] * 2)

    def test_a_negative_number_is_refused_where_it_is_met(self, tmp_path: Path) -> None:
        voxels = self.voxels.astype("i8")
        voxels[1, 2, 3] = -7
        np.save(tmp_path / "a.npy", voxels)
        source = open_label_files([str(tmp_path / "a.npy")])
        source.read(0, range(20), range(30))
        with pytest.raises(StackError, match=r"plane 2 of .*a\.npy holds the number -7"):
            source.read(1, range(20), range(30))

    def test_names_can_be_made_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert absolute_name("a.h5:b/c") == f"{tmp_path}/a.h5:b/c"
        assert absolute_name("a:b.npy") == f"{tmp_path}/a:b.npy"


_BUILD = """
import pathlib, re, sys
from nissl.formats.label_files import open_label_files
from nissl.formats.label_index import build_label_index
from nissl.formats.labels import build_labels, plan_labels
from nissl.formats.workers import LocalCrew
if __name__ == "__main__":
    source = open_label_files([sys.argv[1]])
    folder = pathlib.Path(sys.argv[2])
    build_labels(source, folder, plan_labels(source, "a", eval(sys.argv[3]), shard_edge=1024), crew=LocalCrew(1))
    build_label_index(folder, jobs=1)
    # Not ru_maxrss for this process itself: Linux hands that of pytest, which started it, down through fork and exec.
    print(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("voxel_size_um", [PLANES_UM, VOLUME_UM])
def test_memory_does_not_grow_with_the_volume(voxel_size_um: tuple[float, float, float], tmp_path: Path) -> None:
    # 1 GB of voxels that take no room, in one region: regions in further processes take as much again.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (128, 1024, 1024), "u8", chunks=(64, 64, 64), fillvalue=2**60)
    (tmp_path / "build.py").write_text(_BUILD)
    command = [sys.executable, "build.py", "a.h5:a", "labels", repr(voxel_size_um)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000
