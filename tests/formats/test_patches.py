"""Patches: which ones a plan means, and that reading them is reading the voxels, whoever asks and however."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.grid import Box, Index, ShardGrid
from nissl.formats.image import open_image
from nissl.formats.patch_plan import GridPlan, Patches, Plan, RandomPlan, needed_chunks, plan_patches
from nissl.formats.patches import PatchReader, grid, random
from nissl.formats.shards import AbsentShardError, DamagedShardError
from nissl.formats.tiff import open_tiff_stack
from tests.formats.formats_model import CODECS, a_picture, build, shards_of, slow_pyramid, write_planes

CHUNK = 64
SHARD = 256
POINTER = "/annex/objects/SHA256E-s166060--9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"

FIRST = a_picture((3, 270, 333))
FIRST[:, 64:128, 64:128] = 0  # a chunk that is missing in each plane
FIRST[:, 256:, 256:] = 0  # a shard that is not written
SECOND = a_picture((2, 500, 130), seed=1)
VOXELS = (FIRST, SECOND)
PAIR = (CODECS["zstd"], CODECS["bitshuffle-zstd"])
SHAPES = tuple(voxels.shape for voxels in VOXELS)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sections of different size and compression, both of several shards."""
    folder = tmp_path_factory.mktemp("sections")
    return [
        build(
            open_tiff_stack(write_planes(folder / f"tiff{number}", voxels)),
            folder / f"section{number}.ome.zarr",
            chunk_edge=CHUNK,
            shard_edge=SHARD,
            codec=codec,
        )
        for number, (voxels, codec) in enumerate(zip(VOXELS, PAIR, strict=True))
    ]


@pytest.fixture
def sections(pristine: list[Path], tmp_path: Path) -> list[Path]:
    """Copies to damage."""
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in pristine]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any]]:
    """A colour section and its voxels, (c, z, y, x)."""
    folder = tmp_path_factory.mktemp("colours")
    voxels = a_picture((3, 2, 170, 190), "uint8")
    planes = write_planes(folder / "tiff", np.moveaxis(voxels, 0, -1))
    return build(open_tiff_stack(planes), folder / "rgb.ome.zarr", chunk_edge=32, shard_edge=128), voxels


def read_slowly(reader: PatchReader, index: int) -> NDArray[Any]:
    """The patch through `Level.read`."""
    place = reader.place(index)
    with open_image(place.image) as image:
        return image.levels[place.level].read(place.box).reshape(reader.patch_shape)


# --- plans ---

shapes = st.tuples(st.integers(1, 4), st.integers(8, 40), st.integers(8, 40))
plans = st.one_of(
    st.builds(RandomPlan, count=st.integers(1, 50), seed=st.integers(0, 2**70)),
    st.builds(GridPlan, stride=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9))),
)


def places_of(patches: Patches) -> list[tuple[int, Index]]:
    places = patches.places(range(len(patches)))
    return [
        (section, tuple(start)) for section, start in zip(places.sections.tolist(), places.starts.tolist(), strict=True)
    ]


@given(st.lists(shapes, min_size=1, max_size=4), st.tuples(st.just(1), st.integers(1, 8), st.integers(1, 8)), plans)
def test_every_patch_lies_inside_its_section(sections: list[Index], patch: Index, plan: Plan) -> None:
    for section, start in places_of(plan_patches(sections, patch, plan)):
        assert all(0 <= a <= n - p for a, n, p in zip(start, sections[section], patch, strict=True))


