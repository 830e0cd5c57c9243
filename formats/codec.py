"""The compressions that Zarr v3 and HDF5 share byte for byte: a zstd frame, or a blosc frame with a checksum behind it.

A flipped bit must be an error to every reader. What each looks at:

    stored                             Zarr v3                          HDF5
    zstd frame, Fletcher-32            zstd, with content checksum      filter 32015, Fletcher-32
    blosc frame, crc32c, Fletcher-32   blosc, then crc32c               filter 32001, Fletcher-32

A chunk's *payload* is what Zarr reads: all but the last four bytes, which are the checksum of HDF5's own Fletcher-32
filter, and which the Zarr index leaves out. HDF5 needs them: its usual zstd filter does not look at the result of
decompressing (hdf5plugin 7.1 hands out the garbage as voxels), and a blosc frame has no checksum at all. HDF5's blosc
filter takes the frame's size from its header and so does not see the crc32c behind it. (`gzip` would not do: the two
wrap deflate differently.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import google_crc32c
import imagecodecs
import numpy as np
import zstandard

from nissl.errors import NisslError

ReadableBuffer = bytes | memoryview

HDF5_CHECKSUM_BYTES = 4

_threads = threading.local()  # zstandard's objects must not be shared between threads


class PayloadError(ValueError):
    """A payload that is damaged, or that is not what the codec writes for a chunk of that size."""


class CompressionError(NisslError):
    """A compression that Nissl does not have."""


@dataclass(frozen=True)
class Hdf5Filter:
    """A filter of an HDF5 dataset."""

    number: int
    """In The HDF Group's registry of filters."""
    options: tuple[int, ...]
    """HDF5's `cd_values`."""


class Codec(Protocol):
    """How the voxels of an inner chunk become its payload, and what says so to Zarr and to HDF5.

    A value: small, immutable, comparable and picklable. Its methods may be called by many threads at once.
    """

    @property
    def name(self) -> str:
        """As `parse_codec` reads it and as provenance records it: `zstd:3`, `bitshuffle-lz4:5`."""

    def zarr(self, dtype: np.dtype[Any]) -> list[dict[str, Any]]:
        """The codecs behind `bytes` of an inner chunk, as Zarr v3 metadata names them."""

    def hdf5(self, dtype: np.dtype[Any], chunk_nbytes: int) -> Hdf5Filter:
        """The filter before Fletcher-32; chunk_nbytes: of a chunk's voxels."""

    def encode(self, voxels: ReadableBuffer) -> bytes:
        """The payload of one chunk. A buffer's item size is taken for that of a voxel: give `array.data`."""

    def decode(self, payload: ReadableBuffer, nbytes: int) -> ReadableBuffer:
        """The `nbytes` bytes of one chunk.

        Raises PayloadError where a checksum does not agree or the size is another; damage is never handed out.
        """

    def decode_into(
        self,
        payload: memoryview,
        voxels: memoryview,
        wanted: int | None = None,
        intact: Callable[[], bool] = lambda: False,
    ) -> None:
        """Decode one chunk into `voxels`, the bytes of exactly one chunk. Raises PayloadError as `decode` does.

        In place, because a fresh half megabyte that is kept costs as much in page faults as half its decoding.
        wanted: how many bytes from the start the caller needs; what follows them in `voxels` may be undefined.
        intact: asks whether the whole payload agrees with a checksum of the caller's; a codec that cannot verify its
        own without decoding everything decodes a part only where this says so.
        """

    def frames(self, payload: bytes) -> bool:
        """Whether `payload` begins, and claims to be as long, as payloads of this codec do."""


