from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from nissl.formats.stack import StackError
from nissl.formats.tiff import TiffStack, open_tiff_stack
from tests.formats.formats_model import a_picture, write_planes

SHAPE = (3, 70, 90)


def read_whole(stack: TiffStack) -> NDArray[Any]:
    """(planes, channels or 1, height, width), read in bands of an odd number of rows."""
    planes, height, width = stack.shape
    voxels = []
    for plane in range(planes):
        bands = [stack.read(plane, range(top, min(top + 17, height)), range(width)) for top in range(0, height, 17)]
        voxels.append(np.concatenate(bands, axis=1))
    stack.close()
    return np.stack(voxels)


LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {"rowsperstrip": SHAPE[1]},
    "strips": {"rowsperstrip": 8},
    "strips, LZW": {"rowsperstrip": 8, "compression": "lzw"},
    "strips, deflate": {"rowsperstrip": 8, "compression": "deflate"},
    "strips, deflate with predictor": {"rowsperstrip": 8, "compression": "deflate", "predictor": True},
    "strips, zstd": {"rowsperstrip": 8, "compression": "zstd"},
    "strips, packbits": {"rowsperstrip": 8, "compression": "packbits"},
    "one strip, LZW": {"rowsperstrip": SHAPE[1], "compression": "lzw"},
    "tiles": {"tile": (32, 48)},
    "tiles, LZW": {"tile": (32, 48), "compression": "lzw"},
    "tiles, deflate": {"tile": (32, 48), "compression": "deflate"},
    "tiles, zstd with predictor": {"tile": (32, 48), "compression": "zstd", "predictor": True},
    "tiles, big-endian": {"tile": (32, 48), "byteorder": ">"},
    "strips, big-endian": {"rowsperstrip": 8, "byteorder": ">"},
    "strips, LZW, big-endian": {"rowsperstrip": 8, "compression": "lzw", "byteorder": ">"},
    "BigTIFF, strips": {"bigtiff": True, "rowsperstrip": 8},
    "BigTIFF, tiles": {"bigtiff": True, "tile": (32, 48)},
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_layout_is_read_as_tifffile_reads_it(layout: str, dtype: str, tmp_path: Path) -> None:
    voxels = a_picture(SHAPE, dtype)
    options = {**LAYOUTS[layout]}
    stack = open_tiff_stack(write_planes(tmp_path, voxels, **options))
    assert (stack.shape, stack.dtype, stack.channels) == (SHAPE, np.dtype(dtype), None)
    assert stack.whole_rows == ("strip" in layout)
    assert np.array_equal(read_whole(stack), voxels[:, np.newaxis])


