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
        print(f"nissl: {_with_notes(str(error), error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        # A disk, a permission, a vanished folder: the system's own words say which file and why.
        where = f"{error.filename}: " if error.filename else ""
        print(f"nissl: {_with_notes(f'{where}{error.strerror or error}', error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:  # what Typer makes of KeyboardInterrupt
            interrupt = leaving.__cause__ or leaving.__context__
            while interrupt is not None and not isinstance(interrupt, KeyboardInterrupt):
                interrupt = interrupt.__cause__ or interrupt.__context__
            kept = "; ".join(getattr(interrupt, "__notes__", []))
            rest = f": {kept}" if kept else ", nothing half-made was left; run the same command to go on"
            print(f"nissl: interrupted{rest}", file=sys.stderr)
        raise


def _with_notes(said: str, error: BaseException) -> str:
    """What went wrong, and what was kept nevertheless."""
    return "; ".join([said, *getattr(error, "__notes__", [])])


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Slurm and service managers end a job with SIGTERM first: leave as tidily as at Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