@given(st.lists(shapes, min_size=1, max_size=3), plans, st.integers(1, 9), st.integers(0, 5))
def test_ranks_share_the_patches_without_overlap(sections: list[Index], plan: Plan, world: int, epoch: int) -> None:
    whole = places_of(plan_patches(sections, (1, 8, 8), plan, epoch=epoch))
    shares = [
        places_of(plan_patches(sections, (1, 8, 8), plan, epoch=epoch, rank=rank, world=world)) for rank in range(world)
    ]
    assert [shares[index % world][index // world] for index in range(len(whole))] == whole
    assert sum(map(len, shares)) == len(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(shapes, min_size=1, max_size=3), plans, st.integers(1, 4), st.integers(1, 5))
def test_workers_of_a_rank_share_its_patches_without_overlap(
    sections: list[Index], plan: Plan, world: int, parts: int
) -> None:
    patches = plan_patches(sections, (1, 8, 8), plan, world=world)
    found = sorted(index for part in range(parts) for index in patches.share(part, parts))
    assert found == list(range(len(patches)))


@given(
    st.lists(st.tuples(st.integers(2, 4), st.integers(8, 20), st.integers(8, 20)), min_size=1, max_size=3),
    st.tuples(st.integers(1, 2), st.integers(1, 8), st.integers(1, 8)),
    st.data(),
)
def test_a_grid_covers_every_voxel(sections: list[Index], patch: Index, data: st.DataObject) -> None:
    stride = data.draw(st.none() | st.tuples(*(st.integers(1, n) for n in patch)))
    covered = [np.zeros(shape, dtype=int) for shape in sections]
    places = places_of(plan_patches(sections, patch, GridPlan(stride)))
    for section, start in places:
        covered[section][tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))] += 1
    assert all(section.min() >= 1 for section in covered)
    assert len(set(places)) == len(places)


def test_a_grid_that_fits_covers_every_voxel_once() -> None:
    places = places_of(plan_patches([(2, 6, 9)], (1, 3, 3), GridPlan()))
    assert len(places) == 2 * 2 * 3
    assert places[:2] == [(0, (0, 0, 0)), (0, (0, 0, 3))]


def test_a_seed_and_an_epoch_fix_the_patches_on_every_machine() -> None:
    # Written down, so that another NumPy or another platform that draws differently is noticed.
    patches = plan_patches(SHAPES, (1, 64, 64), RandomPlan(4, seed=7), epoch=1)
    assert places_of(patches) == [(0, (0, 47, 89)), (0, (1, 55, 169)), (0, (2, 178, 237)), (0, (1, 202, 56))]


def test_epochs_and_seeds_differ() -> None:
    draws = {
        tuple(places_of(plan_patches(SHAPES, (1, 64, 64), RandomPlan(5, seed), epoch=epoch)))
        for seed in (0, 1, 2**32)
        for epoch in (0, 1, 2)
    }
    assert len(draws) == 9


def test_more_patches_with_the_same_seed_begin_with_the_same_patches() -> None:
    few, many = (places_of(plan_patches(SHAPES, (1, 9, 9), RandomPlan(count, 3))) for count in (10, 100))
    assert many[:10] == few


def test_sections_are_drawn_in_proportion_to_their_patches_and_places_evenly() -> None:
    count = 20_000
    places = plan_patches([(1, 20, 20), (3, 30, 20)], (1, 11, 11), RandomPlan(count, 5)).places(range(count))
    weights = np.array([10 * 10, 3 * 20 * 10])
    drawn = np.bincount(places.sections)
    assert np.abs(drawn / count - weights / weights.sum()).max() < 0.01
    in_second = places.starts[places.sections == 1]
    for axis, length in enumerate((3, 20, 10)):
        seen = np.bincount(in_second[:, axis], minlength=length)
        assert len(seen) == length
        assert np.abs(seen * length / len(in_second) - 1).max() < 0.15


def test_a_plan_over_a_whole_brain_is_only_arithmetic() -> None:
    brain = [(29, 100_000, 100_000)] * 7_000
    patches = plan_patches(brain, (1, 512, 512), GridPlan((256, 256)))
    last = patches.places([len(patches) - 1])
    assert len(patches) == 7_000 * 29 * 390 * 390
    assert (last.sections[0], *last.starts[0]) == (6_999, 28, 100_000 - 512, 100_000 - 512)
    drawn = plan_patches(brain, (1, 512, 512), RandomPlan(10**12, 1)).places(range(10**12 - 1000, 10**12))
    assert drawn.sections.min() < 1_000
    assert drawn.sections.max() > 6_000


