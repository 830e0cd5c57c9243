"""Regions written by real Dask workers are those written at home; workers and schedulers that die harm nothing."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nissl
from nissl.formats.build import build_image
from nissl.formats.dask_crew import ClusterError, DaskCrew, dask_crew
from nissl.formats.image_plan import ImagePlan, plan_image
from nissl.formats.labels import build_labels, plan_labels
from nissl.formats.quality import PlaneQuality
from nissl.formats.stack import PlaneSource, StackError
from nissl.formats.tiff import TiffStack, open_tiff_stack
from nissl.formats.workers import Crew, LocalCrew
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.formats.formats_model import VOXEL_SIZE_UM, a_picture, write_planes
from tests.formats.slow_source import SlowSource

pytestmark = pytest.mark.slow  # clusters are started and killed

SHAPE = (6, 300, 310)
VOXELS = SHAPE[0] * SHAPE[1] * SHAPE[2]
REGIONS = 9
NAME = "a.ome.zarr"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TiffStack:
    """A stack of 3 x 3 regions."""
    return open_tiff_stack(write_planes(tmp_path_factory.mktemp("tiff"), a_picture(SHAPE), tile=(32, 32)))


@pytest.fixture(scope="module")
def at_home(source: TiffStack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PlaneQuality]]:
    """The image as this machine's processes write it, and the quality of its planes."""
    folder = tmp_path_factory.mktemp("home") / NAME
    return folder, build_image(source, folder, a_plan(source), crew=LocalCrew(2))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers that no test harms."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as running:
        yield running


def a_plan(source: PlaneSource) -> ImagePlan:
    return plan_image(source, NAME, VOXEL_SIZE_UM, chunk_edge=64, shard_edge=128)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def build_on(
    crew: DaskCrew, source: TiffStack, folder: Path, after_first_voxels: Callable[[], None] = lambda: None
) -> int:
    """Build slowly, do something in the middle; returns how many voxels progress told of."""
    steps: list[int] = []

    def progress(voxels: int) -> None:
        if voxels and not any(steps):
            after_first_voxels()
        steps.append(voxels)

    build_image(SlowSource(source, 0.05), folder, a_plan(source), crew=crew, progress=progress)
    return sum(steps)


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_quiet(folder: Path) -> None:
    """Nothing is written there any more, and nothing half-written is left."""
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    time.sleep(1.5)
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before
    assert not [path for path in before if path.name.endswith((".part", ".fence"))]


def test_workers_write_the_same_bytes_as_this_machine(
    cluster: DaskCluster, source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], tmp_path: Path
) -> None:
    steps: list[int] = []
    with dask_crew(cluster.address) as crew:
        quality = build_image(source, tmp_path / NAME, a_plan(source), crew=crew, progress=steps.append)
    assert files_of(tmp_path / NAME) == files_of(at_home[0])
    assert quality == at_home[1]
    assert sum(steps) == VOXELS
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    worker = {"host": socket.gethostname(), "threads": 1, "slurm_job_id": None, "regions": REGIONS}
    assert crew.record["workers"] == [worker]


def test_volumes_of_labels_are_written_level_by_level(cluster: DaskCluster, tmp_path: Path) -> None:
    source = open_tiff_stack(write_planes(tmp_path / "tiff", a_picture((70, 150, 140), "uint32")))
    plan = plan_labels(source, "a", (1.0, 1.0, 1.0), chunk_edge=32, shard_edge=64)
    assert plan.halved_axes == 3
    build_labels(source, tmp_path / "home" / "a", plan, crew=LocalCrew(2))
    with dask_crew(cluster.address) as crew:
        build_labels(source, tmp_path / "dask" / "a", plan, crew=crew)
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "home")


def test_progress_is_finer_than_regions(cluster: DaskCluster, source: TiffStack, tmp_path: Path) -> None:
    steps: list[int] = []
    plan = plan_image(source, NAME, VOXEL_SIZE_UM, chunk_edge=32, shard_edge=512)
    with dask_crew(cluster.address) as crew:
        build_image(SlowSource(source, 0.05), tmp_path / NAME, plan, crew=crew, progress=steps.append)
    assert sum(steps) == VOXELS
    assert sum(crew.places.values()) == 1 < len(steps)


def test_each_thread_of_a_worker_writes_a_region_and_the_bytes_are_the_same(
    source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], tmp_path: Path
) -> None:
    folder = tmp_path / "here" / NAME
    writing: list[int] = []

    def progress(_: int) -> None:
        writing.append(len(list(folder.parent.glob(".*.fence/tcp___*"))))

    with dask_cluster(tmp_path / "dask", workers=0) as own:
        own.start_worker("--nthreads", "3")
        own.wait_for_workers(1)
        with dask_crew(own.address) as crew:
            build_image(SlowSource(source, 0.05), folder, a_plan(source), crew=crew, progress=progress)
    assert {place.threads for place in crew.places} == {3}
    assert max(writing) == 3
    assert files_of(folder) == files_of(at_home[0])


