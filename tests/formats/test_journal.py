"""A build that was stopped, at whatever moment, goes on to the very same bytes, without doing again what was done."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nissl.formats.attempt import Attempt
from nissl.formats.build import build_image
from nissl.formats.codec import ZstdCodec
from nissl.formats.image_plan import ImagePlan, plan_image
from nissl.formats.journal import Journal, Lines
from nissl.formats.quality import PlaneQuality
from nissl.formats.regions import regions_of
from nissl.formats.stack import PlaneSource
from nissl.formats.stream import Progress, RegionResult, RegionWork, stream
from nissl.formats.tiff import open_tiff_stack
from nissl.formats.workers import Finished, LocalCrew
from nissl.formats.written import WrittenFile
from tests.formats.formats_model import VOXEL_SIZE_UM, a_picture, write_planes

NAME = "a.ome.zarr"
REGIONS = 6
DONE = 3


@dataclass
class CountingCrew:
    """Works here and now, and remembers on what; stops as at Ctrl-C before the region `stop_at`."""

    stop_at: int = 1_000
    done: list[str] = field(default_factory=list)
    cores: int = 1

    @property
    def record(self) -> dict[str, Any]:
        return LocalCrew(self.cores).record

    def run(self, works: Sequence[RegionWork], progress: Progress, finished: Finished) -> None:
        with ThreadPoolExecutor(2) as pool:
            for work in works:
                if len(self.done) == self.stop_at:
                    raise KeyboardInterrupt
                finished(work, stream(work, pool, 2, progress))
                self.done.append(work.region.name)


class BrittleJournal(Journal):
    """One whose process dies at a given line, before or after it is written."""

    def __init__(self, folder: Path, line: int, *, after: bool) -> None:
        super().__init__(folder)
        self._left, self._after = line, after

    def _dying(self, write: Callable[[], None]) -> None:
        self._left -= 1
        if self._left < 0 and not self._after:
            raise KeyboardInterrupt
        write()
        if self._left < 0:
            raise KeyboardInterrupt

    def add(self, work: RegionWork, result: RegionResult) -> None:
        self._dying(lambda: Journal.add(self, work, result))

    def add_joined(self, file: WrittenFile) -> None:
        self._dying(lambda: Journal.add_joined(self, file))


@dataclass(frozen=True)
class Build:
    """One image, whole, and all that is needed to make it again."""

    source: PlaneSource
    plan: ImagePlan
    whole: Path
    """A folder with a journal and the image as an undisturbed run leaves them."""
    planes: list[PlaneQuality]

    def again(self, folder: Path, journal: Journal | None = None, progress: Progress | None = None) -> list[str]:
        """Build in `folder` what is missing there; returns the regions that were done."""
        crew = CountingCrew()
        planes = build_image(
            self.source, folder / NAME, self.plan, crew=crew, journal=journal or Journal(folder), progress=progress
        )
        assert planes == self.planes
        assert contents(folder / NAME) == contents(self.whole / NAME)
        return crew.done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """6 regions; level 1 is joined of parts, the levels above are reduced from it. One region is black."""
    folder = tmp_path_factory.mktemp("whole")
    voxels = a_picture((3, 200, 300))
    voxels[:, :128, :128] = 0
    source = open_tiff_stack(write_planes(folder / "tiff", voxels, tile=(64, 64)))
    plan = plan_image(source, NAME, VOXEL_SIZE_UM, codec=ZstdCodec(1), chunk_edge=64, shard_edge=128)
    assert len(list(regions_of(source, plan))) == REGIONS
    planes = build_image(source, folder / NAME, plan, crew=CountingCrew(), journal=Journal(folder))
    return Build(source, plan, folder, planes)


@pytest.fixture
def half(build: Build, tmp_path: Path) -> Path:
    """A folder in which 3 regions are done, one of them black."""
    with pytest.raises(KeyboardInterrupt):
        build_image(build.source, tmp_path / NAME, build.plan, crew=CountingCrew(DONE), journal=Journal(tmp_path))
    return tmp_path


def test_a_journal_changes_no_byte(build: Build, tmp_path: Path) -> None:
    # In this process too: HDF5 writes a filter's name into a file where hdf5plugin is loaded, as in tests.
    planes = build_image(build.source, tmp_path / NAME, build.plan, crew=CountingCrew())
    assert planes == build.planes
    assert contents(tmp_path / NAME) == contents(build.whole / NAME)


def test_what_is_finished_is_not_done_again(build: Build, half: Path) -> None:
    before = {path: path.stat().st_ino for path in (half / NAME / "0/c").rglob("*") if path.is_file()}
    assert len(before) == DONE - 1
    assert len(build.again(half)) == REGIONS - DONE
    assert {path: path.stat().st_ino for path in before} == before


def test_kept_says_how_much_there_is(build: Build, half: Path) -> None:
    kept = Journal(half).kept()
    on_disk = sum(
        path.stat().st_size for path in (half / NAME).rglob("*") if path.name != "zarr.json" and path.is_file()
    )
    assert (kept.regions, kept.of, kept.nbytes) == (DONE, REGIONS, on_disk)
    build.again(half)


def test_progress_starts_with_what_was_kept_and_adds_up_to_every_voxel(build: Build, half: Path) -> None:
    steps: list[int] = []
    build.again(half, progress=steps.append)
    assert steps[0] == 3 * 128 * 300  # the first row of regions
    assert sum(steps) == 3 * 200 * 300


def test_verifying_tells_how_far_it_is_in_bytes(half: Path, build: Build) -> None:
    told: list[tuple[int, int]] = []
    build.again(half, Journal(half, lambda done, total: told.append((done, total))))
    total = told[0][1]
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("after", [False, True], ids=["before its line", "after its line"])
def test_a_build_stopped_at_any_line_goes_on(build: Build, tmp_path: Path, after: bool) -> None:
    """Regions, then shards joined of parts, then the levels above: each has its lines."""
    lines = len(Lines(build.whole / "journal.jsonl").read()) - 1
    assert lines > REGIONS + 2
    for line in range(lines):
        folder = tmp_path / str(line)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            build.again(folder, BrittleJournal(folder, line, after=after))
        done = build.again(folder)
        assert len(done) == max(0, REGIONS - line - after), f"stopped at line {line}"


def damage(path: Path, how: str, place: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(content[: place.randrange(len(content))])
    else:
        content[place.randrange(len(content))] ^= 1 << place.randrange(8)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def moments(build: Build, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders as left at every line."""
    parent = tmp_path_factory.mktemp("moments")
    found = []
    for line in range(len(Lines(build.whole / "journal.jsonl").read()) - 1):
        folder = parent / str(line)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            build.again(folder, BrittleJournal(folder, line, after=True))
        found.append(folder)
    return [*found, build.whole]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_damaged_or_forgotten_meanwhile_is_made_anew(
    build: Build, moments: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any subset of lines, in any order, any files of kept regions damaged, strays: the result is the same."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(data.draw(st.sampled_from(moments)), folder, dirs_exist_ok=True)
    files = sorted(path for path in (folder / NAME).rglob("*") if path.is_file())
    place = random.Random(data.draw(st.integers(0, 1000)))
    for path in data.draw(st.lists(st.sampled_from(files), max_size=3, unique=True)):
        damage(path, data.draw(st.sampled_from(["gone", "cut short", "a bit"])), place)
    if data.draw(st.booleans()):
        journal = folder / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        kept = data.draw(st.lists(st.sampled_from(lines), unique=True))
        journal.write_bytes(b"".join(kept))
    if data.draw(st.booleans()):
        (folder / NAME / "0/c/.0.0123456789abcdef.part").parent.mkdir(parents=True, exist_ok=True)
        (folder / NAME / "0/c/.0.0123456789abcdef.part").write_bytes(b"half a shard")
    build.again(folder)
    shutil.rmtree(folder)


def test_only_the_region_of_a_damaged_file_is_done_again(build: Build, half: Path) -> None:
    shard = half / NAME / "0/c/0/0/2"
    damage(shard, "a bit", random.Random(1))
    done = build.again(half)
    assert done[0] == "0_256"
    assert len(done) == REGIONS - DONE + 1


def test_a_torn_line_is_as_if_it_had_never_been_written(build: Build, half: Path) -> None:
    journal = half / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 20)
    assert Journal(half).kept().regions == DONE - 1
    assert len(build.again(half)) == REGIONS - DONE + 1


