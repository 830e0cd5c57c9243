"""Images whose ingest was interrupted: where they wait in a brain, who works on them, and what is kept of them.

An image is built in `.git/nissl/unfinished/<image>/<fingerprint>/` of its brain. The fingerprint stands for all that
decides what the image becomes; so whoever orders the same finds what is done already, and whoever orders another image
of this name cannot take the shards of the first for its own. In the folder lie `plan.json` (what the fingerprint stands
for, and the command), the journal, the image, and, while it is put into a new section, that section.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nissl.amounts import human_bytes
from nissl.datasets.locks import in_use, remove_tree
from nissl.datasets.names import ImageName
from nissl.datasets.section import take_back
from nissl.formats.journal import Journal, Kept
from nissl.formats.shards import write_json

_PLAN = "plan.json"


@contextlib.contextmanager
def unfinished(
    place: Path,
    image: ImageName,
    fingerprint: Mapping[str, Any],
    command: Sequence[str],
    final: tuple[type[Exception], ...],
) -> Iterator[Path]:
    """The folder to build `image` in, with what an interrupted run of the same order has left there.

    place: the image's own folder, which the caller has locked. What lies there of other orders is removed. When the
    block ends, so is the folder; also where it ends with one of the errors `final`, to which the answer is another
    order. Where anything else stops it, and whole regions are finished, they stay, and the exception has a note that
    says how many.
    """
    said = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
    folder = place / hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    discard(place, but=folder)
    folder.mkdir(exist_ok=True)
    try:
        write_json(folder / _PLAN, {"fingerprint": fingerprint, "command": list(command)})
        _rescue(folder, image)
        yield folder
    except final:
        _remove(folder)
        raise
    except BaseException as error:
        _rescue(folder, image)
        kept = Journal(folder).kept()
        if kept.regions:
            error.add_note(f"{described(kept)} are kept, the same command goes on from there")
        else:
            _remove(folder)
        raise
    _remove(folder)


def discard(place: Path, but: Path | None = None) -> None:
    """Remove what interrupted runs have left in an image's own folder, but for the folder `but`."""
    for other in place.iterdir():
        if other != but:
            remove_tree(other)


@dataclass(frozen=True)
class Leftover:
    """An interrupted ingest that nobody is going on with just now."""

    image: str
    """Its name without extension."""
    folder: Path
    """All of it."""
    plan: Path
    """The file that says what was ordered, and how."""
    kept: Kept


def leftovers(parent: Path) -> Iterator[Leftover]:
    """What interrupted runs have left below `parent`, a brain's folder of unfinished images."""
    # Not Path.glob, which fails where folders go while it looks.
    for plan in (parent / name for name in sorted(glob.glob(f"*/*/{_PLAN}", root_dir=parent))):  # noqa: PTH207
        place = plan.parent.parent
        if in_use(place):
            continue
        with contextlib.suppress(OSError):  # it has just been removed
            yield Leftover(place.name, place, plan, Journal(plan.parent).kept())


def described(kept: Kept) -> str:
    return f"{kept.regions} of {kept.of} regions ({human_bytes(kept.nbytes)})"


def _rescue(folder: Path, image: ImageName) -> None:
    """Take the image back out of a new section that was not finished."""
    section = folder / image.section.name
    take_back(section / image.image, folder / image.image.name)
    remove_tree(section)


def _remove(folder: Path) -> None:
    # First out of the way, at once: whoever still writes there, for a run that was killed, finds nothing to write to.
    gone = folder.rename(folder.with_name(f".{folder.name}.gone"))
    remove_tree(gone)