@dataclass(frozen=True)
class ZstdCodec:
    """zstd at `level` (1 fast to 22 small), with content checksum and content size in every frame."""

    level: int = 3

    @property
    def name(self) -> str:
        return f"zstd:{self.level}"

    def zarr(self, dtype: np.dtype[Any]) -> list[dict[str, Any]]:  # noqa: ARG002 - zstd sees bytes
        return [{"name": "zstd", "configuration": {"level": self.level, "checksum": True}}]

    def hdf5(self, dtype: np.dtype[Any], chunk_nbytes: int) -> Hdf5Filter:  # noqa: ARG002
        return Hdf5Filter(32015, (self.level,))

    def encode(self, voxels: ReadableBuffer) -> bytes:
        compressors: dict[int, zstandard.ZstdCompressor] = _threads.__dict__.setdefault("compressors", {})
        if self.level not in compressors:
            compressors[self.level] = zstandard.ZstdCompressor(
                level=self.level, write_checksum=True, write_content_size=True
            )
        return compressors[self.level].compress(voxels)

    def decode(self, payload: ReadableBuffer, nbytes: int) -> bytes:
        self._check_header(payload, nbytes)
        try:
            voxels: bytes = _decompressor().decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PayloadError(str(error)) from None
        return voxels

    def decode_into(
        self,
        payload: memoryview,
        voxels: memoryview,
        wanted: int | None = None,
        intact: Callable[[], bool] = lambda: False,
    ) -> None:
        # HDF5's checksum, for which a caller asks in `intact`, costs a sixth of a whole decoding.
        if wanted is not None and 2 * wanted <= len(voxels) and intact():
            _decode_zstd_start(payload, voxels[:wanted])
            return
        self._check_header(payload, len(voxels))
        try:
            decoded = imagecodecs.zstd_decode(payload, out=voxels)  # type: ignore[arg-type]  # it takes any buffer
        except imagecodecs.ZstdError as error:
            raise PayloadError(str(error)) from None
        if len(decoded) != len(voxels):
            raise PayloadError(f"the chunk holds {len(decoded)} bytes instead of {len(voxels)}")

    def frames(self, payload: bytes) -> bool:
        return payload.startswith(zstandard.FRAME_HEADER)

    @staticmethod
    def _check_header(payload: ReadableBuffer, nbytes: int) -> None:
        """A damaged header can claim that there is no checksum to look at, or any size to allocate."""
        try:
            header = zstandard.get_frame_parameters(payload)
        except zstandard.ZstdError as error:
            raise PayloadError(str(error)) from None
        if not header.has_checksum:
            raise PayloadError("the zstd frame has no content checksum")
        if header.content_size != nbytes:
            raise PayloadError(f"the zstd frame holds {header.content_size} bytes instead of {nbytes}")


def _decode_zstd_start(payload: memoryview, voxels: memoryview) -> None:
    """Decode only the first `len(voxels)` bytes of a chunk, for little more than their share of the time.

    The frame's checksum, which is that of all its content, is not looked at.
    """
    # zstd decodes block by block, 128 KiB each, and is not asked for more once `voxels` is full.
    try:
        with _decompressor().stream_reader(payload) as stream:
            decoded = stream.readinto(voxels)
    except zstandard.ZstdError as error:
        raise PayloadError(str(error)) from None
    if decoded != len(voxels):
        raise PayloadError(f"the chunk holds {decoded} bytes instead of {len(voxels)} or more")


_BLOSC_FORMAT = 2  # of frames by blosc 1; those by blosc 2 say 5, and neither Zarr v3 nor HDF5's filter reads them
_BLOSC_HEADER_BYTES = 16
_CRC32C_BYTES = 4