@given(st.binary(max_size=200))
def test_a_line_with_other_bytes_is_not_read(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("lines") / "journal.jsonl"
    lines = Lines(path)
    lines.add({"region": "a"})
    with path.open("ab") as file:
        file.write(junk.replace(b"\n", b" ") + b"\n")
    lines.add({"region": "b"})
    assert lines.read() == [{"region": "a"}, {"region": "b"}]


@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_a_journal_keeps_every_bit_of_what_was_seen_of_a_plane(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    lines = Lines(tmp_path_factory.mktemp("lines") / "journal.jsonl")
    lines.add({"plane": numbers})
    assert repr(lines.read()) == repr([{"plane": numbers}])


def test_nobody_keeps_a_journal_of_a_single_region(tmp_path: Path) -> None:
    source = open_tiff_stack(write_planes(tmp_path / "tiff", a_picture((1, 60, 60))))
    plan = plan_image(source, NAME, VOXEL_SIZE_UM, chunk_edge=64, shard_edge=64)
    build_image(source, tmp_path / NAME, plan, crew=CountingCrew(), journal=Journal(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "tiff"]


def a_zombie(build: Build, folder: Path) -> RegionWork:
    """Work that a run has handed out to a machine that goes on with it when the run is long dead."""
    works: list[RegionWork] = []

    class HandingOut(CountingCrew):
        def run(self, given: Sequence[RegionWork], progress: Progress, finished: Finished) -> None:
            del progress, finished
            works.extend(given)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_image(build.source, folder / NAME, build.plan, crew=HandingOut(), journal=Journal(folder))
    return works[-1]


def do(work: RegionWork, progress: Progress = lambda _: None) -> None:
    with ThreadPoolExecutor(1) as pool:
        stream(work, pool, 1, progress)


def test_a_worker_of_a_run_that_is_over_stops_when_another_takes_over(build: Build, half: Path) -> None:
    work = a_zombie(build, half)
    bands = []

    def take_over(voxels: int) -> None:
        bands.append(voxels)
        if len(bands) == 1:
            Attempt.begin(half / "attempt")

    with pytest.raises(InterruptedError, match="another run has taken over"):
        do(work, take_over)
    assert len(bands) == 1
    assert not list((half / NAME).rglob("*.part"))
    build.again(half)


def test_a_worker_of_a_run_that_is_over_never_brings_a_removed_folder_back(build: Build, half: Path) -> None:
    work = a_zombie(build, half)

    def remove(_: int) -> None:
        if half.exists():
            shutil.rmtree(half)

    with pytest.raises(InterruptedError):
        do(work, remove)
    assert not half.exists()


def test_even_one_that_does_not_look_brings_no_folder_back(build: Build, half: Path) -> None:
    """The moment between looking and writing is short, but it is there."""
    work = replace(a_zombie(build, half), attempt=None)
    shutil.rmtree(half)
    with pytest.raises(FileNotFoundError):
        do(work)
    assert not half.exists()


def test_two_that_write_the_same_shard_at_once_do_not_disturb_each_other(build: Build, half: Path) -> None:
    work = replace(a_zombie(build, half), attempt=None)

    def meanwhile(_: int) -> None:
        do(work)

    do(work, meanwhile)
    build.again(half)


def test_work_after_the_end_is_refused(build: Build, tmp_path: Path) -> None:
    work = a_zombie(build, tmp_path)
    build.again(tmp_path)
    with pytest.raises(InterruptedError):
        do(work)
    assert contents(tmp_path / NAME) == contents(build.whole / NAME)
