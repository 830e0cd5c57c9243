"""What can go wrong, as sentences that a user reads.

Every error that Nissl raises on purpose is a `NisslError`; its message names the file, the value and the remedy, and
the command line prints it without a traceback. Each floor derives its own from these.
"""


class NisslError(Exception):
    """A user's mistake, a broken file or a missing thing: one clear sentence."""


class NoSpaceError(NisslError):
    """A file system ran out of bytes or inodes while something was being written."""