@every_layout
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_every_layout_of_colour_is_read_with_channels_first(layout: str, planarconfig: str, tmp_path: Path) -> None:
    colours = a_picture((*SHAPE, 3), "uint8")
    stored = np.moveaxis(colours, -1, 1) if planarconfig == "separate" else colours
    paths = [tmp_path / f"z{number}.tif" for number in range(3)]
    for path, plane in zip(paths, stored, strict=True):
        tifffile.imwrite(path, plane, photometric="rgb", planarconfig=planarconfig, **LAYOUTS[layout])
    stack = open_tiff_stack(paths)
    assert (stack.shape, stack.channels) == (SHAPE, 3)
    assert np.array_equal(read_whole(stack), np.moveaxis(colours, -1, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_type_of_sample_arrives_in_native_byte_order(dtype: str, byteorder: str, tmp_path: Path) -> None:
    voxels = a_picture(SHAPE, dtype)
    read = read_whole(open_tiff_stack(write_planes(tmp_path, voxels, byteorder=byteorder)))
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert np.array_equal(read[:, 0], voxels)


@pytest.mark.parametrize("tile", [None, (32, 32)])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_is_decoded_as_tifffile_decodes_it(tile: tuple[int, int] | None, colour: bool, tmp_path: Path) -> None:
    voxels = a_picture((*SHAPE, 3) if colour else SHAPE, "uint8")
    paths = write_planes(tmp_path, voxels, tile=tile, compression="jpeg")
    expected = np.stack([tifffile.imread(path) for path in paths])
    read = read_whole(open_tiff_stack(paths))
    assert np.array_equal(read, np.moveaxis(expected, -1, 1) if colour else expected[:, np.newaxis])


def test_jpeg_strips_with_shared_tables_as_libtiff_writes_them_are_decoded(tmp_path: Path) -> None:
    colours = a_picture((*SHAPE, 3), "uint8")
    paths = [tmp_path / f"z{number}.tif" for number in range(3)]
    for path, plane in zip(paths, colours, strict=True):
        PillowImage.fromarray(plane).save(path, compression="jpeg")
    expected = np.stack([tifffile.imread(path) for path in paths])
    assert np.array_equal(read_whole(open_tiff_stack(paths)), np.moveaxis(expected, -1, 1))


@given(data=st.data())
@settings(max_examples=60)
def test_any_rectangle_can_be_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    folder = tmp_path_factory.getbasetemp() / f"rectangles-{layout}"
    voxels = a_picture(SHAPE)
    files = sorted(folder.glob("*.tif")) or write_planes(folder, voxels, **LAYOUTS[layout])
    stack = open_tiff_stack(files)
    for _ in range(3):  # several from the same stack: what one read keeps must not disturb the next
        plane = data.draw(st.integers(0, SHAPE[0] - 1))
        top, left = data.draw(st.integers(0, SHAPE[1] - 1)), data.draw(st.integers(0, SHAPE[2] - 1))
        bottom, right = data.draw(st.integers(top + 1, SHAPE[1])), data.draw(st.integers(left + 1, SHAPE[2]))
        part = stack.read(plane, range(top, bottom), range(left, right))
        assert np.array_equal(part, voxels[plane : plane + 1, top:bottom, left:right])
    stack.close()


@pytest.mark.parametrize(
    "options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"ome": True}, {"imagej": True}, {"tile": (32, 32)}], ids=str
)
def test_one_file_of_many_pages_is_a_stack(options: dict[str, Any], tmp_path: Path) -> None:
    voxels = a_picture((5, 40, 50))
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, voxels, photometric="minisblack", metadata={"axes": "ZYX"}, **options)
    stack = open_tiff_stack([path])
    assert stack.files == (path,)
    assert np.array_equal(read_whole(stack)[:, 0], voxels)


@pytest.mark.parametrize("options", [{}, {"metadata": None}], ids=["with metadata", "without metadata"])
def test_pages_written_one_by_one_are_a_stack(options: dict[str, Any], tmp_path: Path) -> None:
    voxels = a_picture((5, 40, 50))
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for plane in voxels:
            file.write(plane, compression="lzw", **options)
    assert np.array_equal(read_whole(open_tiff_stack([tmp_path / "stack.tif"]))[:, 0], voxels)


def test_a_single_plane_is_a_stack_of_one(tmp_path: Path) -> None:
    voxels = a_picture((1, 40, 50))
    assert open_tiff_stack(write_planes(tmp_path, voxels)).shape == (1, 40, 50)


def test_planes_are_put_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    voxels = a_picture((12, 8, 8))
    files = write_planes(tmp_path, voxels)
    read = read_whole(open_tiff_stack(sorted(files, key=str)))  # z1, z10, z11, z12, z2, ...
    assert np.array_equal(read[:, 0], voxels)


def test_a_stack_travels_to_another_process_without_its_open_files(tmp_path: Path) -> None:
    voxels = a_picture(SHAPE)
    stack = open_tiff_stack(write_planes(tmp_path, voxels, tile=(32, 32)))
    stack.read(0, range(10), range(10))
    assert np.array_equal(read_whole(pickle.loads(pickle.dumps(stack)))[:, 0], voxels)  # noqa: S301
    stack.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_reading_planes_one_after_the_other_keeps_one_file_open(tmp_path: Path) -> None:
    stack = open_tiff_stack(write_planes(tmp_path, a_picture((9, 8, 8))))
    before = open_files()
    for plane in range(9):
        stack.read(plane, range(8), range(8))
    assert open_files() == before + 1
    stack.close()
    assert open_files() == before


@pytest.fixture
def planes(tmp_path: Path) -> list[Path]:
    """Five good planes."""
    return write_planes(tmp_path, a_picture((5, 24, 32)))


def test_a_gap_in_the_numbering_names_the_plane_and_the_remedy(planes: list[Path]) -> None:
    with pytest.raises(StackError) as error:
        open_tiff_stack(planes[:2] + planes[3:])
    assert str(error.value) == (
        "plane 3 of 5 is missing (no file between sample-0042_z2.tif and sample-0042_z4.tif): "
        "rescan it or leave it out with --skip 3"
    )


def test_a_skipped_gap_leaves_the_other_planes_their_numbers(planes: list[Path]) -> None:
    stack = open_tiff_stack(planes[:2] + planes[3:], skip=[3])
    assert [page.number for page in stack.pages] == [1, 2, 4, 5]
    assert stack.shape[0] == 4
    planes[3].unlink()
    with pytest.raises(StackError, match=r"plane 4 .*leave it out with --skip 4"):
        stack.read(2, range(1), range(1))


def test_a_skipped_plane_is_not_opened(planes: list[Path]) -> None:
    planes[1].write_bytes(b"not a TIFF")
    assert open_tiff_stack(planes, skip=[2]).shape[0] == 4


def test_pages_of_one_file_can_be_skipped(tmp_path: Path) -> None:
    voxels = a_picture((4, 8, 8))
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    stack = open_tiff_stack([tmp_path / "stack.tif"], skip=[1, 3])
    assert np.array_equal(read_whole(stack)[:, 0], voxels[[1, 3]])


def broken(error: Exception) -> str:
    """The message, which must be one sentence for a user."""
    message = str(error)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_a_plane_of_another_size_is_named_with_both_sizes(planes: list[Path]) -> None:
    tifffile.imwrite(planes[3], np.ones((20, 32), "uint16"))
    with pytest.raises(StackError) as error:
        open_tiff_stack(planes)
    assert str(error.value) == (
        "plane 4 of 5 (sample-0042_z4.tif) is 32x20 uint16, the others are 32x24 uint16: "
        "rescan it or leave it out with --skip 4"
    )
    assert open_tiff_stack(planes, skip=[4]).shape == (4, 24, 32)


def test_the_first_plane_can_be_the_stranger(planes: list[Path]) -> None:
    tifffile.imwrite(planes[0], np.ones((20, 32), "uint16"))
    with pytest.raises(StackError, match=r"plane 1 of 5 .* is 32x20 uint16, the others are 32x24"):
        open_tiff_stack(planes)


def test_a_plane_of_another_type_is_named_with_both_types(planes: list[Path]) -> None:
    tifffile.imwrite(planes[2], np.ones((24, 32), "uint8"))
    with pytest.raises(StackError, match=r"plane 3 of 5 .* is 32x24 uint8, the others are 32x24 uint16"):
        open_tiff_stack(planes)


def test_a_colour_plane_among_grey_ones_is_named(planes: list[Path]) -> None:
    tifffile.imwrite(planes[2], np.ones((24, 32, 3), "uint16"), photometric="rgb")
    with pytest.raises(StackError, match=r"plane 3 of 5 .* is 32x24 uint16, 3 channels, the others are"):
        open_tiff_stack(planes)


def test_a_page_of_another_size_in_one_file_is_named_and_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as file:
        for height in (24, 24, 20, 24):
            file.write(np.ones((height, 32), "uint16"), metadata=None)
    with pytest.raises(StackError, match=r"plane 3 of 4 \(page 3 of stack\.tif\) is 32x20 uint16.*--skip 3"):
        open_tiff_stack([path])
    assert open_tiff_stack([path], skip=[3]).shape == (3, 24, 32)


def test_pages_that_are_stored_in_different_ways_are_one_stack(tmp_path: Path) -> None:
    voxels = a_picture((3, 40, 50))
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for plane, options in zip(voxels, ({}, {"compression": "lzw"}, {"tile": (16, 16)}), strict=True):
            file.write(plane, metadata=None, **options)  # type: ignore[arg-type]
    assert np.array_equal(read_whole(open_tiff_stack([tmp_path / "stack.tif"]))[:, 0], voxels)


def test_thumbnails_and_pyramid_levels_in_a_file_are_no_planes(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    voxels = a_picture((3, 64, 64))
    with tifffile.TiffWriter(path) as file:
        for plane in voxels:
            file.write(plane, metadata=None, subifds=1)
            file.write(plane[::2, ::2], metadata=None, subfiletype=1)
        file.write(voxels[0, ::8, ::8], metadata=None, subfiletype=1)
    assert np.array_equal(read_whole(open_tiff_stack([path]))[:, 0], voxels)


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 5, 24, 32), "CZYX"), ((2, 5, 24, 32), "TZYX"), ((5, 2, 24, 32), "ZCYX")], ids=str
)
@pytest.mark.parametrize("kind", ["ome", "imagej", "plain"])
def test_channels_or_times_stored_as_pages_are_not_mistaken_for_planes(
    shape: tuple[int, ...], axes: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "stack.tif"
    if kind == "imagej" and axes != "ZCYX":
        axes, shape = "TZYX", (2, 5, 24, 32)
    options: dict[str, Any] = {} if kind == "plain" else {kind: True}
    tifffile.imwrite(path, np.ones(shape, "uint16"), photometric="minisblack", metadata={"axes": axes}, **options)
    with pytest.raises(StackError, match=r"stack\.tif holds \d+ (channels|times).*: save each as a z-stack of its own"):
        open_tiff_stack([path])


def test_the_files_of_an_ome_tiff_set_are_one_plane_each(tmp_path: Path) -> None:
    voxels = a_picture((3, 24, 32))
    names = [f"z{number}.ome.tif" for number in range(3)]
    uuids = [f"urn:uuid:00000000-0000-4000-8000-00000000000{number}" for number in range(3)]
    places = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" FirstC="0" FirstT="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID>'
        "</TiffData>"
        for z, (name, uuid) in enumerate(zip(names, uuids, strict=True))
    )
    for name, uuid, plane in zip(names, uuids, voxels, strict=True):
        header = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="32" '
            f'SizeY="24" SizeZ="3" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{places}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / name, plane, description=header, metadata=None)
    stack = open_tiff_stack([tmp_path / name for name in names])
    assert np.array_equal(read_whole(stack)[:, 0], voxels)
    with pytest.raises(StackError, match=r"z0\.ome\.tif is one of several files of an OME-TIFF set: name all of them"):
        open_tiff_stack([tmp_path / "z0.ome.tif"])


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize("left", [0.9, 0.5, 0.001])
def test_a_plane_cut_short_is_named(options: dict[str, Any], left: float, tmp_path: Path) -> None:
    planes = write_planes(tmp_path, a_picture((5, 24, 32)), **options)
    os.truncate(planes[1], int(planes[1].stat().st_size * left))
    with pytest.raises(StackError, match=r"plane 2 of 5 \(.*_z2\.tif\) .*--skip 2") as error:
        open_tiff_stack(planes)
    broken(error.value)


