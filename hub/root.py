"""The hub's folder: its key, its name, and one bare repository per dataset.

    hubroot/
      hub.json                                    name, when it was made
      node.key                                    Ed25519, mode 600
      datasets/brain.git                          the repository of the dataset `brain`
      datasets/brain/sourcedata/sample-0042.git   and of `brain/sourcedata/sample-0042`

A dataset's name is its path. There is no registry beside the folders: nothing can go out of step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nissl.errors import NisslError
from nissl.federation.card import NodeCard
from nissl.federation.keys import PrivateKey, create_key, load_key

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SUFFIX = ".git"


class HubError(NisslError):
    """A hub's folder that is missing, damaged or in the way."""


class DatasetNameError(NisslError):
    """A name that no dataset can have."""


def check_dataset_name(name: str) -> str:
    """`name` if a dataset can have it: segments of letters, digits, `.`, `_`, `-`. Raises DatasetNameError."""
    segments = name.split("/")
    if not all(_SEGMENT.fullmatch(segment) and not segment.endswith(_SUFFIX) for segment in segments):
        raise DatasetNameError(
            f"{name!r} cannot be a dataset's name: use letters, digits, '.', '_', '-', with '/' between"
        )
    return name


@dataclass(frozen=True)
class HubRoot:
    """A hub's folder on this machine."""

    path: Path
    name: str
    created: datetime
    key: PrivateKey

    @property
    def card(self) -> NodeCard:
        return NodeCard(self.name, self.key.public, self.created)

    @property
    def repositories(self) -> Path:
        return self.path / "datasets"

    def repository(self, dataset: str) -> Path:
        """Where the dataset's bare repository lies, or would lie."""
        return self.repositories / f"{check_dataset_name(dataset)}{_SUFFIX}"

    def has(self, dataset: str) -> bool:
        try:
            return (self.repository(dataset) / "HEAD").is_file()
        except DatasetNameError:
            return False

    def datasets(self) -> Iterator[str]:
        """Names of all datasets, each before those below it."""
        yield from self._below(self.repositories, "")

    def _below(self, folder: Path, prefix: str) -> Iterator[str]:
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(_SUFFIX):
                name = f"{prefix}{entry.name.removesuffix(_SUFFIX)}"
                if (entry / "HEAD").is_file():
                    yield name
                yield from self._below(entry.with_name(entry.name.removesuffix(_SUFFIX)), f"{name}/")
            elif entry.is_dir() and not entry.with_name(f"{entry.name}{_SUFFIX}").exists():
                yield from self._below(entry, f"{prefix}{entry.name}/")


def create_hub(path: Path, name: str) -> HubRoot:
    """Make a new hub's folder with a key of its own at `path`, which must not exist (or be an empty folder)."""
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise HubError(f"{path} exists already and is not empty: choose another place for the hub")
    (path / "datasets").mkdir(parents=True)
    key = create_key(path / "node.key")
    created = datetime.now(UTC).replace(microsecond=0)
    # Written last: a folder without it is no hub, whatever a crash left in it.
    document = json.dumps({"name": name, "created": created.isoformat()}, indent=2)
    (path / "hub.json").write_text(document + "\n", encoding="utf-8")
    return HubRoot(path, name, created, key)


def open_hub(path: Path) -> HubRoot:
    """The hub at `path`. Raises HubError where there is none, KeyFileError where its key is not in order."""
    path = path.absolute()
    try:
        document = json.loads((path / "hub.json").read_text(encoding="utf-8"))
        name, created = str(document["name"]), datetime.fromisoformat(document["created"])
    except (FileNotFoundError, NotADirectoryError):
        raise HubError(f"{path} is not a hub: make one with `nissl hub init {path}`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(f"{path / 'hub.json'} is damaged ({error!r}): restore it from a backup") from None
    return HubRoot(path, name, created, load_key(path / "node.key"))
