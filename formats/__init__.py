"""Bytes on disk: no git, no network.

    grid         where voxels lie: boxes, shards, inner chunks, pyramid levels (pure)
    codec        the one compression that Zarr and HDF5 share byte for byte
    shard_index  the Zarr index that lies in an HDF5 user block (pure)
    shards       the dual shard: written through HDF5, read with one `pread`
    ome          OME-Zarr 0.5 metadata of an image (pure)
    image        an image opened from disk: levels, boxes of voxels
    virtual      the `.h5` that shows a whole pyramid to HDF5 programs
    stack        what a source of planes must offer, and what can be wrong with one
    tiff         TIFF z-stacks as such a source
    quality      numbers about each plane, gathered while its voxels pass
    build        source in, pyramid of dual shards out

Imported by every other floor; imports only `nissl.errors`. A further source of planes is one module beside `tiff`.
"""