def test_the_regions_of_a_killed_worker_are_written_by_another(
    source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], tmp_path: Path
) -> None:
    half_written: list[Path] = []
    folder = tmp_path / "here" / NAME
    with dask_cluster(tmp_path / "dask") as own:

        def kill() -> None:
            wait_for(lambda: len(list(folder.glob("0/c/0/*/.*.part"))) == 2)  # a shard of each worker
            own.workers[0].kill()
            own.workers[0].wait()
            half_written.extend(folder.rglob(".*.part"))

        with dask_crew(own.address) as crew:
            assert build_on(crew, source, folder, kill) == VOXELS
    assert half_written
    assert files_of(folder) == files_of(at_home[0])
    assert [path.name for path in folder.parent.iterdir()] == [NAME]


def test_a_worker_that_comes_later_helps(
    source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], tmp_path: Path
) -> None:
    with dask_cluster(tmp_path / "dask", workers=1) as own:

        def reinforce() -> None:
            own.workers[0].send_signal(signal.SIGSTOP)  # lest it be done before the other has started
            own.start_worker("--nthreads", "2")
            own.wait_for_workers(2)
            own.workers[0].send_signal(signal.SIGCONT)

        with dask_crew(own.address) as crew:
            build_on(crew, source, tmp_path / "here" / NAME, reinforce)
    assert {place.threads for place in crew.places} == {1, 2}
    assert files_of(tmp_path / "here" / NAME) == files_of(at_home[0])


def test_a_region_that_kills_its_workers_is_named_and_ends_it(source: TiffStack, tmp_path: Path) -> None:
    folder = tmp_path / "here" / NAME
    with dask_cluster(tmp_path / "dask", allowed_failures=0) as own, dask_crew(own.address) as crew:
        with pytest.raises(ClusterError, match=r"rows \d+ to \d+, columns .*: 1 Dask workers? died .* look at its log"):
            build_on(crew, source, folder, own.workers[0].kill)
        assert_quiet(folder)


def test_when_all_workers_are_gone_for_long_it_ends(source: TiffStack, tmp_path: Path) -> None:
    folder = tmp_path / "here" / NAME
    with dask_cluster(tmp_path / "dask", workers=1) as own, dask_crew(own.address, wait_s=3) as crew:
        with pytest.raises(ClusterError, match=r"has had no workers for 3 s, and \d of 9 regions are not done"):
            build_on(crew, source, folder, own.workers[0].kill)
        assert_quiet(folder)


def test_when_the_scheduler_dies_it_ends_with_what_was_finished(
    source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], tmp_path: Path
) -> None:
    folder = tmp_path / "here" / NAME
    with dask_cluster(tmp_path / "dask") as own, dask_crew(own.address) as crew:

        def kill_after_a_shard() -> None:
            wait_for(lambda: bool(list(folder.glob("0/c/0/*/[0-9]*"))))
            own.scheduler.kill()

        begun = time.monotonic()
        with pytest.raises(ClusterError, match=r"the Dask scheduler at tcp://.* is gone: start it again"):
            build_on(crew, source, folder, kill_after_a_shard)
        assert time.monotonic() - begun < 60
        assert_quiet(folder)
    expected = files_of(at_home[0])
    kept = {path: data for path, data in files_of(folder).items() if "c" in path.parts and ".parts" not in path.parts}
    assert kept
    assert all(expected[path] == data for path, data in kept.items())


