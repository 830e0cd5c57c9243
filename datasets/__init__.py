"""A section, and a brain of sections, as DataLad datasets that plain `datalad`, `git` and `git annex` understand.

    git          the one way to run git and git-annex
    annex_keys   what a key of git-annex says: size and checksum
    names        what things are called: samples, sections, images, their paths (pure)
    bids         the documents and tables that make the tree a BIDS dataset (pure)
    tables       tab-separated tables, one row per key (pure)
    brain        the superdataset: created, opened, sections registered in it
    section      one section's dataset: created, images put into it whole or not at all
    sources      the checksums of what an image was made from
    provenance   how data came to be, in DataLad's run-record form (pure)
    unfinished   images whose ingest was interrupted, and what is kept of them
    ingest       a stack becomes an image in a section of a brain
    patterns     which files belong to which section, by a pattern (pure)
    batch        a folder's files become many sections, each on its own
    labelling    labels are put beside an image of a section
    planning     files, inodes and bytes of a brain before it exists (pure)
    check        what is wrong with a brain or a section; damaged shards repaired or set aside
    check_documents  whether BIDS documents, records and the catalogue agree with the images
    locks        one writer at a time, and folders for work that a crash may leave behind

Imported by `federation`, `hub` and the command line; imports `formats`, `nissl.amounts` and
`nissl.errors`. No network here.
"""
