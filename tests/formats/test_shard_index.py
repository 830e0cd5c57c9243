from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nissl.formats.shard_index import (
    MISSING,
    decode_index,
    empty_index,
    encode_index,
    index_nbytes,
    user_block_nbytes,
)

indexes = hnp.arrays(np.uint64, st.tuples(st.integers(1, 200), st.just(2)))


@given(indexes)
def test_an_index_survives_being_written_and_read(index: NDArray[np.uint64]) -> None:
    assert np.array_equal(decode_index(encode_index(index)), index)


@given(indexes)
def test_an_encoded_index_is_as_long_as_announced_and_fits_into_the_user_block(index: NDArray[np.uint64]) -> None:
    encoded = encode_index(index)
    assert len(encoded) == index_nbytes(len(index)) <= user_block_nbytes(len(index))


@given(indexes, st.data())
def test_any_flipped_bit_is_noticed(index: NDArray[np.uint64], data: st.DataObject) -> None:
    encoded = bytearray(encode_index(index))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="checksum"):
        decode_index(bytes(encoded))


@given(indexes, st.data())
def test_an_index_cut_short_is_noticed(index: NDArray[np.uint64], data: st.DataObject) -> None:
    encoded = encode_index(index)
    with pytest.raises(ValueError):
        decode_index(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_an_index_is_little_endian_pairs_and_a_crc32c() -> None:
    encoded = encode_index(np.array([[512, 7], [MISSING, MISSING]], dtype=np.uint64))
    assert encoded[:-4] == bytes.fromhex("0002000000000000 0700000000000000" + "ff" * 16)
    assert encoded[-4:] == _crc32c(encoded[:-4]).to_bytes(4, "little")


def test_every_chunk_of_an_empty_index_is_missing() -> None:
    assert (empty_index(5) == MISSING).all()


@pytest.mark.parametrize("chunks", [1, 2, 31, 32, 33, 1000, 7424, 1 << 16])
def test_a_user_block_is_one_that_hdf5_allows_and_no_larger_than_needed(chunks: int) -> None:
    size = user_block_nbytes(chunks)
    assert size >= 512
    assert size & (size - 1) == 0
    assert size == 512 or size // 2 < index_nbytes(chunks) <= size


def _crc32c(data: bytes) -> int:
    """Castagnoli's checksum bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
