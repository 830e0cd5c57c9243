"""Whether the documents of a dataset agree with each other and with its images: BIDS, records, the catalogue."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nissl.datasets import bids, tables
from nissl.datasets.names import ImageName, NameFormError
from nissl.formats.check import Finding, Part
from nissl.formats.image import NotAnImageError, open_image


def description_findings(dataset: Path, kind: str) -> Iterator[Finding]:
    """What is wrong with `dataset_description.json`; kind: `raw` or `study`."""
    path = dataset / "dataset_description.json"
    document, findings = _json(path)
    yield from findings
    if not findings:
        if document.get("DatasetType", "raw") != kind:
            yield Finding(path, None, f"says DatasetType {document.get('DatasetType')!r}, not {kind!r}", Part.METADATA)
        for key in ("Name", "BIDSVersion"):
            if not document.get(key):
                yield Finding(path, None, f"has no {key}", Part.METADATA)


def bids_findings(section: Path, kind: str, images: Sequence[Path]) -> Iterator[Finding]:
    """BIDS documents and tables that are missing or contradict the images."""
    yield from description_findings(section, kind)
    participants, unreadable = read_table(section / "participants.tsv") if images else ([], [])
    yield from unreadable
    samples, unreadable = read_table(section / "samples.tsv") if images else ([], [])
    yield from unreadable
    for folder in images:
        try:
            name = ImageName.parse(folder.name.removesuffix(".ome.zarr"))
        except NameFormError as error:
            yield Finding(folder, None, f"is not named as BIDS wants ({error})", Part.DATASET, "rename it")
            continue
        if f"sub-{name.subject}" not in {row.get("participant_id") for row in participants}:
            yield Finding(section / "participants.tsv", None, f"has no row for sub-{name.subject}", Part.METADATA)
        if f"sample-{name.sample}" not in {row.get("sample_id") for row in samples}:
            yield Finding(section / "samples.tsv", None, f"has no row for sample-{name.sample}", Part.METADATA)
        yield from _sidecar_findings(section, name)


def _sidecar_findings(section: Path, name: ImageName) -> Iterator[Finding]:
    path = section / name.sidecar
    document, findings = _json(path)
    yield from findings
    if findings:
        return
    try:
        with open_image(section / name.image) as image:
            right = bids.sidecar(name, image.voxel_size_um)
    except NotAnImageError:  # the image's own check says so
        return
    for key in ("PixelSize", "PixelSizeUnits"):
        if not _alike(document.get(key), right[key]):
            yield Finding(path, None, f"says {key} {document.get(key)}, but the image {right[key]}", Part.METADATA)


def record_findings(section: Path, images: Sequence[Path]) -> Iterator[Finding]:
    """Provenance records without what they describe, and images without a record."""
    recorded = {}
    for path in sorted((section / "provenance").glob("*.json")):
        with contextlib.suppress(NameFormError):  # a quality report, or the record of something else
            recorded[path.stem] = ImageName.parse(path.stem)
    for stem, name in recorded.items():
        document, findings = _json(section / name.record)
        yield from findings
        if not findings and not {"command", "sources", "settings"} <= set(document):
            yield Finding(section / name.record, None, "is no provenance record", Part.METADATA)
        for output in (name.image, name.virtual, name.sidecar, name.quality):
            if not (section / output).exists():
                problem = f"is missing, but provenance/{stem}.json says that it was made"
                yield Finding(section / output, None, problem, Part.METADATA)
    for folder in images:
        stem = folder.name.removesuffix(".ome.zarr")
        if stem not in recorded:
            yield Finding(section / "provenance" / f"{stem}.json", None, "is missing", Part.METADATA)


def catalogue_findings(brain: Path, section: Path, rows: Sequence[Mapping[str, str]]) -> Iterator[Finding]:
    """Rows of the brain's catalogue that contradict the section's images, and images without a row."""
    path = brain / "catalogue.tsv"
    images = {str(folder.relative_to(section)): folder for folder in section.glob("sub-*/micr/*.ome.zarr")}
    by_image = {row.get("image", ""): row for row in rows}
    for name in sorted({*images, *by_image}):
        if name not in by_image:
            yield Finding(path, None, f"has no row for {section.name}/{name}", Part.METADATA)
        elif name not in images:
            yield Finding(path, None, f"has a row for {section.name}/{name}, which does not exist", Part.METADATA)
        else:
            with contextlib.suppress(NotAnImageError), open_image(images[name]) as image:
                first, row = image.levels[0], by_image[name]
                right = {
                    "axes": "".join(image.axes),
                    "shape": "x".join(map(str, first.shape)),
                    "dtype": first.dtype.name,
                    "levels": str(len(image.levels)),
                }
                for column, value in right.items():
                    if row.get(column) != value:
                        problem = f"says {column} {row.get(column)} of {section.name}/{name}, which has {value}"
                        yield Finding(path, None, problem, Part.METADATA)


def _json(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document, []
        problem = "is no JSON document with keys"
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    return {}, [Finding(path, None, problem, Part.METADATA)]


def read_table(path: Path) -> tuple[list[dict[str, str]], list[Finding]]:
    try:
        return tables.parse(path.read_text(encoding="utf-8")), []
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    return [], [Finding(path, None, problem, Part.METADATA)]


def _alike(said: object, right: object) -> bool:
    if isinstance(said, list) and isinstance(right, list):
        return len(said) == len(right) and all(map(_alike, said, right))
    if isinstance(said, int | float) and isinstance(right, int | float):
        return math.isclose(said, right, rel_tol=1e-9)
    return said == right
