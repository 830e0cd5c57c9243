"""Trust between people, programs and institutions. Nothing here serves HTTP.

    keys    Ed25519 keys on disk, and their ids
    card    the signed card by which a node introduces itself
    tokens  short-lived, signed, scoped access tokens
    access  who may do what: the decision itself (pure)

Imported by `hub` and the command line. Signed policies, publications and contributions come here, each as a module
whose decisions are pure functions of documents and the time.
"""
