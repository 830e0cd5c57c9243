"""What is finished of an image that is being built: so that a run that is killed costs what was under way, not a night.

The journal lies beside the image. One line for each finished region says which files it wrote, with their checksums,
and what it saw of the planes; one line for each shard that was joined of parts. Every line is durable before the next
region is waited for. What counts is that a file agrees with its line: a torn line, a file that is cut short or gone,
and whatever no line knows (a shard half-way, a temporary file) is removed by the next run and made anew.

| killed | what the next run finds | what it does |
| --- | --- | --- |
| during regions | lines for some, files of others | keeps the first, removes and makes anew the others |
| after a shard was joined, before its line | the shard without a line, and all its parts | removes it and joins again |
| after that line, before its parts are gone | the shard, some of its parts | the shard stands for its parts |
| during the levels above | all of the above, no line for the last ones | makes these anew |
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from nissl.formats.attempt import Attempt
from nissl.formats.quality import PlaneQuality
from nissl.formats.shards import plain_disk_errors, sync_folder
from nissl.formats.shelf import joined_name
from nissl.formats.stream import RegionResult, RegionWork
from nissl.formats.written import WrittenFile

Verifying = Callable[[int, int], None]
"""Called with (done, total) in bytes while kept files are compared with their checksums."""


class Lines:
    """JSON documents in a file, one a line, each durable when `add` returns. Damaged and torn lines are not read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [document for document in map(_document, lines) if document is not None]

    def add(self, document: Mapping[str, Any]) -> None:
        with plain_disk_errors(self._path), self._path.open("ab", buffering=0) as file:
            file.write(_line(document))
            os.fsync(file.fileno())

    def replace(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Have exactly these lines, or, where that is interrupted, those from before."""
        temporary = self._path.with_name(f".{self._path.name}.part")
        with plain_disk_errors(self._path):
            with temporary.open("wb") as file:
                file.writelines(map(_line, documents))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
            sync_folder(self._path.parent)


@dataclass(frozen=True)
class Kept:
    """What an interrupted build has left."""

    regions: int
    of: int
    """Regions of the whole image."""
    nbytes: int


class Journal:
    """The journal of one image, in `folder`, where nothing else of this name lies; the image may lie there too.

    One process at a time may use it; who else may still write files is told apart by `attempt`.
    """

    def __init__(self, folder: Path, verifying: Verifying = lambda _done, _total: None) -> None:
        self._lines = Lines(folder / "journal.jsonl")
        self._marker = folder / "attempt"
        self._verifying = verifying
        self._results: dict[str, RegionResult] = {}
        self._joined: set[str] = set()
        self.attempt: Attempt | None = None
        """Given to all work while the image is being built."""

    def resume(self, image: Path, regions: int) -> None:
        """Find out what earlier runs have finished of the image in the folder `image`; remove all else there.

        regions: how many the whole image has.
        """
        self.attempt = Attempt.begin(self._marker)
        image.mkdir(exist_ok=True)
        done, joined = _sorted(self._lines.read())
        good = self._agreeing(image, [*joined.values(), *(file for result in done.values() for file in result.files)])
        self._joined = joined.keys() & good

        def stands(file: WrittenFile) -> bool:
            return file.name in good or joined_name(file.name) in self._joined

        self._results = {name: result for name, result in done.items() if all(map(stands, result.files))}
        self._lines.replace(
            [
                {"regions": regions},
                *(_region_document(name, result) for name, result in self._results.items()),
                *({"joined": astuple(joined[name])} for name in sorted(self._joined)),
            ]
        )
        self._remove_strays(image, good)

    def result(self, work: RegionWork) -> RegionResult | None:
        """What an earlier run has done of `work`; None where it is still to do."""
        return self._results.get(work.name)

    def add(self, work: RegionWork, result: RegionResult) -> None:
        self._lines.add(_region_document(work.name, result))
        self._results[work.name] = result

    @property
    def joined(self) -> frozenset[str]:
        """Names of the shards that were made of parts."""
        return frozenset(self._joined)

    def add_joined(self, file: WrittenFile) -> None:
        self._lines.add({"joined": astuple(file)})
        self._joined.add(file.name)

    def end(self, image: Path) -> None:
        """All is written: whoever still writes for an earlier run must stop; what it has left meanwhile is removed."""
        if self.attempt is not None:
            self.attempt.end()
        files = {file.name for result in self._results.values() for file in result.files}
        self._remove_strays(image, {name for name in files if joined_name(name) is None}, keep_documents=True)

    def kept(self) -> Kept:
        """What the next run would find, if all its checksums agree."""
        documents = self._lines.read()
        of = next((document["regions"] for document in documents if "regions" in document), 0)
        done, _ = _sorted(documents)
        nbytes = sum(file.nbytes for result in done.values() for file in result.files)
        return Kept(sum(name.startswith("0-") for name in done), of, nbytes)

    def _agreeing(self, image: Path, files: list[WrittenFile]) -> set[str]:
        """The names of those that are what they were."""
        total = sum(file.nbytes for file in files)
        seen, good = 0, set()
        if total:
            self._verifying(0, total)
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(file.agrees, image) for file in files]
            try:
                for file, future in zip(files, futures, strict=True):
                    agrees = future.result()
                    seen += file.nbytes
                    self._verifying(seen, total)
                    if agrees:
                        good.add(file.name)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for a night's work to be read
                raise
        return good

    def _remove_strays(self, image: Path, good: set[str], *, keep_documents: bool = False) -> None:
        """Remove every file that no line of the journal vouches for."""
        needed = {file.name for result in self._results.values() for file in result.files}
        needed = (needed & good) | self._joined
        for path in sorted(image.rglob("*")):
            if path.is_dir() or path.relative_to(image).as_posix() in needed:
                continue
            if not (keep_documents and path.name == "zarr.json"):
                path.unlink(missing_ok=True)


def _sorted(documents: Iterable[Mapping[str, Any]]) -> tuple[dict[str, RegionResult], dict[str, WrittenFile]]:
    """(regions by the name of their work, joined shards by their name); the last line about each counts."""
    done: dict[str, RegionResult] = {}
    joined: dict[str, WrittenFile] = {}
    for document in documents:
        if "region" in document:
            planes = tuple(PlaneQuality(*numbers) for numbers in document["planes"])
            done[document["region"]] = RegionResult(planes, tuple(WrittenFile(*file) for file in document["files"]))
        elif "joined" in document:
            file = WrittenFile(*document["joined"])
            joined[file.name] = file
    return done, joined


def _region_document(name: str, result: RegionResult) -> dict[str, Any]:
    """name: of the work, with the levels that it writes."""
    return {
        "region": name,
        "files": [astuple(file) for file in result.files],
        # JSON in Python keeps every bit of a float, and knows infinity and not-a-number.
        "planes": [astuple(plane) for plane in result.planes],
    }


def _line(document: Mapping[str, Any]) -> bytes:
    said = json.dumps(document)
    return f'{{"crc32c": {_checksum(said)}, "said": {said}}}\n'.encode()


def _document(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is torn or damaged."""
    try:
        entry = json.loads(line)
        said = entry["said"]
        return said if isinstance(said, dict) and _checksum(json.dumps(said)) == entry["crc32c"] else None
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(said: str) -> int:
    return int(google_crc32c.value(said.encode()))