def test_an_interrupt_returns_when_nobody_writes_any_more_and_the_cluster_is_free_again(
    source: TiffStack, at_home: tuple[Path, list[PlaneQuality]], cluster: DaskCluster, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "first" / NAME
    with dask_crew(cluster.address) as crew:
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            build_on(crew, source, folder, interrupt)
        assert time.monotonic() - begun < 10
        assert_quiet(folder)
        build_image(source, tmp_path / "second" / NAME, a_plan(source), crew=crew)
    assert files_of(tmp_path / "second" / NAME) == files_of(at_home[0])


def test_a_damaged_plane_is_the_same_sentence_as_at_home(cluster: DaskCluster, tmp_path: Path) -> None:
    files = write_planes(tmp_path / "tiff", a_picture(SHAPE), tile=(32, 32))
    source = open_tiff_stack(files)
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size // 2)
    said = []
    with dask_crew(cluster.address) as crew:
        crews: list[Crew] = [LocalCrew(2), crew]
        for number, those in enumerate(crews):
            folder = tmp_path / str(number) / NAME
            with pytest.raises(StackError, match=r"plane 2 \(.*_z2\.tif\) cannot be read.*--skip 2") as error:
                build_image(source, folder, a_plan(source), crew=those)
            said.append(str(error.value).partition("cannot be read")[0])
            assert_quiet(folder)
    assert said[0] == said[1]


def test_without_workers_it_waits_says_so_and_gives_up_with_the_remedy(source: TiffStack, tmp_path: Path) -> None:
    said: list[str] = []
    with (
        dask_cluster(tmp_path / "dask", workers=0) as own,
        dask_crew(own.address, wait_s=1.5, say=said.append) as crew,
        pytest.raises(ClusterError, match=r"has no workers after 1\.5 s: start some with `dask worker tcp://"),
    ):
        build_image(source, tmp_path / NAME, a_plan(source), crew=crew)
    assert said == [f"waiting up to 1.5 s for a worker of the Dask scheduler at {own.address}"]


def test_workers_that_come_within_the_wait_are_taken(source: TiffStack, tmp_path: Path) -> None:
    with dask_cluster(tmp_path / "dask", workers=0) as own:

        def start_one(_: str) -> None:
            own.start_worker()

        with dask_crew(str(own.scheduler_file), say=start_one) as crew:
            build_image(source, tmp_path / NAME, a_plan(source), crew=crew)
    assert sum(crew.places.values()) == REGIONS


def a_free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        ("tcp://127.0.0.1:{port}", r"nobody answers at tcp://127\.0\.0\.1:\d+ after 1 s: start `dask scheduler`"),
        ("127.0.0.1:{port}", r"nobody answers at tcp://127\.0\.0\.1:\d+ after 1 s: start `dask scheduler`"),
        ("http://127.0.0.1:{port}", r"http://127\.0\.0\.1:\d+ is no address of a Dask scheduler"),
        ("tcp://no-such-host.invalid:8786", r"nobody answers at tcp://no-such-host\.invalid:8786"),
        ("{folder}/scheduler.json", r"there is no scheduler file /.*/scheduler\.json after 1 s"),
        ("{folder}/wrong.json", r"wrong\.json is no file that `dask scheduler --scheduler-file` wrote"),
        ("{folder}", r" cannot be read \(Is a directory\)"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_sentence(scheduler: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps(["no", "scheduler"]))
    address = scheduler.format(port=a_free_port(), folder=tmp_path)
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=sentence), dask_crew(address, wait_s=1):
        pytest.fail("there is nobody")
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("hidden", ["source", "image"])
def test_a_worker_that_does_not_see_the_same_files_is_named_with_the_path(
    hidden: str, source: TiffStack, tmp_path: Path
) -> None:
    folder = tmp_path / "here" / NAME
    folder.parent.mkdir()
    away = source.files[0].parent if hidden == "source" else folder.parent
    # Another machine's disk: a file system that only this worker has there.
    there = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {away} && exec "$@"', "sh"]
    tried = subprocess.run([*there, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"cannot give a worker a disk of its own: {tried.stderr.strip()}")
    with dask_cluster(tmp_path / "dask", workers=1) as own:
        own.start_worker(prefix=there)
        own.wait_for_workers(2)
        path = source.files[0] if hidden == "source" else folder
        with (
            dask_crew(own.address) as crew,
            pytest.raises(ClusterError, match=rf"worker tcp://.* does not see {path}: --scheduler needs a file system"),
        ):
            build_image(source, folder, a_plan(source), crew=crew)
    assert_quiet(folder)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('__version__ = "0.0.7"', rf"has nissl 0\.0\.7, but {nissl.__version__} runs here: start the workers from"),
        ('raise ModuleNotFoundError("none here")', "has no nissl: start the workers from"),
    ],
)
def test_a_worker_with_another_version_or_none_is_named(
    line: str, sentence: str, source: TiffStack, tmp_path: Path
) -> None:
    package = Path(nissl.__file__).parent
    other = tmp_path / "other" / "nissl"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    (other / "__init__.py").write_text(f"{(package / '__init__.py').read_text()}\n{line}\n")
    with dask_cluster(tmp_path / "dask", workers=0) as own:
        own.start_worker(env={"PYTHONPATH": str(other.parent)})
        own.wait_for_workers(1)
        with dask_crew(own.address) as crew, pytest.raises(ClusterError, match=rf"worker tcp://.* {sentence}"):
            build_image(source, tmp_path / NAME, a_plan(source), crew=crew)