@given(shapes, st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_needed_chunks_hold_each_voxel_of_a_patch_once(shape: Index, height: int, width: int, seed: int) -> None:
    of = ShardGrid(shape, (4, 16, 16), (1, 4, 8))
    patch = (1, height, width)
    places = plan_patches([shape], patch, RandomPlan(4, seed)).places(range(4))
    voxels = np.arange(np.prod(shape)).reshape(shape)
    padded = np.zeros((4, 48, 48), dtype=int)
    padded[tuple(map(slice, shape))] = voxels
    read = np.zeros((4, *patch), dtype=int)
    writes = np.zeros((4, *patch), dtype=int)
    needed = needed_chunks([of], places, patch)
    assert len({one[:3] for one in needed}) == len(needed)
    for one in needed:
        start = [s * m + c * k for s, m, c, k in zip(one.shard, of.shard_shape, one.chunk, of.chunk_shape, strict=True)]
        chunk = padded[tuple(slice(a, a + k) for a, k in zip(start, of.chunk_shape, strict=True))].copy()
        # What lies behind the last needed voxel may be anything.
        chunk.reshape(-1)[one.voxels_up_to_the_last(of.chunk_shape) :] = -1
        for piece in one.pieces:
            read[piece.patch][piece.target] = chunk[piece.source]
            writes[piece.patch][piece.target] += 1
    assert (writes == 1).all()
    for number, start in enumerate(places.starts.tolist()):
        assert np.array_equal(read[number], voxels[tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))])


# --- reading ---


@pytest.mark.parametrize("shape", [(64, 64), (200, 130), (1, 1), (2, 100, 70), (1, 270, 130)])
@pytest.mark.parametrize("threads", [1, 3])
def test_random_patches_are_the_voxels_there(pristine: list[Path], shape: Index, threads: int) -> None:
    with PatchReader(pristine, shape, random(60, seed=1), threads=threads) as reader:
        batch = reader.read_batch(range(60))
        assert batch.shape == (60, *shape)
        assert batch.dtype == np.uint16
        for index, patch in enumerate(batch):
            place = reader.place(index)
            truth = VOXELS[pristine.index(place.image)][place.box.slices].reshape(shape)
            assert np.array_equal(patch, truth)
            assert np.array_equal(patch, read_slowly(reader, index))
            assert np.array_equal(patch, reader[index])


@pytest.mark.parametrize("level", [1, 2])
def test_patches_of_upper_levels_are_those_of_the_pyramid(pristine: list[Path], level: int) -> None:
    pyramids = [slow_pyramid(voxels, CHUNK) for voxels in VOXELS]
    with PatchReader(pristine, (30, 30), random(40, seed=2), level=level) as reader:
        for index, patch in enumerate(reader):
            place = reader.place(index)
            assert place.level == level
            assert np.array_equal(patch, pyramids[pristine.index(place.image)][level][place.box.slices][0])


@pytest.mark.parametrize(("shape", "patch_shape"), [((50, 60), (3, 50, 60)), ((2, 50, 60), (3, 2, 50, 60))])
def test_patches_of_colour_come_with_all_channels(
    colours: tuple[Path, NDArray[Any]], shape: Index, patch_shape: Index
) -> None:
    folder, voxels = colours
    with PatchReader(folder, shape, random(30, seed=3), threads=2) as reader:
        assert reader.patch_shape == patch_shape
        assert reader.dtype == np.uint8
        for index, patch in enumerate(reader):
            assert np.array_equal(patch, voxels[reader.place(index).box.slices].reshape(patch_shape))


def test_a_grid_puts_a_section_together_again(pristine: list[Path]) -> None:
    again = [np.full_like(voxels, 0xFFFF) for voxels in VOXELS]
    with PatchReader(pristine, (100, 100), grid((90, 90))) as reader:
        for index, patch in enumerate(reader):
            place = reader.place(index)
            again[pristine.index(place.image)][place.box.slices] = patch
    assert all(map(np.array_equal, again, VOXELS))


def test_a_batch_is_written_into_the_buffer_of_the_caller(pristine: list[Path]) -> None:
    with PatchReader(pristine, (70, 70), random(20, seed=4)) as reader:
        expected = reader.read_batch([5, 3, 3, -1])
        assert np.array_equal(expected[3], reader[19])
        buffer = np.full((4, 70, 70), 0xFFFF, dtype=np.uint16)
        assert reader.read_batch([5, 3, 3, -1], buffer, threads=2) is buffer
        assert np.array_equal(buffer, expected)
        # A view of something larger, with strides of its own, as for an augmented or padded batch.
        larger = np.zeros((4, 80, 160), dtype=np.uint16)
        reader.read_batch([5, 3, 3, -1], larger[:, 5:75, ::2][:, :, :70])
        assert np.array_equal(larger[:, 5:75, :140:2], expected)
        assert not larger[:, :5].any()
        assert not larger[:, :, 1::2].any()