def test_a_file_of_many_pages_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, a_picture((5, 24, 32)), photometric="minisblack")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StackError, match=r"stack\.tif is cut short"):
        open_tiff_stack([path])


def test_a_file_of_many_pages_whose_last_pages_are_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in a_picture((5, 24, 32)):
            file.write(plane, metadata=None)
    with tifffile.TiffFile(path) as file:
        fourth = file.pages[3].offset
    os.truncate(path, fourth)  # three whole pages, and the announcement of a fourth
    with pytest.raises(StackError, match=r"stack\.tif is cut short"):
        open_tiff_stack([path])


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw"])
def test_damaged_compressed_data_names_plane_and_file(compression: str, tmp_path: Path) -> None:
    planes = write_planes(tmp_path, a_picture((5, 24, 32)), compression=compression, rowsperstrip=24)
    with tifffile.TiffFile(planes[2]) as file:
        offset, nbytes = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(planes[2].read_bytes())
    data[offset : offset + nbytes] = b"\xff" * nbytes
    planes[2].write_bytes(data)
    stack = open_tiff_stack(planes)
    with pytest.raises(StackError, match=r"plane 3 \(.*_z3\.tif\) cannot be read at row 0: .*--skip 3") as error:
        stack.read(2, range(24), range(32))
    broken(error.value)


