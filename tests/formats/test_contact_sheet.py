from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from nissl.formats.contact_sheet import contact_sheet

RED = (255, 64, 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_plane_is_there_and_the_wrong_ones_are_framed(channels: int) -> None:
    seen = np.zeros((channels, 5, 40, 60), dtype=np.uint16)
    seen[:, :, 10:30, 10:30] = np.arange(1, 6, dtype=np.uint16)[:, np.newaxis, np.newaxis] * 1000
    picture = PIL.Image.open(io.BytesIO(contact_sheet(seen, (0, 5000), flagged={4})))
    pixels = np.asarray(picture.convert("RGB"))
    shown = {int(value) for value in np.unique(pixels[..., 0]) if (pixels[..., 0] == value).sum() > 1000}
    assert {51, 102, 153, 204, 255} <= shown
    assert (pixels == RED).all(axis=2).sum() > 100
    calm = np.asarray(PIL.Image.open(io.BytesIO(contact_sheet(seen, (0, 5000)))).convert("RGB"))
    assert not (calm == RED).all(axis=2).any()


def test_one_plane_of_odd_shape_and_unknown_voxels_is_shown() -> None:
    seen = np.full((1, 1, 1, 300), np.nan, dtype=np.float32)
    assert PIL.Image.open(io.BytesIO(contact_sheet(seen, (0.0, 1.0)))).width > 100
