"""Programs that do the whole job of `bench.whole_job`: TIFF files in, OME-Zarr with a pyramid out.

Each module here is one peer, run with the Python of a virtual environment of its own (its packages are pinned in the
text file of the same name); the modules of Nissl are run with ours. None of a peer's modules may import Nissl.
"""
