"""Codecs: what they write is read back, by whatever name they are kept, and damage never passes for voxels."""

from __future__ import annotations

import functools
import random
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.formats.codec import (
    BloscCodec,
    Codec,
    CompressionError,
    PayloadError,
    ZstdCodec,
    codec_of,
    parse_codec,
)
from tests.formats.formats_model import CODECS, a_picture

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
codecs = st.sampled_from(list(CODECS.values()))
dtypes = st.sampled_from(["u1", "u2", "u4", "u8", "i2", "f4", "f8"])
BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}

PICTURE = a_picture((1, 64, 64))


def decoded_into(codec: Codec, payload: bytes, nbytes: int) -> bytes:
    voxels = memoryview(bytearray(b"\xaa" * nbytes))
    codec.decode_into(memoryview(payload), voxels)
    return bytes(voxels)


@given(codecs, dtypes, st.binary(min_size=1, max_size=5000), st.integers(1, 40))
def test_what_is_encoded_is_decoded(codec: Codec, dtype: str, content: bytes, times: int) -> None:
    content = content * times
    voxels = np.frombuffer(content[: len(content) - len(content) % np.dtype(dtype).itemsize], dtype)
    if not voxels.size:
        return
    payload = codec.encode(voxels.data)
    assert bytes(codec.decode(payload, voxels.nbytes)) == voxels.tobytes()
    assert decoded_into(codec, payload, voxels.nbytes) == voxels.tobytes()
    assert codec.frames(payload)


@every_codec
def test_the_same_voxels_are_the_same_bytes_whatever_was_encoded_before(codec: Codec) -> None:
    first = codec.encode(PICTURE.data)
    codec.encode(np.zeros(100_000, "u8").data)
    assert codec.encode(PICTURE.data) == first


@every_codec
def test_every_flipped_bit_is_an_error_or_has_no_meaning(codec: Codec) -> None:
    payload = codec.encode(PICTURE.data)
    silent = 0
    for bit in range(0, 8 * len(payload), 7):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        for decode in (codec.decode, functools.partial(decoded_into, codec)):
            try:
                assert bytes(decode(bytes(damaged), PICTURE.nbytes)) == PICTURE.tobytes()
                silent += 1
            except PayloadError:
                pass
    # A zstd frame has bits without meaning: one that decoders must ignore, a window larger than needed, ...
    assert isinstance(codec, ZstdCodec) or not silent


@every_codec
@pytest.mark.parametrize("left", [0, 1, 3, 4, 5, 15, 19, 20, -5, -1])
def test_a_payload_cut_short_is_an_error(codec: Codec, left: int) -> None:
    payload = codec.encode(PICTURE.data)[:left]
    with pytest.raises(PayloadError):
        codec.decode(payload, PICTURE.nbytes)
    assert isinstance(codec, ZstdCodec) or not codec.frames(payload)


@every_codec
@pytest.mark.parametrize("other", [1, 1000, PICTURE.nbytes - 1, PICTURE.nbytes + 1, 10 * PICTURE.nbytes])
def test_a_payload_of_another_size_is_an_error(codec: Codec, other: int) -> None:
    payload = codec.encode(PICTURE.data)
    with pytest.raises(PayloadError, match=f"holds {PICTURE.nbytes} bytes instead of {other}"):
        codec.decode(payload, other)
    with pytest.raises(PayloadError, match=f"holds {PICTURE.nbytes} bytes instead of {other}"):
        decoded_into(codec, payload, other)


def forged(frame: bytes) -> bytes:
    """A payload whose checksum and size agree with a frame that blosc did not write."""
    sized = frame[:12] + len(frame).to_bytes(4, "little") + frame[16:]
    return sized + int(google_crc32c.value(sized)).to_bytes(4, "little")


@pytest.mark.parametrize("codec", [one for one in CODECS.values() if isinstance(one, BloscCodec)], ids=repr)
def test_frames_with_forged_checksums_are_refused_or_decoded_and_never_crash(codec: BloscCodec) -> None:
    generator = random.Random(0)
    frame = codec.encode(PICTURE.data)[:-4]
    refused = 0
    for number in range(3000):
        damaged = bytearray(frame)
        for _ in range(generator.choice((1, 1, 2, 8))):
            at = generator.randrange(64 if number % 2 else len(frame))
            damaged[at] = generator.choice((0, 0xFF, 0x7F, 0x80, generator.randrange(256)))
        if number % 3 == 0:
            del damaged[generator.randrange(16, len(damaged)) :]
        try:
            assert len(decoded_into(codec, forged(bytes(damaged)), PICTURE.nbytes)) == PICTURE.nbytes
        except PayloadError:
            refused += 1
    assert refused > 1000


