"""What all tests share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

# No deadline: the machines that run these tests are busy with other things too.
settings.register_profile("nissl", deadline=None, max_examples=25)
settings.load_profile("nissl")

# Shells start background jobs with Ctrl-C ignored, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_HEADLESS = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-quic", "--disable-background-networking"),
)

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def zstack_files() -> list[Path]:
    """A real z-stack of mouse cortex: 30 TIFF files of 510 x 667 uint16."""
    folder = REAL_DATA / "zstack"
    files = sorted(folder.glob("*.tif"))
    if not files:
        pytest.skip(f"the real z-stack is not here: {folder} is missing (see its README for where it comes from)")
    return files


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real one, for tests that look at what people see."""
    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_HEADLESS))
        yield browser
        browser.close()
