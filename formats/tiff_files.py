"""TIFF files as a kind of source: how they are recognised, and what they say about the size of a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tifffile

from nissl.formats.pixel_size import PixelSize, from_imagej, from_ome_xml, from_resolution
from nissl.formats.stack import PlaneSource, Reading, StackError
from nissl.formats.tiff import open_tiff_stack

_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def claims(name: str) -> bool:
    """Whether `name` is that of a TIFF file, or the file begins like one whatever its name."""
    path = Path(name)
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) in _STARTS
    except OSError:
        return False


def open_source(names: Sequence[str], how: Reading) -> PlaneSource:
    """The stack that the files hold. Raises StackError as `open_tiff_stack` does."""
    return open_tiff_stack([Path(name).absolute() for name in names], skip=how.skip)


def pixel_size(names: Sequence[str]) -> PixelSize:
    """What the first of the files that can be read says: its OME-XML, else ImageJ, else the resolution tags."""
    reason = ""
    for name in names:
        path = Path(name)
        try:
            with tifffile.TiffFile(path) as tiff:
                return _pixel_size(tiff, path.name)
        # tifffile answers damaged structure with many kinds of error.
        except Exception as error:  # noqa: BLE001
            reason = reason or f"{path} cannot be read as TIFF ({str(error) or type(error).__name__})"
    raise StackError(f"{reason}: scan it again, or give --pixel-size Z Y X")


def _pixel_size(tiff: tifffile.TiffFile, name: str) -> PixelSize:
    if tiff.ome_metadata:
        found = from_ome_xml(tiff.ome_metadata, f"OME-XML of {name}")
        if found.said:
            return found
    tags = tiff.pages.first.tags
    x, y = (_pixels_per_unit(tags.valueof(tag)) for tag in ("XResolution", "YResolution"))
    unit = tags.valueof("ResolutionUnit")
    if tiff.is_imagej and tiff.imagej_metadata is not None:
        found = from_imagej(tiff.imagej_metadata, x, y, f"ImageJ metadata of {name}")
        if found.said:
            return found
    return from_resolution(x, y, int(unit) if unit is not None else 2, f"resolution tags of {name}")


def _pixels_per_unit(value: object) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return None
