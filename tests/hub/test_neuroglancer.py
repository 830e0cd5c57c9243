"""Neuroglancer in a real browser on the hub's data: the last row of "absent is not zero".

The other rows are in `tests/formats/test_readers.py`. A shader paints voxels of 0 red and all others green on a blue
ground, so that what Neuroglancer takes for zeros and what it does not draw are told apart.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import PIL.Image
import pytest
import tifffile
from playwright.sync_api import Browser

from nissl.datasets.brain import create_brain
from nissl.datasets.ingest import Order, ingest
from nissl.formats.workers import LocalCrew
from nissl.hub.intake import add_dataset
from nissl.hub.root import create_hub
from tests.hub.client import ask
from tests.hub.conftest import IMAGE, SECTION, RunningHub, serving
from tests.hub.versions import VersionedHub

pytestmark = pytest.mark.slow

EDGE = 256
SHADER = """
void main() {
  if (float(toRaw(getDataValue())) == 0.0) { emitRGB(vec3(1.0, 0.0, 0.0)); } else { emitRGB(vec3(0.0, 1.0, 0.0)); }
}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersionedHub]:
    """One plane of 2 x 2 shards of 256 x 256, each of one chunk; the second one is 0 and has no file."""
    folder = tmp_path_factory.mktemp("quadrants")
    voxels = np.random.default_rng(1).integers(1000, 3000, (1, 2 * EDGE, 2 * EDGE), dtype=np.uint16)
    voxels[:, :EDGE, EDGE:] = 0
    tifffile.imwrite(folder / "z0.tif", voxels[0])
    brain = create_brain(folder / "brain", "01")
    order = Order((folder / "z0.tif",), IMAGE, (3.0, 0.5, 0.5), chunk_edge=EDGE, shard_edge=EDGE)
    ingest(brain, order, crew=LocalCrew(1))
    root = create_hub(folder / "hub", "Madrid")
    add_dataset(root, brain.path)
    with serving(root.path, public=True) as url:
        none = np.empty(0, dtype=np.uint32)
        yield VersionedHub(root, brain, url, voxels, "", "", "", voxels, none)


@dataclass(frozen=True)
class Seen:
    """How many pixels of each colour, and what the browser said and was answered."""

    green: int
    red: int
    blue: int
    complaints: tuple[str, ...]


def look(browser: Browser, hub: RunningHub, source: str, green: int) -> Seen:
    """Open Neuroglancer on `source` and wait for `green` pixels of tissue, and then whether more comes."""
    state = {
        "dimensions": {axis: [5e-7, "m"] for axis in ("x", "y")} | {"z": [3e-6, "m"]},
        "position": [EDGE, EDGE, 0.5],
        "crossSectionScale": 1,
        "crossSectionBackgroundColor": "#0000ff",
        "showAxisLines": False,
        "showScaleBar": False,
        "showDefaultAnnotations": False,
        "layers": [{"type": "image", "name": "section", "source": source, "shader": SHADER, "opacity": 1}],
        "layout": "xy",
    }
    opened = ask("GET", f"{hub.url}/view/{SECTION}/main/{IMAGE.image}").headers["Location"]
    session = urlsplit(opened).path.split("/")[2]
    body = json.dumps({"s": state, "g": 1, "pg": "first", "c": "test"}).encode()
    assert ask("POST", f"{hub.url}/state/{session}", body=body).status == 200
    page = browser.new_page(viewport={"width": 900, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    try:
        page.goto(opened)
        until = time.monotonic() + 60
        while _count(page.screenshot())[0] < green and time.monotonic() < until:
            time.sleep(0.5)
        time.sleep(3)  # a wrong picture may come later than a right one
        shot = page.screenshot()
        return Seen(*_count(shot), tuple(complaints))
    finally:
        page.close()


def _count(shot: bytes) -> tuple[int, int, int]:
    picture = np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("RGB"))
    return tuple(int((picture == colour).all(axis=2).sum()) for colour in ((0, 255, 0), (255, 0, 0), (0, 0, 255)))  # type: ignore[return-value]


QUADRANT = EDGE * EDGE
EVERYWHERE = 0.9  # the panel's buttons cover some of it


@pytest.mark.parametrize("surface", ["zarr", "data"])
def test_neuroglancer_shows_an_image_of_the_hub_with_zeros_where_they_are(
    surface: str, browser: Browser, hub: VersionedHub
) -> None:
    seen = look(browser, hub, f"{hub.zarr('main', surface=surface)}/|zarr3:", int(3 * QUADRANT * EVERYWHERE))
    assert 3 * QUADRANT * EVERYWHERE < seen.green <= 3 * QUADRANT * 1.02
    assert QUADRANT * EVERYWHERE < seen.red <= QUADRANT * 1.02


@pytest.mark.parametrize("surface", ["zarr", "data"])
def test_neuroglancer_draws_nothing_and_no_zeros_where_the_hub_lacks_the_content(
    surface: str, browser: Browser, hub: VersionedHub
) -> None:
    log = Path(hub.root.path / "serve.log")
    before = log.stat().st_size
    # The coarser level too: Neuroglancer shows it where the finer one is missing, which is honest but not the question.
    with hub.without("/0/c/0/1/0", "/1/c/0/0/0"):
        seen = look(browser, hub, f"{hub.zarr('main', surface=surface)}/|zarr3:", int(2 * QUADRANT * EVERYWHERE))
    assert 2 * QUADRANT * EVERYWHERE < seen.green <= 2 * QUADRANT * 1.02
    assert QUADRANT * EVERYWHERE < seen.red <= QUADRANT * 1.02, "the quadrant that holds zeros, and no other"
    answered = log.read_text()[before:]
    assert f"/{surface}/{SECTION}" in answered
    assert any(f"/{surface}/" in line and "/0/c/0/1/0" in line and '" 424 ' in line for line in answered.splitlines())
    assert any("424" in complaint for complaint in seen.complaints), seen.complaints