_Compressor = Literal["zstd", "lz4"]
_Shuffle = Literal["bitshuffle", "shuffle"]
_COMPRESSORS: dict[_Compressor, int] = {"zstd": 5, "lz4": 1}
"""As blosc numbers them."""
_SHUFFLES: dict[_Shuffle, int] = {"shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class BloscCodec:
    """blosc: the bits (or bytes) of voxels regrouped by their place in the voxel, then compressed; crc32c behind it.

    Of 16-bit images, whose upper bits hardly change, this is smaller than zstd alone, and faster both ways.
    """

    cname: _Compressor = "zstd"
    clevel: int = 1
    """1 fast to 9 small."""
    shuffle: _Shuffle = "bitshuffle"
    blocksize: int = 512 << 10
    """Bytes that are regrouped and compressed at once, 0 for blosc's choice. Chunks of 512 x 512 x 16 bit as one block
    instead of sixteen are 2 % smaller, compressed in three quarters of the time and decompressed in six tenths."""

    @property
    def name(self) -> str:
        return f"{self.shuffle}-{self.cname}:{self.clevel}"

    def zarr(self, dtype: np.dtype[Any]) -> list[dict[str, Any]]:
        configuration = {
            "cname": self.cname,
            "clevel": self.clevel,
            "shuffle": self.shuffle,
            "typesize": dtype.itemsize,
            "blocksize": self.blocksize,
        }
        return [{"name": "blosc", "configuration": configuration}, {"name": "crc32c"}]

    def hdf5(self, dtype: np.dtype[Any], chunk_nbytes: int) -> Hdf5Filter:
        # The filter puts its own and blosc's format version, the size of a voxel and that of a chunk in front.
        given = (self.clevel, _SHUFFLES[self.shuffle], _COMPRESSORS[self.cname])
        return Hdf5Filter(32001, (2, _BLOSC_FORMAT, dtype.itemsize, chunk_nbytes, *given))

    def encode(self, voxels: ReadableBuffer) -> bytes:
        view = memoryview(voxels)
        frame = imagecodecs.blosc_encode(
            voxels,  # type: ignore[arg-type]  # it takes any buffer
            level=self.clevel,
            compressor=self.cname,
            shuffle=_SHUFFLES[self.shuffle],
            typesize=view.itemsize,
            blocksize=self.blocksize,
            numthreads=1,  # the callers' threads each take a chunk
            out=thread_buffer("blosc", view.nbytes + _BLOSC_HEADER_BYTES),  # type: ignore[arg-type]
        )
        return b"".join((frame, _crc32c(memoryview(frame))))

    def decode(self, payload: ReadableBuffer, nbytes: int) -> ReadableBuffer:
        voxels = memoryview(bytearray(nbytes))
        self.decode_into(memoryview(payload), voxels)
        return voxels

    def decode_into(
        self,
        payload: memoryview,
        voxels: memoryview,
        wanted: int | None = None,  # noqa: ARG002 - the crc32c is that of all blocks, and decoding costs little more
        intact: Callable[[], bool] = lambda: False,  # noqa: ARG002
    ) -> None:
        frame = payload[:-_CRC32C_BYTES]
        # blosc must not see a damaged frame: it has no checksum to notice one by.
        if len(frame) < _BLOSC_HEADER_BYTES or _crc32c(frame) != payload[-_CRC32C_BYTES:]:
            raise PayloadError("the blosc frame does not agree with its crc32c checksum")
        # Nor one that claims more than there is: a checksum is easily forged.
        form, holds, size = _blosc_header(frame)
        if form != _BLOSC_FORMAT or size != len(frame):
            raise PayloadError("the chunk is no frame by blosc 1")
        if holds != len(voxels):
            raise PayloadError(f"the blosc frame holds {holds} bytes instead of {len(voxels)}")
        try:
            decoded = imagecodecs.blosc_decode(frame, out=voxels, numthreads=1)  # type: ignore[arg-type]
        except imagecodecs.BloscError as error:
            raise PayloadError(str(error)) from None
        if len(decoded) != len(voxels):
            raise PayloadError(f"the chunk holds {len(decoded)} bytes instead of {len(voxels)}")

    def frames(self, payload: bytes) -> bool:
        form, _, size = _blosc_header(payload)
        return form == _BLOSC_FORMAT and _BLOSC_HEADER_BYTES <= size == len(payload) - _CRC32C_BYTES


def _blosc_header(frame: ReadableBuffer) -> tuple[int, int, int]:
    """(format version, bytes that the frame holds, bytes of the frame itself), as it claims."""
    holds, size = (int.from_bytes(frame[at : at + 4], "little") for at in (4, 12))
    return frame[0] if len(frame) else 0, holds, size


def _crc32c(frame: ReadableBuffer) -> bytes:
    # As an array, because google_crc32c takes no memoryview.
    checksum: int = google_crc32c.value(np.frombuffer(frame, dtype=np.uint8))
    return checksum.to_bytes(_CRC32C_BYTES, "little")


IMAGE_CODEC: Codec = BloscCodec("zstd", 1)
"""For images, unless told otherwise: on tissue of 8 and of 16 bits it was smaller than zstd 3 or as small, and encoded
in a fifth to two thirds of the time."""


_KINDS: dict[str, tuple[Callable[[int], Codec], range, int]] = {
    "zstd": (ZstdCodec, range(1, 23), 3),
    "bitshuffle-zstd": (lambda level: BloscCodec("zstd", level), range(1, 10), 1),
    "bitshuffle-lz4": (lambda level: BloscCodec("lz4", level), range(1, 10), 5),
    "shuffle-zstd": (lambda level: BloscCodec("zstd", level, "shuffle"), range(1, 10), 1),
    "shuffle-lz4": (lambda level: BloscCodec("lz4", level, "shuffle"), range(1, 10), 5),
}
"""By name: how to make it, its levels, and the one to take where none is given."""


def parse_codec(text: str) -> Codec:
    """The codec that `text` names: `zstd:3`, `bitshuffle-zstd:1`, `bitshuffle-lz4`; a level left out is the usual one.

    Raises CompressionError.
    """
    kind, colon, level = text.partition(":")
    if kind not in _KINDS:
        raise CompressionError(f"there is no compression {kind!r}: give one of {', '.join(_KINDS)}, as in zstd:3")
    make, levels, usual = _KINDS[kind]
    if not colon:
        return make(usual)
    if level not in map(str, levels):
        raise CompressionError(f"{kind} has no level {level!r}: give one from {levels[0]} to {levels[-1]}")
    return make(int(level))


def codec_of(inner: Sequence[Mapping[str, Any]]) -> Codec:
    """The codec that the inner codecs of a sharded Zarr array are. Raises ValueError where they are none of ours."""
    match inner:
        case [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": int(level), "checksum": True}}]:
            return ZstdCodec(level)
        case [
            {"name": "bytes"},
            {
                "name": "blosc",
                "configuration": {
                    "cname": ("zstd" | "lz4") as cname,
                    "clevel": int(clevel),
                    "shuffle": ("bitshuffle" | "shuffle") as shuffle,
                    "blocksize": int(blocksize),
                },
            },
            {"name": "crc32c"},
        ]:
            return BloscCodec(cname, clevel, shuffle, blocksize)
    raise ValueError("its chunks are neither zstd with a checksum nor blosc with crc32c")


def hdf5_checksum(payload: ReadableBuffer) -> bytes:
    """What HDF5's Fletcher-32 filter appends to `payload`."""
    checksum: int = imagecodecs.h5checksum_fletcher32(payload)  # type: ignore[arg-type]  # it takes any buffer
    return checksum.to_bytes(HDF5_CHECKSUM_BYTES, "little")


def with_hdf5_checksum(payload: bytes) -> bytes:
    """`payload` as it is stored, for HDF5 and Zarr."""
    return payload + hdf5_checksum(payload)


def thread_buffer(name: str, nbytes: int) -> memoryview:
    """`nbytes` of memory that this thread keeps under `name`, and that its next call hands out again."""
    buffers: dict[str, memoryview] = _threads.__dict__.setdefault("buffers", {})
    if name not in buffers or len(buffers[name]) < nbytes:
        buffers[name] = memoryview(bytearray(nbytes))
    return buffers[name][:nbytes]


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's."""
    if "decompressor" not in _threads.__dict__:
        _threads.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _threads.decompressor
    return decompressor
