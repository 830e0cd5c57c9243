"""The images of a dataset at a version, read from git alone: nothing of their voxels need be here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nissl.formats.ome import Channel
from nissl.hub.address import Address, AddressError, UnknownError
from nissl.hub.root import HubRoot
from nissl.hub.versions import Blob, Folder, find


@dataclass(frozen=True)
class ImageInfo:
    """What an image's metadata says."""

    address: Address
    commit: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    """Voxels of the full resolution, in the order of `axes`."""
    dtype: str
    voxel_size_um: tuple[float, ...]
    """In the order of `axes`; 1 for channels."""
    levels: int
    channels: tuple[Channel, ...]

    @property
    def name(self) -> str:
        return self.address.path.rpartition("/")[2].removesuffix(".ome.zarr")

    def extent(self, axis: str) -> tuple[int, float]:
        """(voxels, um per voxel) along a spatial axis."""
        place = self.axes.index(axis)
        return self.shape[place], self.voxel_size_um[place]


def image_info(hub: HubRoot, address: Address) -> ImageInfo:
    """The image at `address`. Raises UnknownError where there is none, AddressError where it cannot be understood."""
    group, commit, address = _document(hub, address)
    try:
        ome = group["attributes"]["ome"]
        multiscale = ome["multiscales"][0]
        datasets = multiscale["datasets"]
        array, _, _ = _document(hub, Address(address.dataset, commit, f"{address.path}/{datasets[0]['path']}"))
        channels = tuple(
            Channel(channel["label"], channel["color"], (channel["window"]["start"], channel["window"]["end"]))
            for channel in ome.get("omero", {}).get("channels", ())
        )
        return ImageInfo(
            address,
            commit,
            tuple(axis["name"] for axis in multiscale["axes"]),
            tuple(array["shape"]),
            array["data_type"],
            tuple(map(float, datasets[0]["coordinateTransformations"][0]["scale"])),
            len(datasets),
            channels,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise AddressError(f"{address.path!r} is not an OME-Zarr 0.5 image ({error!r})") from None


def images(hub: HubRoot, dataset: str, ref: str) -> Iterator[ImageInfo]:
    """The images of a section: every `sub-*/micr/*.ome.zarr` that can be understood."""
    for subject in _folders(hub, Address(dataset, ref, "")):
        if not subject.startswith("sub-"):
            continue
        for name in _folders(hub, Address(dataset, ref, f"{subject}/micr")):
            if name.endswith(".ome.zarr"):
                try:
                    yield image_info(hub, Address(dataset, ref, f"{subject}/micr/{name}"))
                except AddressError:
                    continue


def _folders(hub: HubRoot, address: Address) -> list[str]:
    try:
        content = find(hub, address).content
    except UnknownError:
        return []
    return [name for name, kind in content.entries if kind == "folder"] if isinstance(content, Folder) else []


def _document(hub: HubRoot, address: Address) -> tuple[dict[str, Any], str, Address]:
    """(`zarr.json`, commit, the address as it is after sections were entered) of the folder at `address`."""
    found = find(hub, Address(address.dataset, address.ref, f"{address.path}/zarr.json"))
    inner = Address(found.address.dataset, found.address.ref, found.address.path.removesuffix("/zarr.json"))
    if not isinstance(found.content, Blob):
        raise AddressError(f"{address.path!r} is not an image whose metadata is in git")
    try:
        document = json.loads(found.content.content)
    except ValueError:
        raise AddressError(f"{address.path}/zarr.json is damaged") from None
    if not isinstance(document, dict):
        raise AddressError(f"{address.path}/zarr.json is not a Zarr document")
    return document, found.commit, inner
