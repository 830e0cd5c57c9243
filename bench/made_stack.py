"""Stacks of any size for benchmarks, made of the real z-stack: tiles of it, shifted so that nothing repeats exactly.

Each tile is the real plane rolled by whole rows and columns, and in x by a part of a pixel, as by the band-limited
interpolation of the sampling theorem: it keeps the camera's noise, which a linear interpolation would smooth away, and
gives other numbers each time. A step of a few grey levels is added, as between the fields of view of a microscope.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

REAL_STACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "zstack"
PLANES = 30


def real_planes() -> NDArray[np.uint16]:
    """The real z-stack, shape (planes, rows, columns)."""
    files = sorted(REAL_STACK.glob("*.tif"))
    if not files:
        raise SystemExit(f"{REAL_STACK} is missing: these benchmarks need the real z-stack")
    return np.stack([tifffile.imread(file) for file in files[:PLANES]])


def made_plane(real: NDArray[np.uint16], edge: int, seed: int) -> NDArray[np.uint16]:
    """A square plane of `edge` voxels, tiled with `real`; the same for the same seed."""
    tile_height, tile_width = real.shape
    generator = np.random.default_rng(seed)
    spectrum = np.fft.rfft(real.astype(np.float32), axis=1)
    frequencies = np.fft.rfftfreq(tile_width)
    plane = np.empty((edge, edge), dtype=np.uint16)
    for top in range(0, edge, tile_height):
        for left in range(0, edge, tile_width):
            here = plane[top : top + tile_height, left : left + tile_width]
            shift = np.exp(-2j * np.pi * frequencies * generator.uniform(0, tile_width)).astype(np.complex64)
            rolled = np.roll(spectrum, generator.integers(0, tile_height), axis=0)[: here.shape[0]]
            tile = np.fft.irfft(rolled * shift, n=tile_width, axis=1)[:, : here.shape[1]]
            here[...] = np.clip(np.rint(tile + generator.uniform(0, 8)), 0, 65535)
    return plane


def make_stack(folder: Path, gigabytes: float) -> list[Path]:
    """Uncompressed TIFF files, one per plane, of `gigabytes` in all; planes are square."""
    real = real_planes()
    edge = round(math.sqrt(gigabytes * 1e9 / len(real) / 2))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"z{number:02}.tif" for number in range(len(real))]

    def make(number: int) -> None:
        tifffile.imwrite(paths[number], made_plane(real[number], edge, number))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, range(len(real))))
    return paths
