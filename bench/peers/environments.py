"""The virtual environment of a peer, made when it is first wanted."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def python_of(module: str) -> str:
    """The Python that runs `bench.peers.<module>`: ours where it has no requirements of its own.

    Environments are kept in the user's cache folder, one for each content of a requirements file.
    """
    requirements = _HERE / f"{module}.txt"
    if not requirements.exists():
        return sys.executable
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "nissl-bench" / f"{module}-{digest}"
    ready = folder / "ready"
    if not ready.exists():
        print(f"making the environment of {module} in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        ready.touch()
    return str(folder / "bin" / "python")


def version_of(module: str, package: str) -> str:
    """The pinned version of `package`."""
    for line in (_HERE / f"{module}.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name == package:
            return version
    raise ValueError(f"{module}.txt does not name {package}")
