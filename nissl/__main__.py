"""`nissl` and `python -m nissl`: errors become one sentence and an exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from nissl.cli import app
from nissl.errors import NisslError

_INTERRUPTED = 130


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 wrong use, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except NisslError as error:
        print(f"nissl: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        # A disk, a permission, a vanished folder: the system's own words say which file and why.
        where = f"{error.filename}: " if error.filename else ""
        print(f"nissl: {where}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:  # what Typer makes of KeyboardInterrupt
            print("nissl: interrupted, nothing half-made was left; run the same command to go on", file=sys.stderr)
        raise


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Slurm and service managers end a job with SIGTERM first: leave as tidily as at Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
