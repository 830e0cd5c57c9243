"""Stacks of any size for benchmarks, made of the real z-stack: tiles of it, shifted so that nothing repeats exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

REAL_STACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "zstack"
PLANES = 30


def real_planes() -> NDArray[np.uint16]:
    files = sorted(REAL_STACK.glob("*.tif"))
    if not files:
        raise SystemExit(f"{REAL_STACK} is missing: these benchmarks need the real z-stack")
    return np.stack([tifffile.imread(file) for file in files[:PLANES]])


def make_stack(folder: Path, gigabytes: float) -> list[Path]:
    """Uncompressed TIFF files, one per plane, of `gigabytes` in all; planes are square."""
    real = real_planes()
    planes, tile_height, tile_width = real.shape
    edge = round(math.sqrt(gigabytes * 1e9 / planes / 2))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(planes):
        generator = np.random.default_rng(number)
        plane = np.empty((edge, edge), dtype=np.uint16)
        for top in range(0, edge, tile_height):
            for left in range(0, edge, tile_width):
                tile = np.roll(real[number], generator.integers(0, tile_height, 2).tolist(), axis=(0, 1))
                here = plane[top : top + tile_height, left : left + tile_width]
                # A step of a few grey levels per tile, as between the fields of view of a microscope.
                here[...] = tile[: here.shape[0], : here.shape[1]] + generator.integers(0, 8, dtype=np.uint16)
        paths.append(folder / f"z{number:02}.tif")
        tifffile.imwrite(paths[-1], plane)
    return paths
