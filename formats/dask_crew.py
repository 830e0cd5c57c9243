"""A crew of Dask workers, on as many machines as share the files: in Slurm jobs, say.

Dask carries the regions out and their results back, and gives the region of a worker that died to another. What must
hold even where Dask is gone goes over the shared disk: a fence (`formats.fence`) around the image's folder tells
workers to stop, and shows that they have.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import distributed
from distributed import Client, Future, KilledWorker

from nissl import __version__
from nissl.errors import NisslError
from nissl.formats.dask_worker import REGION, Done, Place, TakesRegions, unseen, write_region
from nissl.formats.fence import Fence, mark_of
from nissl.formats.stream import Progress, RegionWork
from nissl.formats.workers import Finished, available_cores

WAIT_S = 60.0
"""So long a crew waits for its scheduler and for a first worker, unless told otherwise."""

_CONNECT_S = 5.0
_LOOK_S = 2.0
_STOP_S = 60.0
_LOST_S = 5.0
_RETRY_S = 0.5

Say = Callable[[str], None]
"""Told in a sentence what is being waited for."""


class ClusterError(NisslError):
    """A Dask cluster that is not there, does not fit, or went away."""


@contextlib.contextmanager
def dask_crew(scheduler: str, *, wait_s: float = WAIT_S, say: Say = lambda _: None) -> Iterator[DaskCrew]:
    """The workers of the Dask scheduler at `scheduler`: an address, `tcp://host:8786`, or the path of a scheduler file.

    Waits up to `wait_s` seconds for the scheduler to answer; `run` waits as long for a first worker.
    Raises ClusterError where nobody answers.
    """
    with _quiet():
        client, address = _connect(scheduler, wait_s, say)
        try:
            yield DaskCrew(client, address, wait_s, say)
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=_CONNECT_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What Dask logs about broken connections, in many lines, is said again, better, in our own sentences."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass
class DaskCrew:
    """A crew, as `formats.workers.Crew` describes it."""

    client: Client
    scheduler: str
    """Its address."""
    wait_s: float = WAIT_S
    say: Say = lambda _: None
    cores: int = field(default_factory=available_cores)
    places: Counter[Place] = field(default_factory=Counter)
    """How many regions were written where."""

    @property
    def record(self) -> dict[str, Any]:
        places = sorted(self.places.items(), key=lambda item: str(item[0]))
        return {
            "dask": distributed.__version__,
            "scheduler": self.scheduler,
            "workers": [{**asdict(place), "regions": regions} for place, regions in places],
        }

    def run(self, works: Sequence[RegionWork], progress: Progress, finished: Finished) -> None:
        if not works:
            return
        with self._plain_words():
            self._wait_for_workers()
            self._compare_versions()
        fence = Fence.put_up(works[0].folder)
        futures: list[Future] = []
        orderly = False
        try:
            with self._plain_words():
                self._compare_files(works[0], fence)
                self.client.register_plugin(TakesRegions(fence))
            self._hand_out(works, fence, futures, progress, finished)
            orderly = True
        finally:
            self._leave(works[0].folder, fence, futures, orderly)

    # Before the work

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + self.wait_s
        said = False
        while not self._workers():
            if not said:
                self.say(f"waiting up to {self.wait_s:g} s for a worker of the Dask scheduler at {self.scheduler}")
                said = True
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Dask scheduler at {self.scheduler} has no workers after {self.wait_s:g} s: "
                    f"start some with `dask worker {self.scheduler}`, or wait longer with --wait"
                )
            time.sleep(_RETRY_S)

    def _compare_versions(self) -> None:
        """Raises ClusterError where a worker has other software: it would misread our work, or write other bytes."""

        def nissl_here() -> str | None:  # defined here, and so sent as code: a worker without Nissl can run it too
            try:
                import nissl
            except ImportError:
                return None
            return nissl.__version__

        versions = self.client.get_versions()
        mine = _versions_that_matter(versions["client"]["packages"])
        for address, there in versions["workers"].items():
            theirs = _versions_that_matter(there["packages"])
            for name, version in mine.items():
                _require_same(address, name, theirs[name], version)
        for address, version in self.client.run(nissl_here).items():
            _require_same(address, "nissl", version, __version__)

    def _compare_files(self, work: RegionWork, fence: Fence) -> None:
        """Raises ClusterError where a worker does not see the source or the image's folder."""
        missing = self.client.run(unseen, work.source.files[:1], work.folder, fence)
        for address, path in missing.items():
            if path is None and not fence.take_note(address):
                path = f"{work.folder} as it is here"
            if path is not None:
                raise ClusterError(
                    f"worker {address} does not see {path}: --scheduler needs a file system that all machines share, "
                    "under the same path"
                )

    # The work

    def _hand_out(
        self, works: Sequence[RegionWork], fence: Fence, futures: list[Future], progress: Progress, finished: Finished
    ) -> None:
        topic = fence.folder.name
        count = _Count(works, progress)
        self.client.subscribe_topic(topic, count.hear)
        arrived: queue.SimpleQueue[Future] = queue.SimpleQueue()
        with self._plain_words():
            alone = len(works) <= len(self._workers())
        for number, work in enumerate(works):
            with self._plain_words():
                # No `retries`: what fails here fails everywhere, and would at home. Regions of dead workers are done
                # again all the same, as often as `distributed.scheduler.allowed-failures` says.
                future = self.client.submit(
                    write_region,
                    work,
                    fence,
                    number,
                    topic,
                    alone=alone,
                    key=f"{topic}-{work.region.name}",
                    pure=False,
                    resources={REGION: 1},
                )
            futures.append(future)
            future.add_done_callback(arrived.put)
        numbers = {future.key: number for number, future in enumerate(futures)}
        staffed = looked = time.monotonic()
        while numbers:
            with contextlib.suppress(queue.Empty):
                future = arrived.get(timeout=0.2)
                done = self._result(future, works[numbers[future.key]])
                number = numbers.pop(future.key)
                self.places[done.place] += 1
                count.finish(number)
                finished(works[number], done.result)
            count.report()
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                fence.keep_up()
                with self._plain_words():
                    if any(worker["resources"].get(REGION) for worker in self._workers().values()):
                        staffed = looked
                if looked - staffed > self.wait_s:
                    raise ClusterError(
                        f"the Dask scheduler at {self.scheduler} has had no workers for {self.wait_s:g} s, and "
                        f"{len(numbers)} of {len(works)} regions are not done: look at the workers' logs, start some "
                        "more, and run the same command again"
                    )
        self.client.unsubscribe_topic(topic)

    def _result(self, future: Future, work: RegionWork) -> Done:
        if future.status == "cancelled":
            raise self._gone()
        with self._plain_words():
            error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            rows, columns = work.region.rows, work.region.columns
            raise ClusterError(
                f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop}: "
                f"{error.allowed_failures + 1} Dask workers died while they wrote these, the last one "
                f"{error.last_worker.address}: look at its log (a --memory-limit that is too small?) and run the same "
                "command again"
            ) from None
        if error is not None:
            raise error from None
        with self._plain_words():
            done: Done = future.result()
        return done

    # After the work

    def _leave(self, folder: Path, fence: Fence, futures: list[Future], orderly: bool) -> None:
        """Nobody writes any more once this returns, as far as can be known within a minute."""
        fence.take_down()
        connected = self.client.status == "running"
        if connected:
            with contextlib.suppress(Exception):
                if not orderly:
                    self.client.cancel(futures)
                self.client.unregister_worker_plugin(fence.folder.name)
        lost = bool(fence.writers())
        begun = time.monotonic()
        while writers := fence.writers():
            waited = time.monotonic() - begun
            # Marks of workers that Dask does not know any more are those of the dead, or of some about to die.
            if connected and waited > _LOST_S and not writers & self._live_marks():
                break
            if waited > _STOP_S:
                self.say(f"{len(writers)} workers have not stopped within {_STOP_S:g} s: see to it that they do")
                break
            time.sleep(0.1)
        fence.remove()
        if lost:
            for rest in folder.rglob(".*.part"):  # of shards that dead workers had begun
                rest.unlink(missing_ok=True)

    def _live_marks(self) -> set[str]:
        try:
            return {mark_of(address) for address in self._workers()}
        except Exception:  # noqa: BLE001 - Dask has many; whatever it is, the scheduler does not answer
            return set()

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the Dask scheduler at {self.scheduler} is gone: start it again and run the same command again"
        )

    @contextlib.contextmanager
    def _plain_words(self) -> Iterator[None]:
        """Around calls of Dask's: what it raises when the scheduler goes away is of many types."""
        try:
            yield
        except NisslError:
            raise
        except Exception as error:
            if self.client.status == "running" and not isinstance(error, OSError):
                raise
            raise self._gone() from error


