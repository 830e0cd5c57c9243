"""One run at building an image, told from earlier ones whose workers may still be alive on some machine.

A worker of a run that was killed must not go on writing where another run has taken over. Each run leaves a token of
its own in a file beside the image, and its workers look, before every band that they read and before every file that
they publish, whether it is still theirs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from nissl.formats.shards import plain_disk_errors


@dataclass(frozen=True)
class Attempt:
    """A picklable value that travels with the work."""

    marker: Path
    """The file with the token of the run whose turn it is."""
    token: str

    @classmethod
    def begin(cls, marker: Path) -> Attempt:
        """Take over: workers of earlier runs stop at their next look."""
        attempt = cls(marker, secrets.token_hex(8))
        temporary = marker.with_name(f".{marker.name}.part")
        with plain_disk_errors(marker):
            temporary.write_text(attempt.token, encoding="ascii")
            temporary.rename(marker)
        return attempt

    def require_current(self) -> None:
        """Raises InterruptedError where another run has taken over, or nobody builds this image any more."""
        try:
            current = self.marker.read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError):
            current = ""
        if current != self.token:
            raise InterruptedError(f"another run has taken over {self.marker.parent}")

    def end(self) -> None:
        """Nobody may write any more."""
        self.marker.unlink(missing_ok=True)
