"""The `.h5` beside an image: virtual HDF5 datasets over all shards of every level, by relative path. Nothing is copied.

HDF5 programs open one file and see the pyramid as datasets `0`, `1`, ... HDF5 itself shows fill value for a source file
that is missing or unreadable, silently; `datalad get` the image's folder before opening the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from nissl.formats.image import Image
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
                layout = h5py.VirtualLayout(level.shape, dtype=level.dtype.newbyteorder("<"))
                for shard in level.grid.shards():
                    source = level.shard_path(shard)
                    if not os.path.lexists(source):  # only fill value: HDF5 fills the gap itself
                        continue
                    box = level.grid.shard_box(shard)
                    relative = Path(to_image, source.relative_to(image.folder))
                    stored = h5py.VirtualSource(str(relative), DATASET, shape=hdf5_shape(level.grid, shard))
                    layout[box.slices] = stored[box.relative_to(box.start).slices]
                dataset = file.create_virtual_dataset(str(number), layout, fillvalue=0)
                dataset.attrs["downsampling"] = [2**number if axis in ("y", "x") else 1 for axis in image.axes]
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
