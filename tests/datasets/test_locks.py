"""One writer at a time, and what killed writers leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nissl.datasets.git import git
from nissl.datasets.locks import exclusive, remove_tree, workshop

WORKER = """
import sys, time
from pathlib import Path
from nissl.datasets.locks import workshop
with workshop(Path(sys.argv[1])) as folder:
    (folder / "half-made").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def a_worker(bench: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process at work in a folder below `bench`."""
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(bench)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_workshop_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with workshop(tmp_path / "work") as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()
    with pytest.raises(RuntimeError), workshop(tmp_path / "work") as folder:
        raise RuntimeError
    assert not folder.exists()


def test_the_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    bench = tmp_path / "work"
    killed, dead = a_worker(bench)
    killed.kill()
    killed.communicate()
    living, alive = a_worker(bench)
    try:
        assert not dead.exists(), "the next worker clears the bench"
        with workshop(bench) as mine:
            assert alive.exists()
            assert mine.exists()
    finally:
        living.kill()
        living.communicate()
    with workshop(bench):
        assert not alive.exists()


def test_write_protected_folders_of_git_annex_are_removed_too(tmp_path: Path) -> None:
    inner = tmp_path / "objects" / "key"
    inner.mkdir(parents=True)
    (inner / "content").write_text("x")
    inner.chmod(0o500)
    remove_tree(tmp_path / "objects")
    assert not (tmp_path / "objects").exists()


def test_many_workshops_on_one_bench_do_not_disturb_each_other(tmp_path: Path) -> None:
    bench, errors = tmp_path / "work", list[BaseException]()

    def come_and_go() -> None:
        try:
            for _ in range(30):
                with workshop(bench) as folder:
                    (folder / "file").write_text("x")
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in bench.iterdir()] == [".lock"]


def test_git_started_under_a_lock_holds_it_when_its_parent_is_killed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "alias.slow", "!sleep 2")
    script = (
        "import sys; from pathlib import Path; from nissl.datasets.git import git; "
        "from nissl.datasets.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1]) / 'lock'): print('held', flush=True); git(Path(sys.argv[1]), 'slow')"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    with exclusive(tmp_path / "lock"):
        assert time.monotonic() - began > 0.5
