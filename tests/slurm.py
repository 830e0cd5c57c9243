"""A real Slurm on this machine: one node, its own munge key, ports and folders, as the user who runs the tests.

No systemd, no cgroups, no accounting: what is left is `sbatch`, `srun`, `squeue` and `scancel` as on a cluster. Jobs
see a node with more CPUs than there are, so that several run side by side on a small machine.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
_CPUS = 16  # and memory, as little real
_START_S = 60.0

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=65536 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmError(AssertionError):
    """Slurm did not start, or did not do what a test needs; the message ends with its logs."""


def _path() -> str:
    """Where programs are: those of this environment, which jobs run too, and the daemons where Debian has them."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])


def missing_programs() -> list[str]:
    """What a Slurm of one node needs and this machine lacks."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]


@dataclass(frozen=True)
class Slurm:
    """A running Slurm. Give `env` to whatever is to find it."""

    folder: Path
    """Its logs, and the output of jobs."""
    env: Mapping[str, str]

    def run(self, *command: str | Path) -> str:
        """What a command of Slurm's prints; it must succeed."""
        done = subprocess.run(
            list(map(str, command)), env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise SlurmError(f"{command} failed: {done.stdout}{done.stderr}\n{self.logs()}")
        return done.stdout

    def sbatch(self, script: Path, *options: str) -> int:
        """Submit a script; its output goes to `<job>.out` in the folder. Returns the job's id."""
        output = f"--output={self.folder}/%j.out"
        return int(self.run("sbatch", "--parsable", output, f"--chdir={self.folder}", *options, script))

    def state(self, job: int) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ..."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()

    def wait(self, job: int, *states: str, timeout_s: float = 120.0) -> str:
        """Wait until a job is in one of `states`."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job)) not in states:
            if time.monotonic() > deadline:
                raise SlurmError(
                    f"job {job} is {state} after {timeout_s:g} s, not {' or '.join(states)}\n{self.output(job)}"
                )
            time.sleep(0.2)
        return state

    def output(self, job: int) -> str:
        file = self.folder / f"{job}.out"
        return file.read_text() if file.exists() else ""

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A Slurm with one idle node; leaving cancels all jobs and stops everything. Raises SlurmError."""
    # A short path: Unix sockets have names of at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        for variable in [variable for variable in env if variable.startswith("SLURM_") and variable != "SLURM_CONF"]:
            del env[variable]  # these tests may themselves run inside a job
        _configure(folder)
        slurm = Slurm(folder, env)
        with contextlib.ExitStack() as daemons:
            daemons.enter_context(_daemon(slurm, "munged", *_munge_options(folder)))
            _wait_for(slurm, (folder / "munge.socket").exists, "munged made no socket")
            daemons.enter_context(_daemon(slurm, "slurmctld", "-D", "-i"))
            daemons.enter_context(_daemon(slurm, "slurmd", "-D"))
            _wait_for(slurm, lambda: _node_state(slurm) == "idle", "the node is not idle")
            try:
                yield slurm
            finally:
                _cancel_all(slurm)


def _configure(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    controller_port, node_port = _free_ports(2)
    text = _CONFIGURATION.format(
        host=socket.gethostname().split(".")[0],
        user=getpass.getuser(),
        folder=folder,
        controller_port=controller_port,
        node_port=node_port,
        cpus=_CPUS,
    )
    (folder / "slurm.conf").write_text(text)


def _munge_options(folder: Path) -> list[str]:
    files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log"}
    files |= {"pid-file": "munge.pid", "seed-file": "munge.seed"}
    # --force: it finds that others could write into /tmp, above this folder.
    return ["--foreground", "--force", *(f"--{option}={folder / file}" for option, file in files.items())]


@contextlib.contextmanager
def _daemon(slurm: Slurm, *command: str) -> Iterator[None]:
    with (slurm.folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=slurm.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(slurm: Slurm, ready: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > deadline:
            raise SlurmError(f"{complaint} after {_START_S:g} s\n{slurm.logs()}")
        time.sleep(0.1)


def _node_state(slurm: Slurm) -> str:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=slurm.env, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _cancel_all(slurm: Slurm) -> None:
    """Cancel what still runs, and wait until it is gone: jobs outlive the node's daemon."""
    slurm.run("scancel", f"--user={getpass.getuser()}")
    _wait_for(slurm, lambda: not slurm.run("squeue", "--noheader").strip(), "jobs still run")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
