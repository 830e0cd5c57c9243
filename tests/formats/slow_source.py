"""A stack on a slow disk, so that tests can do something in the middle of a build."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nissl.formats.tiff import TiffStack


@dataclass(frozen=True)
class SlowSource:
    stack: TiffStack
    delay_s: float
    """Of each read."""

    @property
    def files(self) -> tuple[Path, ...]:
        return self.stack.files

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stack.shape

    @property
    def channels(self) -> int | None:
        return self.stack.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stack.dtype

    @property
    def whole_rows(self) -> bool:
        return self.stack.whole_rows

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        time.sleep(self.delay_s)
        return self.stack.read(plane, rows, columns)

    def close(self) -> None:
        self.stack.close()
