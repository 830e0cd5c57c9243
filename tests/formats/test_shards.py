from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the zstd filter with HDF5
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nissl.errors import NoSpaceError
from nissl.formats.codec import BloscCodec, Codec, ZstdCodec
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.shards import (
    DATASET,
    AbsentShardError,
    DamagedShardError,
    ShardReader,
    ShardWriter,
    hdf5_shape,
    write_json,
)
from tests.formats.formats_model import (
    CODECS,
    READERS,
    a_picture,
    an_identity,
    axes_of,
    chunks_with_voxels,
    read_whole,
    write_array,
)

GRID = ShardGrid((3, 40, 50), (3, 32, 32), (1, 16, 16))
VOXELS = a_picture(GRID.array_shape)
FIRST: Index = (0, 0, 0)


every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def a_shard(folder: Path, voxels: NDArray[Any] = VOXELS, shard: Index = FIRST, codec: Codec | None = None) -> Path:
    write_array(folder, GRID, voxels, codec).close()
    return folder.joinpath("c", *map(str, shard))


def as_hdf5(path: Path, grid: ShardGrid, shard: Index) -> NDArray[Any]:
    """The voxels of one shard as HDF5 has them, without the padding beyond `extent`."""
    with h5py.File(path) as file:
        assert file[DATASET].shape == hdf5_shape(grid, shard)
        voxels: NDArray[Any] = file[DATASET][tuple(map(slice, file[DATASET].attrs["extent"]))]
    return voxels


