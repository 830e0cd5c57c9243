"""The documents and tables that make a section, and a brain, BIDS datasets. Pure.

Specification: BIDS 1.11.1, microscopy. The brain is of type `study` with its sections under `sourcedata/`; a section is
a raw dataset on its own.
"""

from __future__ import annotations

from typing import Any

from nissl import __version__
from nissl.datasets import tables
from nissl.datasets.names import ImageName

VERSION = "1.11.1"

PARTICIPANTS = ("participant_id",)
SAMPLES = ("sample_id", "participant_id", "sample_type")
CATALOGUE = (
    *("section", "image", "subject", "sample", "stain", "suffix"),
    *("axes", "shape", "dtype", "voxel_size_um", "levels", "bytes", "quality_warnings", "dataset_id"),
)
"""Columns of a brain's catalogue: one row per image, so that nobody must install a section to ask about it."""

IGNORED = "*.h5\nprovenance\nannotations\n"
BRAIN_IGNORED = "catalogue.tsv\n"

ATTRIBUTES = """\
* annex.backend=BLAKE2B256E
* annex.largefiles=largerthan=100kb
**/.git* annex.largefiles=nothing
*.json annex.largefiles=nothing
*.tsv annex.largefiles=nothing
*.md annex.largefiles=nothing
sub-*/micr/*.h5 annex.largefiles=nothing
**/*.ome.zarr/**/c/** annex.largefiles=anything
"""
"""Shards go to the annex however small, what describes them goes to git.

BLAKE2b because git-annex hashes every shard when it is added, sent and checked, and takes twice as long for SHA-256;
git-annex has known it since 2019, and `b2sum -l 256` computes it.
"""


def description(name: str, kind: str) -> dict[str, Any]:
    """`dataset_description.json`; kind: `raw` or `study`."""
    return {
        "Name": name,
        "BIDSVersion": VERSION,
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "Nissl", "Version": __version__}],
    }


def brain_readme(name: str, subject: str) -> str:
    return f"""# {name}

The brain of subject {subject}, imaged section by section. Every section is a DataLad dataset of its own under
`sourcedata/`; `catalogue.tsv` says what each of them is, so that none need be installed to find out.

    datalad get -n sourcedata/sample-0042     # install one section: names and metadata
    datalad get sourcedata/sample-0042        # and its voxels
"""


def section_readme(image: ImageName) -> str:
    return f"""# Section {image.sample} of subject {image.subject}

Images lie in `sub-{image.subject}/micr/` as OME-Zarr 0.5. Every shard file is a Zarr v3 shard and an HDF5 file at once;
the `.h5` beside an image shows the whole pyramid to HDF5 programs (they need its compression: `import hdf5plugin`).

Get the voxels before you open them: `datalad get sub-{image.subject}`. A shard that is not here is an error for Zarr
and HDF5 readers alike, unless it was locked (`git annex lock`): as a dangling link it would read as zeros.
`provenance/` says what each image was made from, how good its planes are, and shows them side by side.
"""


def sidecar(image: ImageName, voxel_size_um: tuple[float, float, float]) -> dict[str, Any]:
    """The JSON beside an image. voxel_size_um: (z, y, x); BIDS counts the other way round."""
    z, y, x = voxel_size_um
    document: dict[str, Any] = {"PixelSize": [x, y, z], "PixelSizeUnits": "um"}
    if image.stain is not None:
        document["SampleStaining"] = image.stain
    return document


def with_participant(text: str, subject: str) -> str:
    return tables.with_row(text, PARTICIPANTS, {"participant_id": f"sub-{subject}"}, PARTICIPANTS)


def with_sample(text: str, image: ImageName) -> str:
    row = {"sample_id": f"sample-{image.sample}", "participant_id": f"sub-{image.subject}", "sample_type": "tissue"}
    return tables.with_row(text, SAMPLES, row, ("sample_id", "participant_id"))