class _Count:
    """Voxels read, of all regions together; never less than was said before, also where a region starts anew."""

    def __init__(self, works: Sequence[RegionWork], progress: Progress) -> None:
        self._works = works
        self._progress = progress
        self._reports: queue.SimpleQueue[tuple[int, str, int]] = queue.SimpleQueue()
        self._read: dict[int, tuple[str, int]] = {}
        self._finished: set[int] = set()
        self._said = 0

    def hear(self, event: tuple[float, list[Any]]) -> None:
        """Called by Dask, in a thread of its own."""
        number, attempt, voxels = event[1]
        self._reports.put((number, attempt, voxels))

    def finish(self, number: int) -> None:
        self._finished.add(number)

    def report(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number, attempt, voxels = self._reports.get_nowait()
                self._read[number] = (attempt, voxels)
        now = sum(self._works[number].voxels for number in self._finished)
        now += sum(voxels for number, (_, voxels) in self._read.items() if number not in self._finished)
        if now > self._said:
            self._progress(now - self._said)
            self._said = now


def _versions_that_matter(packages: dict[str, str | None]) -> dict[str, str | None]:
    """What must agree beside Nissl: pickles of Python's and NumPy's travel, over Dask's own protocol."""
    return {
        "python": _first(packages.get("python"), 2),
        "numpy": _first(packages.get("numpy"), 1),
        "distributed": packages.get("distributed"),
    }


def _require_same(worker: str, name: str, there: str | None, here: str | None) -> None:
    if there != here:
        raise ClusterError(
            f"worker {worker} has {name} {there}, but {here} runs here: start the workers from the environment of this "
            "command"
            if there
            else f"worker {worker} has no {name}: start the workers from the environment of this command"
        )


def _first(version: str | None, numbers: int) -> str | None:
    return None if version is None else ".".join(version.split(".")[:numbers])


def _connect(scheduler: str, wait_s: float, say: Say) -> tuple[Client, str]:
    deadline = time.monotonic() + wait_s
    said = False
    while True:
        address, problem = _address(scheduler)
        if address is not None:
            client, problem = _try(address, min(_CONNECT_S, max(wait_s, 0.5)))
            if client is not None:
                return client, address
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{problem} after {wait_s:g} s: start `dask scheduler` and name its address, as in tcp://host:8786, "
                "or the file of its option --scheduler-file"
            )
        if not said:
            say(f"waiting up to {wait_s:g} s for the Dask scheduler at {scheduler}")
            said = True
        time.sleep(_RETRY_S)


def _try(address: str, timeout_s: float) -> tuple[Client | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # versions are compared later, those that matter
        try:
            return Client(address, timeout=timeout_s, set_as_default=False), ""
        except ValueError as error:  # no such protocol, no such port
            raise ClusterError(
                f"{address} is no address of a Dask scheduler ({error}): give one like tcp://host:8786"
            ) from None
        except OSError:
            return None, f"nobody answers at {address}"


def _address(scheduler: str) -> tuple[str | None, str]:
    """The address that `scheduler` is or, if it names a file, contains; None, and why, where it cannot be said yet."""
    if "://" in scheduler:
        return scheduler, ""
    path = Path(scheduler)
    if not path.exists() and re.fullmatch(r"[\w.-]+:\d+", scheduler):
        return f"tcp://{scheduler}", ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"]), ""
    except FileNotFoundError:
        return None, f"there is no scheduler file {path}"
    except (ValueError, KeyError, TypeError):
        return None, f"{path} is no file that `dask scheduler --scheduler-file` wrote"
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror})"
