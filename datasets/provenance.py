"""How data came to be: a record in the dataset, and a commit message in DataLad's run-record form. Pure.

`datalad rerun` reads the JSON between the two marker lines of a commit message
(http://docs.datalad.org/en/stable/design/provenance_capture.html).
"""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import shlex
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nissl import __version__
from nissl.datasets.sources import SourceFile

_SOFTWARE = ("numpy", "h5py", "zstandard", "tifffile", "imagecodecs", "zarr")


@dataclass(frozen=True)
class Making:
    """How one image was made."""

    command: tuple[str, ...]
    """The command line, to be run in the dataset's root."""
    sources: tuple[SourceFile, ...]
    settings: dict[str, Any]
    """What besides the sources decides the voxels and their meaning."""
    started: datetime
    finished: datetime
    crew: dict[str, Any] | None = None
    """Who wrote the voxels: cores of this host, or workers of a cluster."""

    def document(self) -> dict[str, Any]:
        return {
            "command": list(self.command),
            "sources": [asdict(source) for source in self.sources],
            "settings": self.settings,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": self.finished.isoformat(timespec="seconds"),
            "software": {
                "nissl": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _SOFTWARE},
            },
            "host": socket.gethostname(),
            "user": getpass.getuser(),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            "crew": self.crew,
        }


def sources_of(document: dict[str, Any]) -> tuple[SourceFile, ...]:
    """The sources that a record names. Raises KeyError or TypeError where it is no such record."""
    return tuple(SourceFile(entry["name"], entry["size"], entry["sha256"]) for entry in document["sources"])


def run_message(title: str, making: Making, outputs: Sequence[str], dataset_id: str) -> str:
    """A commit message that `datalad rerun` understands."""
    record = {
        "chain": [],
        "cmd": shlex.join(making.command),
        "dsid": dataset_id,
        "exit": 0,
        "extra_inputs": [],
        "inputs": [],
        "outputs": list(outputs),
        "pwd": ".",
    }
    return (
        f"[DATALAD RUNCMD] {title}\n\n"
        "=== Do not change lines below ===\n"
        f"{json.dumps(record, indent=1, sort_keys=True)}\n"
        "^^^ Do not change lines above ^^^\n"
    )
