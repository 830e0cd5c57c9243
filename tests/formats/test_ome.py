from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from nissl.formats import ome
from nissl.formats.tiff import open_tiff_stack
from tests.formats.formats_model import a_picture, build, write_planes


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grey")
    return build(open_tiff_stack(write_planes(folder / "t", a_picture((3, 150, 200)))), folder / "grey.ome.zarr")


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour")
    planes = a_picture((2, 100, 90, 3), "uint8")
    return build(open_tiff_stack(write_planes(folder / "t", planes)), folder / "colour.ome.zarr")


def test_an_independent_package_accepts_the_metadata(grey: Path, colour: Path) -> None:
    for folder, axes in ((grey, "zyx"), (colour, "czyx")):
        image = Image.from_zarr(zarr.open_group(folder, mode="r"))
        multiscale = image.ome_attributes.multiscales[0]
        assert [axis.name for axis in multiscale.axes] == list(axes)
        assert image.ome_attributes.version == "0.5"


def test_lengths_have_a_unit_and_channels_have_none(colour: Path) -> None:
    axes = json.loads((colour / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["axes"]
    assert axes[0] == {"name": "c", "type": "channel"}
    assert axes[1:] == [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]


def test_dimensions_are_named_in_the_arrays(grey: Path, colour: Path) -> None:
    for folder, axes in ((grey, ("z", "y", "x")), (colour, ("c", "z", "y", "x"))):
        document = json.loads((folder / "1" / "zarr.json").read_text())
        assert document["dimension_names"] == list(axes)


def test_the_centre_of_a_coarse_voxel_lies_in_the_middle_of_those_it_averages() -> None:
    document = ome.group_document("a", ("z", "y", "x"), (5.0, 1.0, 2.0), 4, (), np.dtype("u2"))
    datasets = document["attributes"]["ome"]["multiscales"][0]["datasets"]
    for level, dataset in enumerate(datasets):
        scale, *translation = dataset["coordinateTransformations"]
        centres = np.arange(2**level)  # of the level-0 voxels that the first voxel of this level is the mean of
        assert scale["scale"] == [5.0, 2**level * 1.0, 2**level * 2.0]
        if level:
            assert translation[0]["translation"] == [0.0, centres.mean() * 1.0, centres.mean() * 2.0]
        else:
            assert translation == []


def test_colour_is_shown_as_the_scanner_saw_it(colour: Path) -> None:
    channels = json.loads((colour / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert {(channel["window"]["start"], channel["window"]["end"]) for channel in channels} == {(0.0, 255.0)}


def test_the_display_window_of_a_grey_image_lies_where_its_intensities_are(grey: Path) -> None:
    (channel,) = json.loads((grey / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    window = channel["window"]
    assert (window["min"], window["max"]) == (0, 65535)
    assert 1 <= window["start"] < window["end"] <= 120


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_every_type_of_voxel_gets_valid_metadata(dtype: str, tmp_path: Path) -> None:
    folder = build(
        open_tiff_stack(write_planes(tmp_path / "t", a_picture((3, 20, 20), dtype))), tmp_path / "a.ome.zarr"
    )
    Image.from_zarr(zarr.open_group(folder, mode="r"))
    assert zarr.open_array(folder / "0", mode="r").dtype == dtype


def test_an_image_of_one_intensity_has_a_display_window_that_is_not_empty(tmp_path: Path) -> None:
    flat = np.full((3, 20, 20), 9, dtype="uint8")
    folder = build(open_tiff_stack(write_planes(tmp_path / "t", flat)), tmp_path / "a.ome.zarr")
    (channel,) = json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    assert channel["window"]["start"] < channel["window"]["end"]
