"""Numbers about each plane, gathered while its voxels pass by on their way into shards. Pure.

They answer what an imaging engineer asks the morning after: is a plane black, burnt out, or there twice?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SATURATION_LIMIT = 0.01
"""Share of voxels at the type's largest value above which a plane is reported as saturated."""


@dataclass(frozen=True)
class PlaneQuality:
    """What was seen of one plane (of all its channels), or of a part of it."""

    lowest: float
    highest: float
    saturated: int
    """Voxels at the largest value of an integer type."""
    voxels: int

    def __add__(self, other: PlaneQuality) -> PlaneQuality:
        return PlaneQuality(
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.saturated + other.saturated,
            self.voxels + other.voxels,
        )


def look(voxels: NDArray[Any]) -> PlaneQuality:
    """The quality of a part of a plane. Not-a-number voxels of a float image are left out of lowest and highest."""
    if voxels.dtype.kind == "f":
        known = voxels[~np.isnan(voxels)]
        if not known.size:
            return PlaneQuality(0.0, 0.0, 0, voxels.size)
        return PlaneQuality(float(known.min()), float(known.max()), 0, voxels.size)
    highest = int(voxels.max())
    limit = np.iinfo(voxels.dtype).max
    saturated = int(np.count_nonzero(voxels == limit)) if highest == limit else 0
    return PlaneQuality(int(voxels.min()), highest, saturated, voxels.size)


@dataclass(frozen=True)
class QualityReport:
    """A section's planes, and what somebody should look at."""

    planes: tuple[PlaneQuality, ...]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        rows = []
        for number, plane in enumerate(self.planes, 1):
            row = {"plane": number, **asdict(plane)}
            row["saturated_fraction"] = plane.saturated / plane.voxels
            rows.append(row)
        return {"warnings": list(self.warnings), "planes": rows}


def report(planes: Sequence[PlaneQuality], checksums: Iterable[tuple[str, str]] = ()) -> QualityReport:
    """Judge the planes. checksums: (file name, digest) of each source file, to find planes that are there twice."""
    warnings = []
    for number, plane in enumerate(planes, 1):
        if plane.lowest == plane.highest:
            warnings.append(f"plane {number} is constant: every voxel is {plane.lowest:g}")
        share = plane.saturated / plane.voxels
        if share > SATURATION_LIMIT:
            warnings.append(f"plane {number} is saturated: {share:.1%} of its voxels have the largest value")
    first_with: dict[str, str] = {}
    for name, digest in checksums:
        if digest in first_with:
            warnings.append(f"{name} is a copy of {first_with[digest]}, byte for byte")
        first_with.setdefault(digest, name)
    return QualityReport(tuple(planes), tuple(warnings))
