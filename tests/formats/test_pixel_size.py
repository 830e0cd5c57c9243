"""The size of a voxel as files say it, and what is not believed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from nissl.formats.pixel_size import (
    PixelSize,
    PixelSizeError,
    from_element_size,
    from_ome_xml,
    from_ome_zarr,
    from_resolution,
    resolve,
)
from nissl.formats.sources import pixel_size
from nissl.formats.stack import StackError
from tests.formats.formats_model import a_picture
from tests.formats.sources_model import write_hdf5, write_ome_zarr, write_zarr

VOXELS = a_picture((3, 20, 30))
LENGTHS = st.floats(1e-3, 1e3).map(lambda length: float(f"{length:.6g}"))


def a_tiff(folder: Path, **options: Any) -> str:  # noqa: ANN401
    tifffile.imwrite(folder / "a.tif", VOXELS, photometric="minisblack", **options)
    return str(folder / "a.tif")


def refusal(name: str) -> str:
    with pytest.raises(PixelSizeError) as raised:
        pixel_size([name])
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("unit", "in_um"), [(None, 1.0), ("µm", 1.0), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("Å", 1e-4), ("pm", 1e-6)]
)
def test_ome_tiff_says_all_three_in_any_unit(unit: str | None, in_um: float, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, um in zip("ZYX", (5.0, 0.5, 0.25), strict=True):
        metadata |= {f"PhysicalSize{axis}": um / in_um} | ({f"PhysicalSize{axis}Unit": unit} if unit else {})
    found = pixel_size([a_tiff(tmp_path, ome=True, metadata=metadata)])
    assert found.um == (5.0, 0.5, 0.25)
    assert found.origin == "OME-XML of a.tif"


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "parsec"])
def test_a_unit_that_is_no_length_here_says_nothing(unit: str, tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": unit}
    assert "does not say its pixel size: give --pixel-size Z Y X" in refusal(
        a_tiff(tmp_path, ome=True, metadata=metadata)
    )


def test_ome_xml_that_is_broken_or_without_sizes_says_nothing() -> None:
    for xml in ("<OME", "<OME/>", "<OME><Image><Pixels/></Image></OME>", '<OME><Pixels PhysicalSizeX="wide"/></OME>'):
        assert not from_ome_xml(xml, "").said


@pytest.mark.parametrize(("unit", "in_um"), [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3)])
def test_imagej_says_all_three(unit: str, in_um: float, tmp_path: Path) -> None:
    name = a_tiff(
        tmp_path, imagej=True, resolution=(4 * in_um, 2 * in_um), metadata={"spacing": 5 / in_um, "unit": unit}
    )
    found = pixel_size([name])
    assert found.um == pytest.approx((5, 0.5, 0.25), rel=1e-6)
    assert found.origin == "ImageJ metadata of a.tif"


def test_imagej_without_spacing_asks_for_z_and_repeats_the_rest(tmp_path: Path) -> None:
    said = refusal(a_tiff(tmp_path, imagej=True, resolution=(4, 2), metadata={"unit": "um"}))
    assert said == (
        "a.tif says y 0.5 um, x 0.25 um (ImageJ metadata of a.tif) but not z: "
        "give --pixel-size Z 0.5 0.25 in micrometres"
    )


@pytest.mark.parametrize(("unit", "per_um"), [("CENTIMETER", 1e4), ("INCH", 25400)])
def test_resolution_tags_say_y_and_x_but_never_z(unit: str, per_um: float, tmp_path: Path) -> None:
    said = refusal(a_tiff(tmp_path, resolution=(per_um / 0.25, per_um / 0.5), resolutionunit=unit))
    assert "says y 0.5 um, x 0.25 um (resolution tags of a.tif) but not z" in said


@pytest.mark.parametrize("imagej", [False, True])
@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 300, 600, 1200])
def test_what_screens_and_printers_want_is_no_pixel_size(dpi: int, imagej: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"imagej": True, "metadata": {"unit": "inch", "spacing": 1}} if imagej else {}
    said = refusal(a_tiff(tmp_path, resolution=(dpi, dpi), resolutionunit="INCH", **options))
    assert re.search(r"does not say its pixel size \(its resolution tags say [\d.e+]+ um, which no microscope", said)
    assert "give --pixel-size Z Y X in micrometres" in said


def test_a_film_scanners_2400_dpi_are_believed_and_a_unit_that_is_none_is_not() -> None:
    assert from_resolution(2400, 2400, 2, "").x == pytest.approx(25400 / 2400)
    assert not from_resolution(4, 4, 1, "").said
    assert not from_resolution(0, 0, 3, "").said
    assert not from_resolution(None, None, 3, "").said
    assert not from_resolution(1e9, 1e9, 3, "").said


def test_tiff_without_any_says_so(tmp_path: Path) -> None:
    assert refusal(a_tiff(tmp_path)) == "a.tif does not say its pixel size: give --pixel-size Z Y X in micrometres"


def test_the_first_file_that_can_be_read_is_asked(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0, "PhysicalSizeZ": 5.0}
    name = a_tiff(tmp_path, ome=True, metadata=metadata)
    (tmp_path / "0.tif").write_text("no TIFF")
    assert pixel_size([str(tmp_path / "0.tif"), name]).um == (5, 1, 1)
    with pytest.raises(StackError, match=r"0\.tif cannot be read as TIFF"):
        pixel_size([str(tmp_path / "0.tif")])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_says_it_where_its_axes_have_units(version: str, tmp_path: Path) -> None:
    name = write_ome_zarr(tmp_path / "a.zarr", VOXELS, "zyx", version, (5000, 500, 250), "nanometer")
    assert pixel_size([name]).um == (5.0, 0.5, 0.25)
    name = write_ome_zarr(tmp_path / "b.zarr", VOXELS, "zyx", version, (5, 1, 1), unit=None)
    assert "does not say its pixel size" in refusal(name)


def test_the_scale_of_an_ome_zarr_is_that_of_level_0_times_that_of_all() -> None:
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "unit": "micrometer"} for axis in "zyx")]
    level = {"coordinateTransformations": [{"type": "scale", "scale": [1, 5, 2, 3]}]}
    both = [{"type": "scale", "scale": [1, 1, 0.5, 0.5]}, {"type": "translation", "translation": [0, 0, 0, 0]}]
    multiscale = {"axes": axes, "datasets": [level, {}], "coordinateTransformations": both}
    assert from_ome_zarr(multiscale, "here") == PixelSize(5, 1, 1.5, "here")
    assert not from_ome_zarr({"axes": axes, "datasets": [{}]}, "").said
    assert not from_ome_zarr({"axes": ["z", "y", "x"], "datasets": [level]}, "").said


def test_hdf5_says_it_in_element_size_um(tmp_path: Path) -> None:
    name = write_hdf5(tmp_path / "a.h5", VOXELS, None)
    assert "does not say its pixel size" in refusal(name)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["raw"].attrs["element_size_um"] = [5.0, 0.5, 0.25]
    assert pixel_size([name]).um == (5, 0.5, 0.25)
    for value in ([5.0, 0.5], "five", None, ["a", "b", "c"], [0, 0, 0], [np.nan] * 3):
        assert not from_element_size(value, "").said


def test_arrays_without_a_place_for_it_say_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOXELS)
    assert "a.npy does not say its pixel size" in refusal(str(tmp_path / "a.npy"))
    assert "b.zarr does not say its pixel size" in refusal(write_zarr(tmp_path / "b.zarr", VOXELS, None, 3))


@given(*[st.none() | LENGTHS] * 3)
def test_what_is_missing_is_asked_for_and_what_is_known_is_repeated(
    z: float | None, y: float | None, x: float | None
) -> None:
    found = PixelSize(z, y, x, "somewhere")
    if z is not None and y is not None and x is not None:
        assert resolve(found, "a.tif").um == (z, y, x)
        return
    with pytest.raises(PixelSizeError) as raised:
        resolve(found, "a.tif")
    given_words = re.search(r"give --pixel-size (\S+) (\S+) (\S+) in micrometres$", str(raised.value))
    assert given_words is not None
    for word, axis, length in zip(given_words.groups(), "ZYX", (z, y, x), strict=True):
        assert word == axis if length is None else float(word) == pytest.approx(length, rel=1e-5)


@given(LENGTHS, LENGTHS, LENGTHS)
def test_ome_xml_is_read_without_losing_a_digit(z: float, y: float, x: float) -> None:
    pixels = f'<Pixels PhysicalSizeX="{x}" PhysicalSizeY="{y}" PhysicalSizeZ="{z}"/>'
    assert from_ome_xml(f'<OME xmlns="http://o"><Image>{pixels}</Image></OME>', "") == PixelSize(z, y, x)
