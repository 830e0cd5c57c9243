from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nissl.formats.grid import Index, ShardGrid
from nissl.formats.shards import DamagedShardError, ShardReader
from nissl.hub.open_shards import OpenShards
from tests.formats.formats_model import a_picture, write_array

GRID = ShardGrid((2, 320, 320), (2, 16, 16), (1, 8, 8))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[Index, Path]:
    """400 shards of 8 chunks."""
    level = write_array(tmp_path_factory.mktemp("array"), GRID, a_picture(GRID.array_shape))
    return {shard: level.shard_path(shard) for shard in GRID.shards()}


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def read(shards: OpenShards, path: Path, chunk: Index) -> bytes:
    reader = shards.get(str(path), GRID) or shards.open(str(path), GRID)
    place = reader.place(chunk)
    assert place is not None
    return bytes(reader.read_resident(*place) or reader.read(*place))


def test_descriptors_stay_bounded_while_thousands_of_chunks_of_many_shards_are_read(shards: dict[Index, Path]) -> None:
    kept = OpenShards(most=10)
    before = descriptors()
    chunks = [(path, (z, y, x)) for path in shards.values() for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    random.Random(1).shuffle(chunks)
    most = 0

    def check(which: tuple[Path, Index]) -> bool:
        nonlocal most
        path, chunk = which
        with ShardReader(path, GRID) as reader:
            expected = reader.payload(chunk)
        same = read(kept, path, chunk) == expected
        most = max(most, descriptors() - before)
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, chunks))
    assert len(chunks) == 3200
    assert len(kept) == 10
    assert most <= 10 + 8 * 4  # those kept, and what the eight threads have in hand
    kept.close()
    assert descriptors() <= before


def test_indexes_in_memory_stay_bounded_too(shards: dict[Index, Path]) -> None:
    index = 16 * GRID.chunk_count
    kept = OpenShards(most=100, most_index_bytes=5 * index)
    for path in list(shards.values())[:20]:
        kept.open(str(path), GRID)
    assert len(kept) == 5


def test_the_shards_used_last_stay_open(shards: dict[Index, Path]) -> None:
    first, *others = list(map(str, shards.values()))[:5]
    kept = OpenShards(most=3)
    kept.open(first, GRID)
    for other in others:
        kept.open(other, GRID)
        assert kept.get(first, GRID) is not None
    assert kept.get(others[0], GRID) is None


def test_another_file_at_the_same_path_is_read_anew(shards: dict[Index, Path], tmp_path: Path) -> None:
    one, other = list(shards.values())[:2]
    path = tmp_path / "shard"
    path.write_bytes(one.read_bytes())
    kept = OpenShards()
    old = read(kept, path, (0, 0, 0))
    fetched = tmp_path / "fetched"
    fetched.write_bytes(other.read_bytes())
    fetched.rename(path)
    assert kept.get(str(path), GRID) is None
    assert read(kept, path, (0, 0, 0)) != old
    path.unlink()
    assert kept.get(str(path), GRID) is None
    assert len(kept) == 0


def test_the_same_file_cut_in_another_way_is_another_reader(shards: dict[Index, Path]) -> None:
    path = str(next(iter(shards.values())))
    kept = OpenShards()
    kept.open(path, GRID)
    assert kept.get(path, ShardGrid(GRID.array_shape, GRID.shard_shape, (2, 4, 8))) is None


def test_chunks_are_the_same_from_the_disk_and_from_memory(shards: dict[Index, Path]) -> None:
    path = list(shards.values())[7]
    with ShardReader(path, GRID) as reader:
        expected = {chunk: reader.payload(chunk) for chunk in reader.places()}
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # the shard was synced: its pages go
    os.close(descriptor)
    kept = OpenShards()
    for _ in range(2):
        assert {chunk: read(kept, path, chunk) for chunk in expected} == expected


def test_bytes_beyond_the_end_are_damage(shards: dict[Index, Path]) -> None:
    path = next(iter(shards.values()))
    reader = OpenShards().open(str(path), GRID)
    end = path.stat().st_size
    assert reader.read_resident(end - 10, 20) is None
    with pytest.raises(DamagedShardError, match="cut short"):
        reader.read(end - 10, 20)