def test_a_buffer_that_does_not_fit_is_refused(pristine: list[Path]) -> None:
    with PatchReader(pristine, (70, 70), random(20, seed=4)) as reader:
        fixed = np.zeros((2, 70, 70), dtype=np.uint16)
        fixed.setflags(write=False)
        for buffer in (np.zeros((2, 70, 71), np.uint16), np.zeros((2, 70, 70), np.float32), fixed):
            with pytest.raises(NisslError, match=r"^the buffer is .*, this batch is uint16 \(2, 70, 70\)"):
                reader.read_batch([0, 1], buffer)


def test_what_is_read_does_not_depend_on_threads_batches_or_open_files(pristine: list[Path]) -> None:
    def digest(reader: PatchReader, batch: int, threads: int) -> str:
        digest = hashlib.sha256()
        for first in range(0, len(reader), batch):
            digest.update(reader.read_batch(range(len(reader))[first : first + batch], threads=threads).tobytes())
        reader.close()
        return digest.hexdigest()

    plan = random(48, seed=6)
    found = {
        digest(PatchReader(pristine, (90, 90), plan), batch, threads) for batch in (1, 7, 48) for threads in (1, 4)
    }
    found.add(digest(PatchReader(pristine, (90, 90), plan, open_shards=1), 48, 4))
    assert len(found) == 1


