"""Numbers about each plane, gathered while its voxels pass by on their way into shards. Pure.

They answer what an imaging engineer asks the morning after: is a plane black, burnt out, out of focus or there twice,
did the lamp flicker, and is there tissue at all?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SATURATION_LIMIT = 0.01
"""Share of voxels at the type's largest value above which a plane is reported as saturated."""
JUMP_LIMIT = 0.3
"""Difference of a plane's mean from that of its neighbours, as a share of it, above which it is reported."""
TISSUE_LIMIT = 0.01
"""Share of tissue below which a section is reported as empty."""

_SAMPLED_ROWS = 8  # one row in eight is enough for mean and focus, and costs next to nothing beside compression


@dataclass(frozen=True)
class PlaneQuality:
    """What was seen of one plane (of all its channels), or of a part of it. Parts add up."""

    lowest: float
    highest: float
    saturated: int
    """Voxels at the largest value of an integer type."""
    voxels: int
    intensity: float = 0.0
    """Sum of the voxels in the sampled rows."""
    sampled: int = 0
    contrast: float = 0.0
    """Sum, over the sampled rows, of squared differences between voxels two apart."""
    pairs: int = 0

    @property
    def mean(self) -> float:
        return self.intensity / self.sampled if self.sampled else 0.0

    @property
    def focus(self) -> float:
        """Brenner's focus score (J. F. Brenner et al. 1976, J. Histochem. Cytochem. 24:100), relative to brightness.

        The mean of squared differences between voxels two apart in x, divided by the squared mean intensity: comparable
        between planes of one stack, not between stains.
        """
        return self.contrast / self.pairs / self.mean**2 if self.pairs and self.mean else 0.0

    def __add__(self, other: PlaneQuality) -> PlaneQuality:
        return PlaneQuality(
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.saturated + other.saturated,
            self.voxels + other.voxels,
            self.intensity + other.intensity,
            self.sampled + other.sampled,
            self.contrast + other.contrast,
            self.pairs + other.pairs,
        )


def look(voxels: NDArray[Any]) -> PlaneQuality:
    """The quality of a part of a plane, shape (..., rows, columns).

    Not-a-number voxels of a float image are left out of everything but the count.
    """
    rows = voxels[..., ::_SAMPLED_ROWS, :].astype(np.float32)
    if voxels.dtype.kind == "f":
        rows = np.nan_to_num(rows, nan=0.0)
    steps = rows[..., 2:] - rows[..., :-2]
    texture = (
        float(rows.sum(dtype=np.float64)),
        rows.size,
        float(np.multiply(steps, steps, out=steps).sum(dtype=np.float64)),
        steps.size,
    )
    if voxels.dtype.kind == "f":
        known = voxels[~np.isnan(voxels)]
        if not known.size:
            return PlaneQuality(0.0, 0.0, 0, voxels.size, *texture)
        return PlaneQuality(float(known.min()), float(known.max()), 0, voxels.size, *texture)
    highest = int(voxels.max())
    limit = np.iinfo(voxels.dtype).max
    saturated = int(np.count_nonzero(voxels == limit)) if highest == limit else 0
    return PlaneQuality(int(voxels.min()), highest, saturated, voxels.size, *texture)


def tissue_fractions(overview: NDArray[Any]) -> list[float]:
    """The share of each plane that is tissue, in an overview of shape (planes, rows, columns).

    Tissue is what lies on the other side of Otsu's threshold than the border of the picture does: darker in bright
    field, brighter in fluorescence. Where a section fills the picture to its border, the number says little.
    """
    threshold = otsu_threshold(overview)
    border = np.concatenate([overview[:, [0, -1], :].ravel(), overview[:, :, [0, -1]].ravel()])
    bright = overview > threshold
    tissue = ~bright if np.median(border) > threshold else bright
    return [float(share) for share in tissue.mean(axis=(1, 2))]


def otsu_threshold(values: NDArray[Any]) -> float:
    """The value that parts `values` into two classes of least variance (N. Otsu 1979, IEEE Trans. SMC 9:62)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][np.nanargmax(between)]) if np.isfinite(between).any() else float(edges[-1])


@dataclass(frozen=True)
class QualityReport:
    """A section's planes, and what somebody should look at."""

    planes: tuple[PlaneQuality, ...]
    tissue: tuple[float, ...]
    """Share of each plane that is tissue; empty where nobody looked."""
    warnings: tuple[str, ...]
    flagged: frozenset[int]
    """Numbers of planes that a warning names, from 1."""

    def document(self) -> dict[str, Any]:
        rows = []
        for number, plane in enumerate(self.planes, 1):
            row = {
                "plane": number,
                "lowest": plane.lowest,
                "highest": plane.highest,
                "mean": round(plane.mean, 3),
                "focus": round(plane.focus, 6),
                "saturated_fraction": plane.saturated / plane.voxels,
            }
            if self.tissue:
                row["tissue_fraction"] = round(self.tissue[number - 1], 4)
            rows.append(row)
        sharpest = max(range(len(self.planes)), key=lambda number: self.planes[number].focus, default=None)
        return {
            "warnings": list(self.warnings),
            "sharpest_plane": None if sharpest is None else sharpest + 1,
            "planes": rows,
        }


def report(
    planes: Sequence[PlaneQuality],
    checksums: Iterable[tuple[str, str]] = (),
    overview: NDArray[Any] | None = None,
) -> QualityReport:
    """Judge the planes.

    checksums: (file name, digest) of each source file, to find planes that are there twice. overview: the planes,
    small, shape (planes, rows, columns), to find tissue.
    """
    warnings: list[str] = []
    flagged: set[int] = set()
    for number, plane in enumerate(planes, 1):
        said = [*_burnt_or_blank(number, plane), *_jump(number, planes)]
        warnings += said
        if said:
            flagged.add(number)
    first_with: dict[str, str] = {}
    for name, digest in checksums:
        if digest in first_with:
            warnings.append(f"{name} is a copy of {first_with[digest]}, byte for byte")
        first_with.setdefault(digest, name)
    tissue = tuple(tissue_fractions(overview)) if overview is not None else ()
    if tissue and max(tissue) < TISSUE_LIMIT:
        warnings.append(f"there is next to no tissue: {max(tissue):.2%} of the fullest plane")
    return QualityReport(tuple(planes), tissue, tuple(warnings), frozenset(flagged))


def _burnt_or_blank(number: int, plane: PlaneQuality) -> list[str]:
    said = []
    if plane.lowest == plane.highest:
        said.append(f"plane {number} is constant: every voxel is {plane.lowest:g}")
    share = plane.saturated / plane.voxels
    if share > SATURATION_LIMIT:
        said.append(f"plane {number} is saturated: {share:.1%} of its voxels have the largest value")
    return said


def _jump(number: int, planes: Sequence[PlaneQuality]) -> list[str]:
    """A plane between two that agree with each other, but not with it."""
    if not 1 < number < len(planes):
        return []
    before, plane, after = (planes[place].mean for place in (number - 2, number - 1, number))
    usual = (before + after) / 2
    if usual <= 0 or abs(before - after) > JUMP_LIMIT * usual or abs(plane - usual) <= JUMP_LIMIT * usual:
        return []
    word = "brighter" if plane > usual else "darker"
    return [f"plane {number} is {abs(plane / usual - 1):.0%} {word} than its neighbours"]
