"""The service: datasets of a folder over HTTP, for `datalad`, Zarr readers, browsers and programs.

    root        the hub's folder: its key, its name, its bare repositories
    intake      datasets on this machine are taken into the hub
    versions    what a path names at a branch, tag or commit: a blob, an annexed file, a folder (pygit2)
    address     URLs taken apart: dataset, ref, path (pure)
    site        what every handler needs to know of its hub
    access      requests held against `federation.access`: who asks, what for
    git_http    git's smart HTTP, through `git http-backend`
    annex_http  git-annex's P2P over HTTP, through `git annex p2phttp`
    data        raw files of any version, with Range
    chunks      images of any version as plain Zarr, a file per inner chunk
    levels      which arrays a version has, and which annexed object holds which shard; kept
    open_shards shards that are kept open, bounded
    dates       `main@{2026-11-21T10:00Z}`: a branch as it was at a time
    ranges      the Range header taken apart (pure)
    answers     content sent as HTTP wants it: validators, one range, several
    listing     a folder's entries, as JSON or as links
    images      the images of a dataset at a version, read from git alone
    catalogue   what there is: the JSON list, and the pages that people read
    viewer      Neuroglancer, driven over its Python-integration protocol
    server      all of it put together, and run

Imported only by the command line; a further surface is one module beside `data`, with its routes added in `server`.
"""