def test_a_frame_that_claims_more_bytes_than_there_are_never_reaches_blosc() -> None:
    codec = BloscCodec()
    frame = codec.encode(PICTURE.data)[:-4]
    longer = frame[:12] + (len(frame) + 1).to_bytes(4, "little") + frame[16:]
    with pytest.raises(PayloadError, match="no frame by blosc 1"):
        codec.decode(longer + int(google_crc32c.value(longer)).to_bytes(4, "little"), PICTURE.nbytes)


def test_zstd_decodes_a_part_only_where_somebody_else_says_that_the_whole_is_intact() -> None:
    codec = ZstdCodec()
    content = np.random.default_rng(0).bytes(1 << 20)
    damaged = bytearray(codec.encode(content))
    damaged[-100] ^= 1
    voxels = memoryview(bytearray(len(content)))
    with pytest.raises(PayloadError):
        codec.decode_into(memoryview(damaged), voxels, 1000)
    codec.decode_into(memoryview(damaged), voxels, 1000, lambda: True)
    assert voxels[:1000] == content[:1000]


def test_blosc_never_decodes_a_damaged_payload_whoever_says_that_it_is_intact() -> None:
    codec = BloscCodec()
    damaged = bytearray(codec.encode(PICTURE.data))
    damaged[-100] ^= 1
    with pytest.raises(PayloadError):
        codec.decode_into(memoryview(damaged), memoryview(bytearray(PICTURE.nbytes)), 10, lambda: True)


@every_codec
def test_a_codec_is_known_by_its_name_and_by_its_metadata(codec: Codec) -> None:
    assert parse_codec(codec.name) == codec
    assert codec_of([BYTES, *codec.zarr(np.dtype("u2"))]) == codec


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("zstd", ZstdCodec(3)),
        ("zstd:22", ZstdCodec(22)),
        ("bitshuffle-zstd", BloscCodec("zstd", 1)),
        ("bitshuffle-lz4:9", BloscCodec("lz4", 9)),
        ("shuffle-zstd:2", BloscCodec("zstd", 2, "shuffle")),
    ],
)
def test_compressions_by_name(text: str, codec: Codec) -> None:
    assert parse_codec(text) == codec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no compression ''"),
        ("gzip:3", "there is no compression 'gzip': give one of zstd, bitshuffle-zstd"),
        ("lz4", "there is no compression 'lz4'"),
        ("zstd:0", "zstd has no level '0': give one from 1 to 22"),
        ("zstd:", "zstd has no level ''"),
        ("zstd:3.5", "zstd has no level '3.5'"),
        ("bitshuffle-lz4:10", "bitshuffle-lz4 has no level '10': give one from 1 to 9"),
    ],
)
def test_compressions_that_do_not_exist_are_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        parse_codec(text)


BLOSC = BloscCodec().zarr(np.dtype("u2"))[0]
ZSTD = ZstdCodec().zarr(np.dtype("u2"))[0]
CRC: dict[str, Any] = {"name": "crc32c"}


@pytest.mark.parametrize(
    "inner",
    [
        [],
        [BYTES],
        [BYTES, BLOSC],
        [BYTES, CRC, BLOSC],
        [BYTES, ZSTD, CRC],
        [BYTES, {"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
        [BYTES, {"name": "zstd", "configuration": {"level": 3}}],
        [BYTES, {"name": "blosc", "configuration": {**BLOSC["configuration"], "cname": "blosclz"}}, CRC],
        [BYTES, {"name": "blosc", "configuration": {**BLOSC["configuration"], "shuffle": "noshuffle"}}, CRC],
        [BYTES, {"name": "gzip", "configuration": {"level": 3}}],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, BYTES, ZSTD],
    ],
    ids=str,
)
def test_codecs_that_would_not_notice_damage_or_are_unknown_are_refused(inner: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="neither zstd with a checksum nor blosc with crc32c"):
        codec_of(inner)
