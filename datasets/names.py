"""What things are called: subjects, samples, images, and where they lie in a brain. Pure.

Names follow BIDS 1.11 (https://bids-specification.readthedocs.io, microscopy): labels are letters and digits only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from nissl.errors import NisslError

SUFFIXES = (
    *("TEM", "SEM", "uCT", "BF", "DF", "PC", "DIC", "FLUO", "CONF", "PLI"),
    *("CARS", "2PE", "MPE", "SR", "NLO", "OCT", "SPIM", "XPCT"),
)
"""Modalities that BIDS knows for `micr/`: BF is bright field, FLUO fluorescence, SPIM light sheet, ..."""

SECTIONS = PurePosixPath("sourcedata")
"""Where a brain keeps its sections."""


class NameFormError(NisslError):
    """A subject, sample, stain or suffix that BIDS does not allow."""


_STEM = re.compile(r"sub-([^_]+)_sample-([^_]+)(?:_stain-([^_]+))?_([^_]+)")


def check_label(kind: str, value: str) -> str:
    """`value` if it can be a BIDS label. Raises NameFormError."""
    if not re.fullmatch(r"[0-9A-Za-z]+", value):
        raise NameFormError(f"{kind} {value!r} is not a BIDS label: use letters and digits only, as in 0042 or cfos")
    return value


@dataclass(frozen=True)
class ImageName:
    """One image of one section."""

    subject: str
    sample: str
    stain: str | None
    suffix: str

    def __post_init__(self) -> None:
        check_label("subject", self.subject)
        check_label("sample", self.sample)
        if self.stain is not None:
            check_label("stain", self.stain)
        if self.suffix not in SUFFIXES:
            raise NameFormError(f"suffix {self.suffix!r} is none of BIDS microscopy's: {', '.join(SUFFIXES)}")

    @classmethod
    def parse(cls, stem: str) -> ImageName:
        """The image that `stem` names, also with an image's extension behind it. Raises NameFormError."""
        found = _STEM.fullmatch(stem.removesuffix("/").removesuffix(".ome.zarr"))
        if found is None:
            raise NameFormError(f"{stem!r} does not name an image: write it as in sub-01_sample-0042_stain-Nissl_BF")
        return cls(*found.groups())

    @property
    def section(self) -> PurePosixPath:
        """The section's dataset, within the brain."""
        return SECTIONS / f"sample-{self.sample}"

    @property
    def stem(self) -> str:
        stain = "" if self.stain is None else f"_stain-{self.stain}"
        return f"sub-{self.subject}_sample-{self.sample}{stain}_{self.suffix}"

    @property
    def folder(self) -> PurePosixPath:
        """Where the image's files lie, within the section."""
        return PurePosixPath(f"sub-{self.subject}", "micr")

    @property
    def image(self) -> PurePosixPath:
        return self.folder / f"{self.stem}.ome.zarr"

    @property
    def virtual(self) -> PurePosixPath:
        return self.folder / f"{self.stem}.h5"

    @property
    def sidecar(self) -> PurePosixPath:
        return self.folder / f"{self.stem}.json"

    @property
    def record(self) -> PurePosixPath:
        """The provenance record."""
        return PurePosixPath("provenance", f"{self.stem}.json")

    @property
    def quality(self) -> PurePosixPath:
        """The quality report."""
        return PurePosixPath("provenance", f"{self.stem}_quality.json")

    def labels(self, name: str) -> PurePosixPath:
        """Where the image's labels `name` lie."""
        return self.image / "labels" / name

    def labels_record(self, name: str) -> PurePosixPath:
        """The provenance record of its labels `name`."""
        return PurePosixPath("provenance", f"{self.stem}_labels-{name}.json")

    @property
    def sheet(self) -> PurePosixPath:
        """The contact sheet: all planes side by side, as a picture."""
        return PurePosixPath("provenance", f"{self.stem}_planes.png")

    @property
    def paths(self) -> tuple[PurePosixPath, ...]:
        """Everything that belongs to this image alone, within the section."""
        return (self.image, self.virtual, self.sidecar, self.record, self.quality, self.sheet)
