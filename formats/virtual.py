"""The `.h5` beside an image: virtual HDF5 datasets over all shards of every level, by relative path. Nothing is copied.

HDF5 programs open one file and see the pyramid as datasets `0`, `1`, ... A source that HDF5 finds but cannot open, as
the pointer file of an absent shard, is an error; one that it does not find, as behind a dangling link, is fill value.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from nissl.formats.image import Image, Level
from nissl.formats.shards import DATASET, hdf5_shape, sync_folder


def write_virtual(path: Path, image: Image) -> None:
    """Write the virtual file of `image` at `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    to_image = os.path.relpath(image.folder, path.parent)
    try:
        with h5py.File(temporary, "w", libver="latest") as file:
            file.attrs["axes"] = list(image.axes)
            file.attrs["voxel_size"] = image.voxel_size_um
            file.attrs["voxel_size_unit"] = "micrometer"
            for number, level in enumerate(image.levels):
                dataset = _create_dataset(file, str(number), level, Path(to_image, level.folder.name))
                dataset.attrs["downsampling"] = [2**number if axis in ("y", "x") else 1 for axis in image.axes]
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _create_dataset(file: h5py.File, name: str, level: Level, to_level: Path) -> h5py.Dataset:
    # By hand, because h5py's own call lets HDF5 store the time: the same image would not be the same annex key.
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.VIRTUAL)
    layout.set_obj_track_times(False)
    dtype = level.dtype.newbyteorder("<")
    layout.set_fill_value(np.zeros((), dtype=dtype))
    for shard in level.grid.shards():
        source = level.shard_path(shard)
        if not os.path.lexists(source):  # only fill value: HDF5 fills the gap itself
            continue
        box = level.grid.shard_box(shard)
        whole = h5py.h5s.create_simple(level.shape)
        whole.select_hyperslab(box.start, box.shape)
        stored = h5py.h5s.create_simple(hdf5_shape(level.grid, shard))
        stored.select_hyperslab((0,) * level.grid.rank, box.shape)
        relative = str(to_level / source.relative_to(level.folder)).replace("%", "%%")  # HDF5 expands %b in names
        layout.set_virtual(whole, os.fsencode(relative), DATASET.encode(), stored)
    space = h5py.h5s.create_simple(level.shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, layout))
