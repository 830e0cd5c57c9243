"""Nissl: the data manager for brains imaged as thousands of histological sections.

Four floors, and imports only go down:

    hub          the service: git and annex over HTTP, files of any version, pages, viewer
    federation   trust: keys, node cards, access tokens
    datasets     a section and a brain as DataLad datasets: tree, ingest, provenance
    formats      bytes on disk: dual shards, pyramids, OME-Zarr and HDF5 metadata, TIFF stacks

`errors` lies below all of them, `cli` above. The floors stand at the root of the source tree; the links in this folder
make them importable as `nissl.formats` and so on, so that installing Nissl never shadows a package called `datasets`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nissl")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