@st.composite
def sparse_arrays(draw: st.DrawFn) -> tuple[ShardGrid, NDArray[Any]]:
    """A grid and voxels for it; of its chunks some hold only 0."""
    rank = draw(st.integers(2, 4))
    array = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    chunk = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    grid = ShardGrid(array, tuple(c * draw(st.integers(1, 3)) for c in chunk), chunk)
    dtype = np.dtype(draw(st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"])))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    voxels = np.frombuffer(generator.bytes(int(np.prod(array)) * dtype.itemsize), dtype).reshape(array).copy()
    if dtype.kind == "f":
        voxels[~np.isfinite(voxels)] = 1.5
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    for counted in grid.chunks_in(Box((0,) * rank, array)):
        if generator.random() < share:
            voxels[grid.chunk_box(counted).slices] = 0
    return grid, voxels


@given(sparse_arrays(), st.sampled_from(list(CODECS.values())))
@settings(max_examples=80)
def test_every_reader_sees_the_same_voxels(array: tuple[ShardGrid, NDArray[Any]], codec: Codec) -> None:
    grid, voxels = array
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        level = write_array(folder / "0", grid, voxels, codec)
        assert np.array_equal(read_whole(level), voxels)
        for reader in ("zarr-python", "zarrs", "tensorstore"):
            assert np.array_equal(READERS[reader](folder, 0), voxels)
        for shard in grid.shards():
            part = voxels[grid.shard_box(shard).slices]
            path = level.shard_path(shard)
            assert path.exists() == bool(part.any())
            if path.exists():
                assert np.array_equal(as_hdf5(path, grid, shard), part)


def test_a_chunk_of_fill_value_is_missing_in_both_views(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[1, :16, 16:32] = 0
    path = a_shard(tmp_path, voxels)
    with ShardReader(path, GRID, ZstdCodec()) as reader:
        assert reader.place((1, 0, 1)) is None
        assert reader.chunk((1, 0, 1), voxels.dtype) is None
        assert reader.place((1, 0, 0)) is not None
    with h5py.File(path) as file:
        assert file[DATASET].id.get_num_chunks() == 3 * 2 * 2 - 1


def test_hdf5_fills_a_missing_chunk_with_zeros_whatever_the_buffer_held(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[1, :16, 16:32] = 0
    with h5py.File(a_shard(tmp_path, voxels)) as file:
        buffer = np.full((3, 32, 32), 7, dtype="u2")
        file[DATASET].read_direct(buffer)
    assert np.array_equal(buffer, voxels[:, :32, :32])


def test_both_views_name_the_same_bytes_of_the_file(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    with ShardReader(path, GRID, ZstdCodec()) as reader, h5py.File(path) as file:
        for chunk in GRID.chunks_of(FIRST):
            origin = tuple(i * c for i, c in zip(chunk, GRID.chunk_shape, strict=True))
            stored = file[DATASET].id.get_chunk_info_by_coord(origin)
            # HDF5's chunk ends in its own checksum, which the Zarr index leaves out.
            assert reader.place(chunk) == (stored.byte_offset, stored.size - 4)


@every_codec
def test_hdf5_is_told_what_its_own_filters_would_say(codec: Codec, tmp_path: Path) -> None:
    """The values that hdf5plugin's filters set, so that HDF5 could write such a dataset itself, and reads it back."""
    with h5py.File(a_shard(tmp_path, codec=codec)) as file, h5py.File(tmp_path / "own.h5", "w") as other:
        used = file[DATASET]._filters
        number, options = next((int(key), value) for key, value in used.items() if key.isdigit())
        given = options if number == 32015 else (0, 0, 0, 0, *options[4:])
        own = other.create_dataset(
            "own", data=file[DATASET][...], chunks=GRID.chunk_shape, compression=number, compression_opts=given
        )
        assert own._filters[str(number)] == options
        assert np.array_equal(own[...], file[DATASET][...])


@every_codec
def test_a_shard_is_the_same_bytes_in_a_process_that_imports_nothing_else(codec: Codec, tmp_path: Path) -> None:
    np.save(tmp_path / "chunk.npy", VOXELS[:1, :16, :16])
    script = f"""
import numpy as np
from pathlib import Path
from nissl.formats.codec import parse_codec
from nissl.formats.grid import ShardGrid
from nissl.formats.shards import ShardIdentity, ShardWriter
grid = ShardGrid({GRID.array_shape}, {GRID.shard_shape}, {GRID.chunk_shape})
codec = parse_codec({codec.name!r})
identity = ShardIdentity("sub-01_BF.ome.zarr/0", 0, ("z", "y", "x"), (5.0, 1.0, 1.0))
with ShardWriter(Path("there"), grid, (0, 0, 0), np.dtype("u2"), codec, identity) as writer:
    writer.write_chunk((0, 0, 0), codec.encode(np.load("chunk.npy").data))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with ShardWriter(tmp_path / "here", GRID, FIRST, "u2", codec, an_identity()) as writer:
        writer.write_chunk(FIRST, codec.encode(np.ascontiguousarray(VOXELS[:1, :16, :16]).data))
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_a_reader_that_was_not_told_the_codec_gives_payloads_and_no_voxels(tmp_path: Path) -> None:
    with ShardReader(a_shard(tmp_path), GRID) as reader:
        assert reader.payload(FIRST) == ZstdCodec(1).encode(np.ascontiguousarray(VOXELS[:1, :16, :16]).data)
        with pytest.raises(ValueError, match="was not told how its chunks are encoded"):
            reader.chunk(FIRST, VOXELS.dtype)


def test_chunks_of_another_codec_are_errors(tmp_path: Path) -> None:
    codecs: tuple[Codec, Codec] = (ZstdCodec(), BloscCodec())
    for written, read in itertools.permutations(codecs, 2):
        path = a_shard(tmp_path / written.name, codec=written)
        with ShardReader(path, GRID, read) as reader, pytest.raises(DamagedShardError):
            reader.chunk(FIRST, VOXELS.dtype)


def test_an_empty_shard_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0"
    with ShardWriter(path, GRID, FIRST, "u2", ZstdCodec(), an_identity()):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_shard_found_alone_says_what_it_is(tmp_path: Path) -> None:
    with h5py.File(a_shard(tmp_path, shard=(0, 1, 1))) as file:
        attributes = dict(file[DATASET].attrs)
        assert file[DATASET].dtype == np.dtype("<u2")
    assert attributes["array"] == b"sub-01_BF.ome.zarr/0"
    assert attributes["level"] == 0
    assert list(attributes["axes"]) == [b"z", b"y", b"x"]
    assert list(attributes["voxel_size"]) == [5.0, 1.0, 1.0]
    assert attributes["voxel_size_unit"] == b"micrometer"
    assert list(attributes["origin"]) == [0, 32, 32]
    assert list(attributes["extent"]) == [3, 8, 18]
    assert list(attributes["array_shape"]) == [3, 40, 50]


def test_voxels_beyond_the_extent_are_padding_where_a_shard_is_smaller_than_a_chunk(tmp_path: Path) -> None:
    path = a_shard(tmp_path, shard=(0, 1, 1))
    with h5py.File(path) as file:
        assert file[DATASET].shape == (3, 16, 18)
        assert not file[DATASET][:, 8:].any()


def test_a_shard_survives_an_attribute_edit_by_hdf5(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    with h5py.File(path, "r+") as file:
        file[DATASET].attrs["note"] = "looked at by hand " * 100
    assert np.array_equal(np.asarray(zarr.open_array(tmp_path, mode="r")[...]), VOXELS)
    assert np.array_equal(as_hdf5(path, GRID, FIRST), VOXELS[:, :32, :32])


def test_the_index_comes_first_and_the_hdf5_signature_after_the_user_block(tmp_path: Path) -> None:
    data = a_shard(tmp_path).read_bytes()
    assert data[512:520] == b"\x89HDF\r\n\x1a\n"
    assert int.from_bytes(data[:8], "little") > 512


def test_chunks_may_be_written_in_any_order(tmp_path: Path) -> None:
    codec = ZstdCodec(1)
    path = tmp_path / "0"
    chunks = list(chunks_with_voxels(GRID, FIRST, VOXELS).items())
    random.Random(3).shuffle(chunks)
    with ShardWriter(path, GRID, FIRST, "u2", codec, an_identity()) as writer:
        for chunk, content in chunks:
            writer.write_chunk(chunk, codec.encode(content.data))
    assert np.array_equal(as_hdf5(path, GRID, FIRST), VOXELS[:, :32, :32])


class InterruptedByUserError(Exception):
    pass


def test_an_exception_while_writing_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0"

    def write_and_stumble() -> None:
        with ShardWriter(path, GRID, FIRST, "u2", ZstdCodec(), an_identity()) as writer:
            writer.write_chunk(FIRST, ZstdCodec().encode(bytes(range(256)) * 2))
            raise InterruptedByUserError

    with pytest.raises(InterruptedByUserError):
        write_and_stumble()
    assert list(path.parent.iterdir()) == []


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "0"
    with ShardWriter(path, GRID, FIRST, "u2", ZstdCodec(), an_identity()) as writer:
        writer.write_chunk(FIRST, ZstdCodec().encode(bytes(range(256)) * 2))
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]


@every_codec
def test_every_flipped_bit_of_a_chunk_is_an_error_in_our_reader_and_in_hdf5(codec: Codec, tmp_path: Path) -> None:
    path = a_shard(tmp_path, codec=codec)
    with ShardReader(path, GRID) as reader:
        place = reader.place((0, 0, 0))
    assert place is not None
    offset, nbytes = place
    whole = path.read_bytes()
    for bit in range(0, 8 * nbytes, 37):
        damaged = bytearray(whole)
        damaged[offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with (
            ShardReader(path, GRID, codec) as reader,
            pytest.raises(DamagedShardError, match=r"damaged in chunk \(0, 0, 0\)"),
        ):
            reader.chunk((0, 0, 0), VOXELS.dtype)
        with h5py.File(path) as file, pytest.raises(OSError, match="filter returned failure"):
            file[DATASET][0, :16, :16]


def test_a_flipped_bit_in_the_index_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[3] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(DamagedShardError, match=r"c/0/0/0 is damaged \(the index does not agree with its checksum\)"):
        ShardReader(path, GRID, ZstdCodec())


def read_every_chunk(path: Path) -> None:
    with ShardReader(path, GRID, ZstdCodec()) as reader:
        for chunk in GRID.chunks_of(FIRST):
            reader.chunk(chunk, VOXELS.dtype)


@pytest.mark.parametrize("left", [0, 3, 100, 600, -1])
def test_a_shard_cut_short_is_an_error(tmp_path: Path, left: int) -> None:
    path = a_shard(tmp_path)
    with ShardReader(path, GRID, ZstdCodec()) as reader:
        end = max(sum(place) for chunk in GRID.chunks_of(FIRST) if (place := reader.place(chunk)))
    os.truncate(path, end - 1 if left == -1 else left)
    with pytest.raises(DamagedShardError):
        read_every_chunk(path)


def test_a_shard_of_another_grid_is_an_error(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    other = ShardGrid((3, 40, 50), (3, 64, 64), (1, 16, 16))
    with pytest.raises(DamagedShardError):
        ShardReader(path, other)


def test_a_chunk_that_does_not_fill_its_shape_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "0"
    with ShardWriter(path, GRID, FIRST, "u2", ZstdCodec(), an_identity()) as writer:
        writer.write_chunk(FIRST, ZstdCodec().encode(b"too short"))
    with ShardReader(path, GRID, ZstdCodec()) as reader, pytest.raises(DamagedShardError, match=r"chunk \(0, 0, 0\)"):
        reader.chunk(FIRST, np.dtype("u2"))


def test_an_unlocked_annex_pointer_is_an_absent_shard(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    path.write_text("/annex/objects/SHA256E-s123456--0123456789abcdef\n")
    with pytest.raises(AbsentShardError, match=r"c/0/0/0 is not on this machine: .* `datalad get 0`"):
        ShardReader(path, GRID, ZstdCodec())


def test_a_dangling_annex_link_is_an_absent_shard(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/SHA256E-s1--0/SHA256E-s1--0")
    with pytest.raises(AbsentShardError, match="is not on this machine"):
        ShardReader(path, GRID, ZstdCodec())


def test_a_shard_that_was_never_written_is_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ShardReader(tmp_path / "0", GRID)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_shards_refused_by_the_reader_leave_no_file_open(tmp_path: Path) -> None:
    path = a_shard(tmp_path)
    path.write_bytes(b"")
    before = open_files()
    for _ in range(10):
        with pytest.raises(DamagedShardError):
            ShardReader(path, GRID, ZstdCodec())
    assert open_files() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system to fill: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(small_disk: Path) -> None:
    path = small_disk / "c" / "0"
    grid = ShardGrid((64, 256, 256), (64, 256, 256), (1, 256, 256))
    noise = np.random.default_rng(0)

    def write_8_mb() -> None:
        with ShardWriter(path, grid, FIRST, "u2", ZstdCodec(1), an_identity()) as writer:
            for plane in range(64):
                writer.write_chunk((plane, 0, 0), ZstdCodec(1).encode(noise.bytes(2 * 256 * 256)))

    with pytest.raises(NoSpaceError) as error:
        write_8_mb()
    assert str(error.value) == (
        f"no space left on the device while writing {path}: free some space and run the command again"
    )
    assert list(path.parent.iterdir()) == []


def test_a_disk_without_space_for_a_shards_head_is_one_sentence_too(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(4 << 20))
    path = small_disk / "0"
    with (
        pytest.raises(NoSpaceError, match="no space left on the device while writing"),
        ShardWriter(path, GRID, FIRST, "u2", ZstdCodec(1), an_identity()) as writer,
    ):
        writer.write_chunk(FIRST, ZstdCodec(1).encode(bytes(range(256)) * 2))
    assert [entry.name for entry in small_disk.iterdir()] == ["ballast"]


def test_a_document_that_finds_no_space_leaves_no_half_file(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(4 << 20))
    with pytest.raises(NoSpaceError):
        write_json(small_disk / "zarr.json", {"long": "x" * 10_000})
    assert [entry.name for entry in small_disk.iterdir()] == ["ballast"]


def test_colour_shards_carry_the_channel_axis(tmp_path: Path) -> None:
    grid = ShardGrid((3, 2, 20, 20), (3, 2, 16, 16), (1, 1, 16, 16))
    voxels = a_picture(grid.array_shape, "uint8")
    level = write_array(tmp_path, grid, voxels)
    with h5py.File(level.shard_path((0, 0, 1, 1))) as file:
        assert [axis.decode() for axis in file[DATASET].attrs["axes"]] == list(axes_of(4))
        assert list(file[DATASET].attrs["origin"]) == [0, 0, 16, 16]
    assert np.array_equal(read_whole(level), voxels)
