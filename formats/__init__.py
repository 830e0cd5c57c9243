"""Bytes on disk: no git, and no network but Dask's.

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
    sources      the kinds of sources, one module each, and which one a name means
    tiff         TIFF z-stacks as such a source
    tiff_files   how TIFF files are recognised, and the pixel size that they say
    npy, hdf5, zarr_arrays  NumPy files, HDF5 datasets, Zarr and OME-Zarr as such sources
    arrays       what these have in common: axes, and chunks decoded once
    scratch      decoded voxels that wait on disk
    pixel_size   the size of a voxel as files say it (pure)
    quality      numbers about each plane, gathered while its voxels pass
    contact_sheet  all planes as one picture
    build        source in, pyramid of dual shards out
    journal      what is finished of an image that is being built, for the next run to go on from
    attempt      one run at building an image, told from earlier ones whose workers may still write
    written      a file as it was written: its size and checksum
    workers      who writes regions: a crew; here, this machine's cores
    dask_crew    the workers of a Dask cluster as a crew
    dask_worker  what such a worker does
    fence        how work on a shared disk is stopped, and seen to have stopped
    labels       label volumes beside an image: pyramids of their modes
    label_files  files of labels as such a source
    lists        arrays of one long axis in dual shards: written as they come, searched with few reads
    hdf5_view    a shard as HDF5 sees it, read without a voxel
    check        what is wrong with a shard or an image: the two views against each other, every checksum
    repair       a shard's index rebuilt from its HDF5 side
    label_index  which label lies in which chunks, how large, between which corners

Imported by every other floor; imports only `nissl.errors`. A further source of planes is one module beside `npy`
and one entry in `sources`.
"""
