"""The main job as the README tells it: real commands, real datalad, a real browser."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray
from playwright.sync_api import Browser

from tests.hub.client import ask
from tests.hub.conftest import serving

pytestmark = pytest.mark.slow

ARTEFACTS = Path(__file__).resolve().parents[1] / "test-artefacts"
YELLOW = (255, 255, 0)  # Neuroglancer draws an image's bounds in it


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a command as a user would: in a fresh folder, with a git that knows them and trusts a hub on this machine."""
    config = tmp_path / "gitconfig"
    config.write_text(
        "[user]\n\tname = Santiago\n\temail = santiago@example.org\n"
        '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1 ::1\n',
        encoding="utf-8",
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(config), "PATH": path}

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def bounds(picture: NDArray[np.uint8]) -> tuple[slice, slice] | None:
    """Inside of the yellow frame around the image, None while there is none."""
    yellow = (picture == YELLOW).all(axis=2)
    rows, columns = np.flatnonzero(yellow.sum(1) > 100), np.flatnonzero(yellow.sum(0) > 100)
    if len(rows) < 2 or len(columns) < 2 or rows[-1] - rows[0] < 100:
        return None
    return slice(rows[0] + 4, rows[-1] - 3), slice(columns[0] + 4, columns[-1] - 3)


def likeness(picture: NDArray[np.uint8], expected: NDArray[np.float64]) -> float:
    """Correlation of what the canvas shows within the frame with what should be there."""
    frame = bounds(picture)
    if frame is None:
        return 0.0
    shown = picture[frame].astype(float).mean(axis=2)
    size = (shown.shape[1], shown.shape[0])
    resized = np.asarray(PIL.Image.fromarray(expected.astype(np.float32)).resize(size, PIL.Image.Resampling.BILINEAR))
    return float(np.corrcoef(shown.ravel(), resized.ravel())[0, 1]) if shown.std() > 1 else 0.0


def watch(browser: Browser, start: str, expected: NDArray[np.float64], name: str, token: str | None = None) -> float:
    """Open the catalogue, follow its first View link and wait until the image is there; keeps the screenshot."""
    credentials = {"username": "anybody", "password": token} if token else None
    context = browser.new_context(viewport={"width": 1200, "height": 800}, http_credentials=credentials)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(start)
        page.get_by_role("link", name="View").first.click()
        best, until = 0.0, time.monotonic() + 60
        while best < 0.9 and time.monotonic() < until:
            time.sleep(0.5)
            shot = page.screenshot()
            best = likeness(np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("RGB")), expected)
        ARTEFACTS.mkdir(exist_ok=True)
        (ARTEFACTS / f"{name}.png").write_bytes(shot)
        assert complaints == []
        return best
    finally:
        context.close()


def test_a_stack_becomes_a_section_that_datalad_clones_and_a_browser_shows(
    zstack_files: list[Path], tmp_path: Path, run: Callable[..., str], browser: Browser
) -> None:
    meaning = ("--sample", "0042", "--stain", "cfos", "--suffix", "SPIM", "--pixel-size", "5", "1", "1")
    run("nissl", "brain", "create", "./brain", "--subject", "01")
    run("nissl", "ingest", *zstack_files, "--into", "./brain", *meaning)
    run("nissl", "hub", "init", "./hubroot")
    run("nissl", "hub", "add", "./hubroot", "./brain")
    with serving(tmp_path / "hubroot", public=True) as url:
        run("datalad", "clone", f"{url}/git/brain", "work")
        work = tmp_path / "work"
        run("datalad", "get", "-n", "sourcedata/sample-0042", cwd=work)
        run("datalad", "get", "sourcedata/sample-0042", cwd=work)
        section = work / "sourcedata" / "sample-0042"
        assert "failed" not in run("git", "annex", "fsck", cwd=section)
        ingested = tmp_path / "brain" / "sourcedata" / "sample-0042"
        files = [path.relative_to(ingested) for path in (ingested / "sub-01").rglob("*") if path.is_file()]
        assert len(files) == 7
        for file in files:
            assert (section / file).read_bytes() == (ingested / file).read_bytes()
        middle = tifffile.imread(zstack_files[15]).astype(float)
        # Dark, and with few bright cells: what is shown is clipped at the contrast's ends.
        assert watch(browser, url, middle.clip(0, np.percentile(middle, 99.8)), "cortex") > 0.9


@pytest.mark.parametrize("compression", ["bitshuffle-zstd", "bitshuffle-lz4"])
def test_a_browser_shows_what_is_compressed_with_blosc(
    compression: str, zstack_files: list[Path], tmp_path: Path, run: Callable[..., str], browser: Browser
) -> None:
    meaning = ("--sample", "0042", "--stain", "cfos", "--suffix", "SPIM", "--pixel-size", "5", "1", "1")
    run("nissl", "brain", "create", "./brain", "--subject", "01")
    # Chunks of 128: the picture is put together of many, some of them at the image's edge.
    edges = ("--chunk-edge", "128", "--shard-edge", "512")
    run("nissl", "ingest", *zstack_files, "--into", "./brain", *meaning, "--compression", compression, *edges)
    assert "nothing is damaged" in run("nissl", "check", "--full", "./brain")
    run("nissl", "hub", "init", "./hubroot")
    run("nissl", "hub", "add", "./hubroot", "./brain")
    with serving(tmp_path / "hubroot", public=True) as url:
        middle = tifffile.imread(zstack_files[15]).astype(float)
        assert watch(browser, url, middle.clip(0, np.percentile(middle, 99.8)), compression) > 0.9


def test_the_demo_shows_tissue_in_colour_also_behind_a_token(
    tmp_path: Path, run: Callable[..., str], browser: Browser
) -> None:
    demo = Path(__file__).resolve().parents[1] / "examples" / "demo.py"
    said = run(sys.executable, demo, "--no-serve", "--folder", "demo")
    assert "look at it" not in said
    planes = sorted((tmp_path / "demo" / "scanner").glob("*.tif"))
    middle = tifffile.imread(planes[4]).astype(float).mean(axis=2)
    token = run("nissl", "hub", "token", "demo/hub").strip()
    with serving(tmp_path / "demo" / "hub", public=False) as url:
        assert ask("GET", url + "/").status == 401
        assert watch(browser, url, middle, "colon", token) > 0.9
    picture = np.asarray(PIL.Image.open(ARTEFACTS / "colon.png").convert("RGB")).astype(int)
    frame = bounds(picture.astype(np.uint8))
    assert frame is not None
    red, _, blue = np.moveaxis(picture[frame], 2, 0)
    assert ((red - blue) > 40).mean() > 0.2, "DAB is brown"
    assert ((blue - red) > 10).mean() > 0.02, "haematoxylin is blue"