@pytest.mark.parametrize("content", [b"", b"II", b"not a TIFF at all, but long enough to look for a header" * 9])
def test_a_file_that_is_no_tiff_is_named(content: bytes, planes: list[Path]) -> None:
    planes[4].write_bytes(content)
    with pytest.raises(StackError, match=r"plane 5 of 5 \(.*_z5\.tif\) cannot be read as TIFF .*--skip 5") as error:
        open_tiff_stack(planes)
    broken(error.value)


def test_a_missing_file_is_named(planes: list[Path]) -> None:
    planes[0].unlink()
    with pytest.raises(StackError, match=r"plane 1 of 5 \(.*_z1\.tif\) does not exist"):
        open_tiff_stack(planes)


def test_a_dangling_annex_link_is_named(planes: list[Path]) -> None:
    planes[0].unlink()
    planes[0].symlink_to("gone")
    with pytest.raises(StackError, match=r"plane 1 of 5 \(.*_z1\.tif\) does not exist"):
        open_tiff_stack(planes)


def test_a_folder_is_answered_with_how_to_name_its_files(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"is a folder: name the TIFF files in it"):
        open_tiff_stack([tmp_path])


def test_no_files_are_refused() -> None:
    with pytest.raises(StackError, match="no files given"):
        open_tiff_stack([])


