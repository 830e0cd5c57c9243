"""An ingest that was killed, at whatever moment, goes on from what it had finished, to the same section."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

from nissl.datasets.brain import Brain
from nissl.datasets.check import check
from nissl.datasets.ingest import Ingested, IngestError, Order, ingest
from nissl.formats.journal import Journal
from nissl.formats.stack import StackError
from nissl.formats.workers import LocalCrew
from tests.builders import a_copy, a_name, a_stack, an_order, ingest_arguments, leftovers, nissl, run, status

REGIONS = 12
IMAGE = str(a_name(stain="cfos").image)

Moment = Callable[["Site"], bool]


class Site:
    """A brain in which an image of 12 regions is being made."""

    def __init__(self, brain: Brain, files: list[Path], *more: str) -> None:
        self.brain = brain
        self.section = brain.section(a_name())
        edges = ["--chunk-edge", "64", "--shard-edge", "128"]
        self.arguments = [*ingest_arguments(brain.path, files), "--stain", "cfos", *edges, *more]

    @property
    def folder(self) -> Path | None:
        plans = glob.glob("*/*/plan.json", root_dir=self.brain.unfinished)  # noqa: PTH207
        return (self.brain.unfinished / plans[0]).parent if plans else None

    @property
    def images(self) -> list[Path]:
        """Where the image lies: one place, or none."""
        folder = self.folder or Path("/nowhere")
        places = [folder / a_name(stain="cfos").image.name, folder / self.section.name / IMAGE, self.section / IMAGE]
        return [place for place in places if place.exists()]

    @property
    def lines(self) -> str:
        try:
            return ((self.folder or Path("/nowhere")) / "journal.jsonl").read_text()
        except OSError:
            return ""

    def objects(self) -> int:
        """Files in the annex of the section, wherever that is just now."""
        sections = [self.section, (self.folder or Path("/nowhere")) / self.section.name]
        # Not Path.glob, which fails where folders go while it looks.
        return sum(len(glob.glob(".git/annex/objects/*/*/*/*", root_dir=one)) for one in sections)  # noqa: PTH207

    def steps(self) -> int:
        """Grows with every region, joined shard and annexed file."""
        return self.lines.count("\n") + self.objects()

    def inodes(self) -> dict[str, int]:
        """Of the shards whose checksums are in the journal."""
        journal = self.folder
        if journal is None or not self.images:
            return {}
        opened = [json.loads(line)["said"] for line in self.lines.splitlines() if line.endswith("}")]
        names = {file[0] for said in opened for file in said.get("files", [])}
        names |= {said["joined"][0] for said in opened if "joined" in said}
        return {name: (self.images[0] / name).stat().st_ino for name in names if (self.images[0] / name).exists()}

    def killed_when(self, moment: Moment, whom: str = "all", env: dict[str, str] | None = None) -> bool:
        """Start the command and kill it at a moment; returns whether that came."""
        process = subprocess.Popen(
            ["nissl", *self.arguments],
            process_group=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
        came = False
        while not came and process.poll() is None:
            came = moment(self)
        if whom == "all":
            _kill_all(process)
        process.kill()
        process.wait()
        return came

    def completed(self) -> None:
        done = nissl(*self.arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["event"] in ("created", "replaced", "unchanged", "recorded")


def small_shards(files: list[Path], sample: str = "0042", stain: str | None = None) -> Order:
    return replace(an_order(files, sample, stain), chunk_edge=64, shard_edge=128)


def _family(pid: int) -> list[int]:
    """A process and all that it has started, and they."""
    family, parents = [pid], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """kill -9 for the command and all that it has started: git and workers too, as when a machine goes down."""
    for one in _family(process.pid):
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def contents(image: Path) -> dict[str, str]:
    return {
        str(path.relative_to(image)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in image.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return a_stack(tmp_path_factory.mktemp("planes"), planes=3, height=128 * REGIONS - 30, width=300, seed=3)


@pytest.fixture(scope="module")
def whole(full_brain: Brain, planes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """What an undisturbed run makes."""
    site = Site(a_copy(full_brain, tmp_path_factory.mktemp("whole")), planes)
    site.completed()
    return site


def assert_like(site: Site, whole: Site) -> None:
    image, expected = site.section / IMAGE, whole.section / IMAGE
    assert contents(image) == contents(expected)
    assert {path.stat().st_mode for path in image.rglob("*") if path.is_file()} == {
        path.stat().st_mode for path in expected.rglob("*") if path.is_file()
    }
    quality = a_name(stain="cfos").quality
    assert (site.section / quality).read_bytes() == (whole.section / quality).read_bytes()
    assert (status(site.brain.path), status(site.section)) == ("", "")
    assert not leftovers(site.brain.path)
    run(site.section, "git", "annex", "fsck", "--quiet")
    annexed = {path.stat().st_ino for path in site.section.glob(".git/annex/objects/*/*/*/*")}
    shards = [path for path in site.section.glob("sub-*/micr/*/*/c/**/*") if path.is_file()]
    assert {path.stat().st_ino for path in shards} == annexed, "the annex has another copy, or something nobody needs"


def regions_done(count: int) -> Moment:
    return lambda site: site.lines.count('"region"') >= count


def joining(site: Site) -> bool:
    return '"joined"' in site.lines


def reducing(site: Site) -> bool:
    return joining(site) and any(not (image / ".parts").exists() for image in site.images)


def annexing(site: Site) -> bool:
    # Shards of the image that is in the section already are in the annex, where there is one.
    return site.objects() > 4


MOMENTS = {"regions": regions_done(5), "join": joining, "reduce": reducing, "annex": annexing}


@pytest.fixture(params=["new section", pytest.param("existing section", marks=pytest.mark.slow)])
def site(
    request: pytest.FixtureRequest, empty_brain: Brain, full_brain: Brain, planes: list[Path], tmp_path: Path
) -> Site:
    return Site(a_copy(empty_brain if request.param == "new section" else full_brain, tmp_path), planes)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", pytest.param("nissl alone", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "moment", ["regions", "annex", *(pytest.param(name, marks=pytest.mark.slow) for name in ("join", "reduce"))]
)
def test_what_was_finished_when_it_was_killed_is_not_made_again(
    site: Site, whole: Site, moment: str, whom: str
) -> None:
    assert site.killed_when(MOMENTS[moment], whom)
    before = site.inodes()
    assert len(before) >= 4
    site.completed()
    after = {name: (site.section / IMAGE / name).stat().st_ino for name in before if not name.startswith(".parts/")}
    assert after == {name: before[name] for name in after}
    assert_like(site, whole)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "nissl alone"])
def test_a_kill_during_the_commit_loses_nothing(site: Site, whole: Site, whom: str, tmp_path: Path) -> None:
    hooks, flag = tmp_path / "hooks", tmp_path / "committing"
    hooks.mkdir()
    hook = hooks / "commit-msg"
    hook.write_text(f"#!/bin/sh\ngrep -q 'Ingest' \"$1\" && touch {flag} && sleep 2\nexit 0\n")
    hook.chmod(0o755)
    env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": str(hooks)}
    assert site.killed_when(lambda _: flag.exists(), whom, env)
    before = site.inodes()
    assert len(before) >= REGIONS
    site.completed()
    assert {name: (site.section / IMAGE / name).stat().st_ino for name in before} == before
    assert_like(site, whole)


@pytest.mark.slow
def test_a_new_version_that_shares_shards_with_the_old_one_survives_a_kill_while_it_is_annexed(
    whole: Site, planes: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(whole.brain, tmp_path)
    files = [Path(shutil.copy(file, tmp_path)) for file in planes]
    voxels = tifffile.imread(files[1])
    voxels[::256] = 77  # every other region changes
    tifffile.imwrite(files[1], voxels)
    site = Site(brain, files, "--replace")
    already = site.objects()
    assert site.killed_when(lambda site: site.objects() > already + 1)
    site.completed()
    straight = tmp_path / "straight"
    straight.mkdir()
    expected = ingest(a_copy(whole.brain, straight), small_shards(files, stain="cfos"), replace=True)
    assert contents(site.section / IMAGE) == contents(expected.image)
    assert site.objects() == len(list(expected.section.glob(".git/annex/objects/*/*/*/*")))
    assert (status(brain.path), status(site.section)) == ("", "")
    assert not leftovers(brain.path)
    run(site.section, "git", "annex", "fsck", "--quiet")
    run(site.section, "git", "checkout", "-q", "HEAD~1")
    assert contents(site.section / IMAGE) == contents(whole.section / IMAGE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again_it_gets_there(site: Site, whole: Site) -> None:
    """Nothing that is in the journal is made again, however often the run is killed at whatever moment."""
    moments = random.Random(7)
    made: dict[str, set[int]] = {}
    for _ in range(12):
        before = site.steps()
        # Some time after this run's first step: every run gets somewhere, on a busy machine too.
        delay, began = moments.uniform(0.0, 1.5), [0.0]

        def moment(site: Site, before: int = before, delay: float = delay, began: list[float] = began) -> bool:
            if not began[0] and site.steps() > before:
                began[0] = time.monotonic()
            return bool(began[0]) and time.monotonic() - began[0] > delay

        if not site.killed_when(moment):
            break
        for name, inode in site.inodes().items():
            made.setdefault(name, set()).add(inode)
    site.completed()
    again = {name: inodes for name, inodes in made.items() if len(inodes) > 1}
    assert not again
    assert len(made) > REGIONS / 2, "it was never killed late enough to tell"
    assert_like(site, whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_sentence_and_costs_what_it_was_at(
    empty_brain: Brain, planes: list[Path], tmp_path: Path
) -> None:
    site = Site(a_copy(empty_brain, tmp_path), planes)
    command = ["nissl", *site.arguments, "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not regions_done(2)(site):
        time.sleep(0.002)
    workers = [pid for pid in _family(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("nissl: a worker process was killed, probably because the machine ran out of memory: run ")
    assert " of 12 regions (" in said
    assert said.endswith(" are kept, the same command goes on from there\n")
    assert said.count("\n") == 1
    site.completed()
    assert not leftovers(site.brain.path)


def interrupted(brain: Brain, files: list[Path], at: float = 0.6, sample: str = "0042") -> BaseException:
    """Ingest, and press Ctrl-C when so much is written."""

    def press(stage: str, done: int, total: int) -> None:
        if stage == "write" and done >= at * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        ingest(brain, small_shards(files, sample), crew=LocalCrew(1), progress=press)
    return stopped.value


def test_ctrl_c_says_what_is_kept_and_check_finds_it(empty_brain: Brain, planes: list[Path], tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    stopped = interrupted(brain, planes)
    (plan,) = brain.unfinished.glob("*/*/plan.json")
    kept = Journal(plan.parent).kept()
    assert 0 < kept.regions < REGIONS
    (note,) = stopped.__notes__
    assert note.startswith(f"{kept.regions} of 12 regions (")
    assert note.endswith(") are kept, the same command goes on from there")
    report = check(brain.path)
    assert report.fine
    (named,) = report.notes
    assert named.startswith(f"ingest of sub-01_sample-0042_BF was interrupted, {kept.regions} of 12 regions (")
    assert str(plan) in named
    told: list[tuple[str, int]] = []
    ingest(brain, small_shards(planes), progress=lambda stage, done, _total: told.append((stage, done)))
    first = next(done for stage, done in told if stage == "write")
    assert first >= (kept.regions - 1) * 128 * 300 * 3 * 2  # the last region is lower than the others
    assert check(brain.path).notes == ()
    assert not leftovers(brain.path)


@pytest.mark.slow
def test_another_order_for_the_image_takes_nothing_over(empty_brain: Brain, planes: list[Path], tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    interrupted(brain, planes)
    (first,) = brain.unfinished.glob("*/*/plan.json")
    other = a_stack(tmp_path / "other", planes=3, height=128 * REGIONS - 30, width=300, seed=4)
    interrupted(brain, other)
    (second,) = brain.unfinished.glob("*/*/plan.json")
    assert second != first
    (tmp_path / "straight").mkdir()
    straight = a_copy(empty_brain, tmp_path / "straight")
    expected = ingest(straight, small_shards(other))
    assert contents(ingest(brain, small_shards(other)).image) == contents(expected.image)
    assert not leftovers(brain.path)


def test_a_source_that_was_scanned_again_meanwhile_is_another_order(empty_brain: Brain, tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)
    files = a_stack(tmp_path / "scan", planes=3, height=128 * 4, width=300)
    interrupted(brain, files)
    (first,) = brain.unfinished.glob("*/*/plan.json")
    os.utime(files[1])
    interrupted(brain, files)
    assert not first.exists()


def test_errors_that_want_another_order_leave_nothing(empty_brain: Brain, planes: list[Path], tmp_path: Path) -> None:
    brain = a_copy(empty_brain, tmp_path)

    def refuse(error: type[Exception]) -> None:
        def now(stage: str, done: int, total: int) -> None:
            if stage == "write" and done > total // 2:
                raise error("not like this")

        with pytest.raises(error, match="not like this"):
            ingest(brain, small_shards(planes), crew=LocalCrew(1), progress=now)

    for error in (StackError, IngestError):
        refuse(error)
        assert not leftovers(brain.path)


def test_a_forgotten_replace_does_not_cost_what_was_finished(
    full_brain: Brain, planes: list[Path], tmp_path: Path
) -> None:
    brain = a_copy(full_brain, tmp_path)

    def press(stage: str, done: int, total: int) -> None:
        if stage == "write" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(brain, small_shards(planes), replace=True, crew=LocalCrew(1), progress=press)
    before = leftovers(brain.path)
    assert before
    with pytest.raises(IngestError, match="give --replace"):
        ingest(brain, small_shards(planes))
    assert leftovers(brain.path) == before
    assert ingest(brain, small_shards(planes), replace=True).status == "replaced"
    assert not leftovers(brain.path)


def test_a_second_run_of_the_same_image_waits_and_then_has_nothing_to_do(
    empty_brain: Brain, planes: list[Path], tmp_path: Path
) -> None:
    site = Site(a_copy(empty_brain, tmp_path), planes)
    first = subprocess.Popen(["nissl", *site.arguments], stdout=subprocess.PIPE, text=True)
    while first.poll() is None and not regions_done(1)(site):
        time.sleep(0.005)
    told: list[str] = []
    order = small_shards(planes, stain="cfos")
    second: Ingested = ingest(site.brain, order, progress=lambda stage, _done, _total: told.append(stage))
    said, _ = first.communicate(timeout=60)
    assert said.startswith("created")
    assert second.status == "unchanged"
    assert told[0] == "wait"
    assert not leftovers(site.brain.path)
