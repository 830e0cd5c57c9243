"""Bytes on disk: no git, no network.

    grid         where voxels lie: boxes, shards, inner chunks, pyramid levels (pure)
    codec        the one compression that Zarr and HDF5 share byte for byte
    shard_index  the Zarr index that lies in an HDF5 user block (pure)
    shards       the dual shard: written through HDF5, read with one `pread`
    served_shard a shard whose chunks are handed out as they are stored
    unsharded    a sharded array's `zarr.json` as that of a plain one of inner chunks (pure)
    ome          OME-Zarr 0.5 metadata of an image (pure)
    image        an image opened from disk: levels, boxes of voxels
    patches      random or gridded patches of many images, for training
    patch_plan   which patches these are, and which chunks hold them (pure)
    virtual      the `.h5` that shows a whole pyramid to HDF5 programs
    stack        what a source of planes must offer, and what can be wrong with one
    tiff         TIFF z-stacks as such a source
    quality      numbers about each plane, gathered while its voxels pass
    contact_sheet  all planes as one picture
    build        source in, pyramid of dual shards out
    labels       label volumes beside an image: pyramids of their modes
    label_files  NumPy, HDF5 and TIFF files of labels as such a source
    lists        arrays of one long axis in dual shards: written as they come, searched with few reads
    hdf5_view    a shard as HDF5 sees it, read without a voxel
    check        what is wrong with a shard or an image: the two views against each other, every checksum
    repair       a shard's index rebuilt from its HDF5 side
    label_index  which label lies in which chunks, how large, between which corners

Imported by every other floor; imports only `nissl.errors`. A further source of planes is one module beside `tiff`.
"""
