"""Many sections in one command: a folder's files, put together by a pattern, each section ingested on its own.

A section that fails does not stop the others, and the same command again goes on with what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from nissl.datasets.ingest import Order
from nissl.datasets.names import NameFormError, check_label
from nissl.datasets.patterns import Group, Pattern, PatternError
from nissl.errors import NisslError, NoSpaceError
from nissl.formats.pixel_size import Resolved
from nissl.formats.sources import open_image_source, split_name

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The sections that a folder holds, before anything is read."""

    groups: tuple[Group, ...]
    folder: Path
    pattern: Pattern
    dataset: str
    """Which dataset of each HDF5 file, "" for files that are none."""
    ignored: tuple[PurePosixPath, ...]
    """Files that do not fit the pattern."""

    def names(self, group: Group) -> tuple[str, ...]:
        """A section's files, as `formats.sources.open_source` takes them."""
        inside = f":{self.dataset}" if self.dataset else ""
        return tuple(f"{self.folder.absolute() / path}{inside}" for path in group.files)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one section: `done`, or `error` saying why not."""

    group: Group
    done: T | None
    error: str = ""


@dataclass(frozen=True)
class Preview:
    """A section as it would be ingested."""

    shape: tuple[int, ...]
    """(planes, height, width), with channels in front where there are some."""
    dtype: str
    size: Resolved


def find_sections(folder: Path, text: str) -> Batch:
    """Put what is in `folder` together by a pattern, behind which a dataset may stand: `{sample}.h5:raw`.

    Raises PatternError for a bad pattern, and where nothing fits it.
    """
    path, dataset = split_name(text)
    pattern = Pattern(str(path) if dataset else text)
    if not folder.is_dir():
        raise PatternError(f"{folder} is no folder: --pattern {text!r} looks for files in one")
    found = pattern.group(_paths(folder, pattern.depth))
    if not found.groups:
        others = f" (it has {len(found.ignored)} others, as {found.ignored[0]})" if found.ignored else ""
        raise PatternError(f"no file in {folder} fits the pattern {text!r}{others}: compare its names with the pattern")
    return Batch(found.groups, folder, pattern, dataset, found.ignored)


def each_section(batch: Batch, do: Callable[[Group, tuple[str, ...]], T]) -> Iterator[Outcome[T]]:
    """Call `do` with each section and its files, one after the other, and yield what became of it.

    Raises NoSpaceError, which the further sections would meet too.
    """
    for group in batch.groups:
        try:
            _check(group)
            yield Outcome(group, do(group, batch.names(group)))
        except NoSpaceError:
            raise
        except NisslError as error:
            yield Outcome(group, None, _remedied(batch, group, str(error)))
        except OSError as error:
            yield Outcome(group, None, f"{error.filename or group.files[0]}: {error.strerror or error}")


def _check(group: Group) -> None:
    """Raise NisslError where a group cannot be a section."""
    for kind, label in (("sample", group.sample), ("stain", group.stain)):
        try:
            check_label(kind, label or "0")
        except NameFormError as error:
            raise PatternError(f"{error}; rename its files, as {group.files[0]}, or change the pattern") from None
    if group.problem:
        raise PatternError(group.problem)


def preview(order: Order, size: Resolved) -> Preview:
    """What an order would make; reads structure, no voxels. Raises StackError for a bad stack."""
    source = open_image_source(list(map(str, order.files)), skip=order.skip)
    shape = source.shape if source.channels is None else (source.channels, *source.shape)
    return Preview(shape, source.dtype.name, size)


def _remedied(batch: Batch, group: Group, sentence: str) -> str:
    """Planes are left out of one section alone by a command for it alone."""
    if group.sample is None or "--skip" not in sentence:
        return sentence
    return f"{sentence} (of this section alone: --pattern '{batch.pattern.only(group.sample)}' --sample {group.sample})"


def _paths(folder: Path, depth: int, within: PurePosixPath | None = None) -> Iterator[PurePosixPath]:
    """What lies `depth` deep below `folder`, folders too (a Zarr array is one), and files that lie less deep."""
    within = within or PurePosixPath()
    with os.scandir(folder / within) as entries:
        for entry in entries:
            path = within / entry.name
            if len(path.parts) < depth and entry.is_dir():
                yield from _paths(folder, depth, path)
            else:
                yield path
