"""All planes of a section side by side, for people to look at: numbered, and framed where something is wrong."""

from __future__ import annotations

import io
import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nissl.formats.grid import Box
from nissl.formats.image import Image as OpenImage
from nissl.formats.pyramid import halve

THUMBNAIL = 160
"""Longest edge of one plane's picture, in pixels."""
_GAP = 6
_GROUND = (32, 32, 32)
_WRONG = (255, 64, 64)


def overview(image: OpenImage) -> NDArray[Any]:
    """All planes of an image, small: shape (channels or 1, planes, rows, columns), rows and columns at most 320."""
    level = image.levels[-1]
    planes, rows, columns = level.shape[-3:]
    small = []
    for plane in range(planes):  # one at a time: a volume may have thousands
        start, stop = (plane, 0, 0), (plane + 1, rows, columns)
        if level.grid.rank == 4:
            voxels = level.read(Box((0, *start), (level.shape[0], *stop)))[:, 0]
        else:
            voxels = level.read(Box(start, stop))
        while max(voxels.shape[-2:]) > 2 * THUMBNAIL:
            voxels = halve(voxels)
        small.append(voxels)
    return np.stack(small, axis=1)


def contact_sheet(planes_seen: NDArray[Any], window: tuple[float, float], flagged: Collection[int] = ()) -> bytes:
    """A PNG of all planes.

    planes_seen: shape (channels, planes, rows, columns), colour where there are 3 channels. window: intensities shown
    black and full. flagged: numbers of planes, from 1, to frame in red.
    """
    low, high = window
    channels, planes, rows, columns = planes_seen.shape
    scaled = np.clip((planes_seen.astype(np.float32) - low) / (high - low), 0, 1)
    pixels = np.moveaxis((np.nan_to_num(scaled) * 255).astype(np.uint8), 0, -1)
    if channels != 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    scale = THUMBNAIL / max(rows, columns)
    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    across = math.ceil(math.sqrt(planes * height / width)) if planes > 1 else 1
    down = math.ceil(planes / across)
    sheet = Image.new("RGB", (across * (width + _GAP) + _GAP, down * (height + _GAP) + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for plane in range(planes):
        left = _GAP + plane % across * (width + _GAP)
        top = _GAP + plane // across * (height + _GAP)
        picture = Image.fromarray(np.ascontiguousarray(pixels[plane]))
        sheet.paste(picture.resize((width, height), Image.Resampling.BOX), (left, top))
        if plane + 1 in flagged:
            draw.rectangle((left - 3, top - 3, left + width + 2, top + height + 2), outline=_WRONG, width=3)
        draw.text((left + 4, top + 3), str(plane + 1), fill="white", stroke_width=2, stroke_fill="black")
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()