def test_no_more_shards_stay_open_than_allowed(pristine: list[Path]) -> None:
    before = open_files()
    with PatchReader(pristine, (90, 90), random(80, seed=6), open_shards=2) as reader:
        for index in range(80):
            _ = reader[index]
            assert open_files() <= before + 2
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_ranks_read_every_patch_once(pristine: list[Path]) -> None:
    whole = [patch.tobytes() for patch in PatchReader(pristine, (64, 64), random(23, seed=8))]
    readers = [PatchReader(pristine, (64, 64), random(23, seed=8), rank=rank, world=3) for rank in range(3)]
    shares = [[patch.tobytes() for patch in reader] for reader in readers]
    assert [len(reader) for reader in readers] == [8, 8, 7] == [len(share) for share in shares]
    assert [shares[index % 3][index // 3] for index in range(23)] == whole


def test_another_epoch_has_other_patches_of_the_same_sections(pristine: list[Path]) -> None:
    reader = PatchReader(pristine, (64, 64), random(10, seed=8))
    later = reader.at_epoch(1)
    boxes = [[one.place(index).box for index in range(10)] for one in (reader, later, later.at_epoch(0))]
    assert boxes[0] == boxes[2] != boxes[1]
    assert np.array_equal(later[0], read_slowly(later, 0))


def test_it_is_a_sequence(pristine: list[Path]) -> None:
    reader = PatchReader(pristine, (64, 64), random(10, seed=8))
    assert len(reader) == 10
    assert np.array_equal(reader[-1], reader[9])
    assert np.array_equal(reader[np.int64(3)], reader[3])
    assert all(map(np.array_equal, reader.__getitems__([4, 2]), (reader[4], reader[2])))
    for index in (10, -11):
        with pytest.raises(IndexError):
            _ = reader[index]


# --- processes and threads ---


def digests(reader: PatchReader) -> list[str]:
    return [hashlib.sha256(patch.tobytes()).hexdigest() for patch in reader]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_reader_that_is_in_use_works_in_another_process(pristine: list[Path], method: str) -> None:
    with PatchReader(pristine, (64, 64), random(20, seed=9), threads=2) as reader:
        here = digests(reader)
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(digests, reader).result(120) == here
        assert digests(reader) == here


def test_a_reader_that_was_inherited_by_fork_opens_its_own_files(pristine: list[Path]) -> None:
    # As a DataLoader's workers inherit their dataset: not pickled, with threads that a fork does not copy.
    with PatchReader(pristine, (64, 64), random(20, seed=9), threads=2) as reader:
        here = digests(reader)
        context = multiprocessing.get_context("fork")
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=lambda: send.send(digests(reader)))
        child.start()
        assert receive.poll(120)
        assert receive.recv() == here
        child.join()
        assert digests(reader) == here


def test_a_pickled_reader_is_small_and_has_no_open_files(pristine: list[Path]) -> None:
    with PatchReader(pristine, (64, 64), random(10**9, seed=9)) as reader:
        patch = reader[7]
        pickled = pickle.dumps(reader)
        assert len(pickled) < 10_000
        with pickle.loads(pickled) as other:  # noqa: S301  # our own, a line above
            assert np.array_equal(other[7], patch)


def test_threads_may_share_a_reader(pristine: list[Path]) -> None:
    errors: list[BaseException] = []
    with PatchReader(pristine, (64, 64), random(40, seed=9), threads=2, open_shards=1) as reader:
        expected = reader.read_batch(range(40))

        def read_all() -> None:
            try:
                for _ in range(3):
                    assert np.array_equal(reader.read_batch(range(40)), expected)
            except BaseException as error:  # noqa: BLE001  # the test shows it
                errors.append(error)

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_open_images_may_be_given_and_closed(pristine: list[Path]) -> None:
    with open_image(pristine[0]) as image:
        reader = PatchReader([image, pristine[1]], (64, 64), random(10, seed=9))
    assert np.array_equal(reader[0], read_slowly(reader, 0))
    assert np.array_equal(PatchReader(image, (64, 64), grid())[0], FIRST[0, :64, :64])


# --- what is not there ---


@pytest.fixture(params=["pointer file", "dangling link"])
def absent(request: pytest.FixtureRequest, sections: list[Path]) -> Path:
    """A shard of the first section as git-annex leaves it where its content is elsewhere."""
    shard = shards_of(sections[0])[0]
    shard.unlink()
    if request.param == "pointer file":
        shard.write_text(POINTER)
    else:
        shard.symlink_to(".git/annex/objects/nowhere")
    return shard


@pytest.mark.parametrize("threads", [1, 3])
def test_an_absent_shard_is_an_error_that_names_it_and_not_zeros(
    sections: list[Path], absent: Path, threads: int
) -> None:
    with PatchReader(sections, (64, 64), grid(), threads=threads) as reader:
        with pytest.raises(AbsentShardError, match=f"{absent} is not on this machine"):
            reader.read_batch(range(len(reader)))
        with pytest.raises(AbsentShardError, match="datalad get"):
            _ = reader[0]
        with pytest.raises(AbsentShardError):
            list(reader)
        assert np.array_equal(reader[-1], SECOND[-1, -64:, -64:])  # what is here can be read


def test_missing_chunks_and_shards_of_fill_value_are_zeros_also_in_a_used_buffer(pristine: list[Path]) -> None:
    plan = grid((64, 64))
    with PatchReader(pristine[0], (64, 64), plan) as reader:
        boxes = [reader.place(index).box for index in range(len(reader))]
        hole, beyond = boxes.index(Box((1, 64, 64), (2, 128, 128))), len(reader) - 1
        buffer = np.full((2, 64, 64), 0xFFFF, dtype=np.uint16)
        reader.read_batch([hole, beyond], buffer)
        assert not buffer[0].any()
        assert np.array_equal(buffer[1], FIRST[-1, -64:, -64:])
        assert not buffer[1, -14:].any()


@pytest.mark.parametrize("number", [0, 1], ids=["zstd", "blosc"])
def test_a_damaged_chunk_is_an_error_also_where_only_its_start_is_needed(number: int, sections: list[Path]) -> None:
    section = sections[number]
    with open_image(section) as image:
        shard = image.levels[0].shard_path((0, 0, 0))
        reader_of_shard = image.levels[0]._reader((0, 0, 0))
        assert reader_of_shard is not None
        place = reader_of_shard.place((0, 0, 0))
    assert place is not None
    offset, nbytes = place
    whole = shard.read_bytes()
    for at in (offset + 20, offset + nbytes // 2, offset + nbytes - 5):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        shard.write_bytes(damaged)
        for height in (1, 30, 64):
            with (
                PatchReader(section, (height, 64), grid()) as reader,
                pytest.raises(DamagedShardError, match=r"chunk \(0, 0, 0\)"),
            ):
                _ = reader[0]
    shard.write_bytes(whole[: offset + nbytes - 1])
    with PatchReader(section, (8, 8), grid()) as reader, pytest.raises(DamagedShardError, match="cut short"):
        reader.read_batch(range(len(reader)))


@pytest.mark.parametrize("number", [0, 1], ids=["zstd", "blosc"])
def test_the_start_of_a_chunk_without_hdf5_checksum_is_read_too(number: int, sections: list[Path]) -> None:
    # As in a shard that another Zarr writer made: only the codec's own checksum is there.
    shard = shards_of(sections[number])[0]
    with open_image(sections[number]) as image:
        opened = image.levels[0]._reader((0, 0, 0))
        assert opened is not None
        place = opened.place((0, 0, 0))
    assert place is not None
    data = bytearray(shard.read_bytes())
    data[sum(place) : sum(place) + 4] = b"\0\0\0\0"
    shard.write_bytes(data)
    assert np.array_equal(PatchReader(sections[number], (8, 64), grid())[0], VOXELS[number][0, :8, :64])


# --- refusals ---


def test_what_cannot_be_read_together_is_refused(pristine: list[Path], colours: tuple[Path, NDArray[Any]]) -> None:
    with pytest.raises(NisslError, match=r"rgb\.ome\.zarr has axes .* read them apart"):
        PatchReader([*pristine, colours[0]], (8, 8), grid())
    with pytest.raises(NisslError, match="there is no image"):
        PatchReader([], (8, 8), grid())
    with pytest.raises(NisslError, match=r"has no level 9: its levels are 0 to \d"):
        PatchReader(pristine, (8, 8), grid(), level=9)


def test_patches_that_cannot_be_are_refused(pristine: list[Path]) -> None:
    for shape in ((8,), (0, 8), (1, 1, 8, 8)):
        with pytest.raises(NisslError, match="a patch has a shape"):
            PatchReader(pristine, shape, grid())
    with pytest.raises(NisslError, match=r"section 1 is \(2, 500, 130\), smaller than a patch of \(1, 200, 200\)"):
        PatchReader(pristine, (200, 200), grid())
    for stride in ((0, 1), (1,), (1, 1, 1, 1)):
        with pytest.raises(NisslError, match="stride"):
            PatchReader(pristine, (8, 8), grid(stride))
    with pytest.raises(NisslError, match="rank 2 is not one of 2 ranks"):
        PatchReader(pristine, (8, 8), grid(), rank=2, world=2)
    with pytest.raises(NisslError, match="at least one patch"):
        PatchReader(pristine, (8, 8), random(0, seed=1))


# --- torch ---


def test_workers_of_a_data_loader_share_iteration(pristine: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    reader = PatchReader(pristine, (64, 64), random(11, seed=10))
    data = types.ModuleType("torch.utils.data")
    monkeypatch.setitem(sys.modules, "torch.utils.data", data)
    seen: dict[int, list[str]] = {}
    for worker in range(3):
        info = types.SimpleNamespace(id=worker, num_workers=3)
        monkeypatch.setattr(data, "get_worker_info", lambda info=info: info, raising=False)
        seen[worker] = digests(reader)
    monkeypatch.setattr(data, "get_worker_info", lambda: None)
    assert [seen[index % 3][index // 3] for index in range(11)] == digests(reader)


def test_torch_is_not_imported(pristine: list[Path]) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        modules = pool.submit(modules_after_reading, pristine[0]).result(120)
    assert not any(name.split(".")[0] == "torch" for name in modules)


def modules_after_reading(folder: Path) -> list[str]:
    import sys

    next(iter(PatchReader(folder, (64, 64), random(1, seed=1))))
    return sorted(sys.modules)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_data_loader_reads_it(pristine: list[Path], workers: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not a dependency; install it to try a real DataLoader")
    reader = PatchReader(pristine, (64, 64), random(11, seed=10))
    batches = list(torch.utils.data.DataLoader(reader, batch_size=4, num_workers=workers))
    assert np.array_equal(torch.cat(batches).numpy(), reader.read_batch(range(11)))

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[NDArray[Any]]:
            return iter(reader)

    streamed = list(torch.utils.data.DataLoader(Stream(), batch_size=None, num_workers=workers))
    assert sorted(patch.numpy().tobytes() for patch in streamed) == sorted(patch.tobytes() for patch in reader)