def test_skipping_every_plane_is_refused(planes: list[Path]) -> None:
    with pytest.raises(StackError, match="all 5 planes are left out"):
        open_tiff_stack(planes, skip=range(1, 6))


@pytest.mark.parametrize("number", [0, 6, -1])
def test_skipping_a_plane_that_does_not_exist_is_refused(number: int, planes: list[Path]) -> None:
    with pytest.raises(StackError, match=rf"--skip {number}: the stack has planes 1 to 5"):
        open_tiff_stack(planes, skip=[number])


def test_a_colour_palette_is_refused(tmp_path: Path) -> None:
    palette = np.zeros((3, 256), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), "uint8"), photometric="palette", colormap=palette)
    with pytest.raises(StackError, match="uses a colour palette: save it as grey or RGB"):
        open_tiff_stack([tmp_path / "a.tif"])


def test_bits_are_refused(tmp_path: Path) -> None:
    PillowImage.new("1", (16, 16)).save(tmp_path / "a.tif")
    with pytest.raises(StackError, match="has 1-bit samples: save it as 8, 16 or 32-bit"):
        open_tiff_stack([tmp_path / "a.tif"])


def test_half_floats_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    for dtype in ("float16", "complex64"):
        tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), dtype))
        with pytest.raises(StackError, match="-bit samples"):
            open_tiff_stack([tmp_path / "a.tif"])


def test_grey_where_low_is_white_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), "uint8"), photometric="miniswhite")
    with pytest.raises(StackError, match="low values are white"):
        open_tiff_stack([tmp_path / "a.tif"])


def test_a_multi_page_file_among_several_is_refused(planes: list[Path]) -> None:
    tifffile.imwrite(planes[1], a_picture((2, 24, 32)), photometric="minisblack")
    with pytest.raises(StackError, match=r"_z2\.tif holds 2 pages, but 5 files were given"):
        open_tiff_stack(planes)


def test_a_hyperstack_behind_one_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, a_picture((5, 24, 32)), imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        second = file.pages[1].offset
    # What ImageJ does beyond 4 GB: one page, the others' voxels behind it. Cut the chain after the first page.
    data = path.read_bytes()
    position = data.find(second.to_bytes(4, "big" if data[:2] == b"MM" else "little"))
    path.write_bytes(data[:position] + bytes(4) + data[position + 4 :])
    with pytest.raises(StackError, match="save it with one page per plane"):
        open_tiff_stack([path])


def test_the_real_stack_opens_as_it_is(zstack_files: list[Path]) -> None:
    stack = open_tiff_stack(zstack_files)
    assert stack.shape == (30, 510, 667)
    assert stack.dtype == np.uint16
    plane = stack.read(7, range(100, 300), range(50, 60))
    stack.close()
    assert np.array_equal(plane[0], tifffile.imread(zstack_files[7])[100:300, 50:60])
