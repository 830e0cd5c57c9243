"""A hub that really runs: a brain with one small section, served in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nissl.datasets.brain import Brain, create_brain
from nissl.datasets.ingest import Order, ingest
from nissl.datasets.names import ImageName
from nissl.federation.access import Action, Grant
from nissl.federation.tokens import issue_token
from nissl.hub.intake import add_dataset
from nissl.hub.root import HubRoot, create_hub
from tests.hub.client import Answer, ask

IMAGE = ImageName("01", "0042", "Nissl", "BF")
SECTION = "brain/sourcedata/sample-0042"


@pytest.fixture(scope="session", autouse=True)
def _own_git_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Git as on a machine whose user said who they are, and that a hub on this machine may be trusted."""
    config = tmp_path_factory.mktemp("git") / "config"
    config.write_text(
        "[user]\n\tname = Santiago\n\temail = santiago@example.org\n"
        '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1 ::1\n',
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(config))
        patch.setenv("GIT_TERMINAL_PROMPT", "0")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@dataclass(frozen=True)
class RunningHub:
    """A served hub, and what it was made from."""

    root: HubRoot
    brain: Brain
    url: str
    voxels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]

    def get(self, path: str, **options: object) -> Answer:
        return ask("GET", self.url + path, **options)  # type: ignore[arg-type]

    def token(self, *actions: Action, datasets: tuple[str, ...] = (), life: timedelta = timedelta(hours=1)) -> str:
        now = datetime.now(UTC) if life > timedelta(0) else datetime.now(UTC) + 2 * life
        return issue_token(self.root.key, Grant("ramon", frozenset(actions), datasets), abs(life), now)

    @property
    def section(self) -> Path:
        return self.brain.section(IMAGE)


def a_served_hub(folder: Path, *, public: bool) -> contextlib.AbstractContextManager[RunningHub]:
    """A brain with one section of 3 planes of 600 x 700, taken into a hub that is served until the context ends."""

    @contextlib.contextmanager
    def running() -> Iterator[RunningHub]:
        rng = np.random.default_rng(7)
        voxels = rng.integers(0, 4000, (3, 600, 700), dtype=np.uint16)
        files = []
        for number, plane in enumerate(voxels):
            files.append(folder / f"z{number}.tif")
            tifffile.imwrite(files[-1], plane)
        brain = create_brain(folder / "brain", "01")
        ingest(brain, Order(tuple(files), IMAGE, (3.0, 0.5, 0.5)))
        root = create_hub(folder / "hub", "Madrid")
        add_dataset(root, brain.path)
        with serving(root.path, public=public) as url:
            yield RunningHub(root, brain, url, voxels)

    return running()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(root: Path, *, public: bool) -> Iterator[str]:
    """`nissl hub serve` in a process of its own; its address."""
    port = free_port()
    command = [sys.executable, "-m", "nissl", "hub", "serve", str(root), "--port", str(port)]
    with (root / "serve.log").open("ab") as log:
        process = subprocess.Popen([*command, *(["--public"] if public else [])], stdout=log, stderr=log)
    url = f"http://localhost:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                if ask("GET", url + "/healthz").status == 200:
                    break
            assert process.poll() is None, (root / "serve.log").read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.fixture(scope="session")
def public_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """Everybody may read. Tests may push to branches of their own, not to `main`."""
    with a_served_hub(tmp_path_factory.mktemp("public"), public=True) as hub:
        yield hub


@pytest.fixture(scope="session")
def private_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with a_served_hub(tmp_path_factory.mktemp("private"), public=False) as hub:
        yield hub
