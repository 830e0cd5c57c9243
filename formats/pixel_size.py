"""The size of a voxel as files say it: OME-XML, ImageJ, TIFF's resolution tags, OME-Zarr, HDF5. Pure.

Programs write resolutions that are none: 72, 96 or 300 dots per inch are what a screen or a printer wants. Resolution
tags are believed only from 1 nm to 20 um a pixel; 1200 dpi are 21 um, and film scanners begin at 2400.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nissl.errors import NisslError

SMALLEST_UM, LARGEST_UM = 0.001, 20.0
"""What resolution tags are believed to mean."""

_UM = {
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("å", "å", "angstrom"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("inch", "inches", "in"), 25400.0),
}
_COARSE = ("inch", "inches", "in", "cm", "centimeter")
"""Units that ImageJ takes over from resolution tags."""


class PixelSizeError(NisslError):
    """A source that does not say how large its voxels are."""


@dataclass(frozen=True)
class PixelSize:
    """What a source says: lengths in um, None for an axis of which it says nothing."""

    z: float | None = None
    y: float | None = None
    x: float | None = None
    origin: str = ""
    """Where it says so."""
    doubt: str = ""
    """What was found there but not believed."""

    @property
    def said(self) -> bool:
        return not (self.z is self.y is self.x is None)


@dataclass(frozen=True)
class Resolved:
    """The pixel size to use."""

    um: tuple[float, float, float]
    """(z, y, x)"""
    origin: str


COMMAND_LINE = "command line"


def resolve(found: PixelSize, name: str) -> Resolved:
    """What a source said, if that is all. Raises PixelSizeError saying what is missing and what to give."""
    if found.z is not None and found.y is not None and found.x is not None:
        return Resolved((found.z, found.y, found.x), found.origin)
    lengths = {"z": found.z, "y": found.y, "x": found.x}
    remedy = " ".join(axis.upper() if um is None else f"{um:.6g}" for axis, um in lengths.items())
    if not found.said:
        why = f" ({found.doubt})" if found.doubt else ""
        raise PixelSizeError(f"{name} does not say its pixel size{why}: give --pixel-size Z Y X in micrometres")
    said = ", ".join(f"{axis} {um:.6g} um" for axis, um in lengths.items() if um is not None)
    missing = " and ".join(axis for axis, um in lengths.items() if um is None)
    raise PixelSizeError(
        f"{name} says {said} ({found.origin}) but not {missing}: give --pixel-size {remedy} in micrometres"
    )


def from_ome_xml(xml: str, origin: str) -> PixelSize:
    """PhysicalSizeX, Y and Z of the first image; a unit that is not said is um (OME schema 2016-06)."""
    try:
        # Scanners write these files, and expat (2.4.1 and later) refuses entities that grow.
        root = ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError:
        return PixelSize(origin=origin)
    pixels = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return PixelSize(origin=origin)

    def size(axis: str) -> float | None:
        return _um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))

    return PixelSize(size("Z"), size("Y"), size("X"), origin)


def from_imagej(metadata: Mapping[str, Any], x: float | None, y: float | None, origin: str) -> PixelSize:
    """ImageJ's `unit` and `spacing`, with pixels per unit from the resolution tags."""
    unit = str(metadata.get("unit", ""))
    spacing = metadata.get("spacing")
    z = _um(abs(spacing) if isinstance(spacing, (int, float)) else None, unit)
    found = PixelSize(z, _um(_inverse(y), str(metadata.get("yunit") or unit)), _um(_inverse(x), unit), origin)
    return _believed(found) if unit.lower() in _COARSE else found


def from_resolution(x: float | None, y: float | None, unit: int, origin: str) -> PixelSize:
    """Pixels per inch (unit 2) or per cm (unit 3) as TIFF's resolution tags; they say nothing about z."""
    name = {2: "inch", 3: "cm"}.get(unit, "")
    return _believed(PixelSize(None, _um(_inverse(y), name), _um(_inverse(x), name), origin))


def from_ome_zarr(multiscale: Mapping[str, Any], origin: str) -> PixelSize:
    """The scale of the first dataset of a multiscale, on axes that have a unit."""
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale.get("axes", [])]
    scale = [1.0] * len(axes)
    known = False
    for where in (multiscale["datasets"][0], multiscale):
        for transformation in where.get("coordinateTransformations", []):
            factors = transformation.get("scale") if transformation.get("type") == "scale" else None
            if isinstance(factors, Sequence) and len(factors) == len(axes):
                scale = [a * float(b) for a, b in zip(scale, factors, strict=True)]
                known = True
    found = {
        str(axis.get("name")): _um(factor if known else None, str(axis.get("unit", "")))
        for axis, factor in zip(axes, scale, strict=True)
    }
    return PixelSize(found.get("z"), found.get("y"), found.get("x"), origin)


def from_element_size(value: Any, origin: str) -> PixelSize:  # noqa: ANN401 - whatever an attribute holds
    """Three lengths in um, z, y, x."""
    try:
        z, y, x = (_um(float(length), "um") for length in value)
    except (TypeError, ValueError):
        return PixelSize(origin=origin)
    return PixelSize(z, y, x, origin)


def _believed(found: PixelSize) -> PixelSize:
    """The sizes if they can be those of a microscope."""
    for um in (found.y, found.x):
        if um is not None and not SMALLEST_UM <= um <= LARGEST_UM:
            doubt = f"its {found.origin.partition(' of ')[0]} say {um:.4g} um, which no microscope has"
            return PixelSize(origin=found.origin, doubt=doubt)
    return found


def _inverse(pixels: float | None) -> float | None:
    return 1 / pixels if pixels else None


def _um(length: Any, unit: str) -> float | None:  # noqa: ANN401
    """A length in um without the noise of the last binary digits, None where it is none."""
    factor = _UM.get(unit.strip().lower())
    try:
        um = float(length) * factor if factor is not None else math.nan
    except (TypeError, ValueError):
        return None
    return float(f"{um:.9g}") if math.isfinite(um) and um > 0 else None
