"""A real SLURM of one node for tests, with a key, ports and a folder of its own: another SLURM here is left alone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from debian_packages import NoProgramError, require_programs

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
START_SECONDS = 60.0
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits for as long as its old credential is valid.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def require_slurm() -> None:
    """Install SLURM where it is missing and this process may do so.

    Raises:
        NoProgramError: it is missing and cannot be installed, or this process may not start it.
    """
    if os.geteuid() != 0:
        raise NoProgramError("a node of SLURM has to be started as root")
    require_programs("SLURM", PACKAGES, PROGRAMS)


def free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


class SlurmNode:
    """A controller and a node of this machine, from ``with`` to its end."""

    def __init__(self) -> None:
        # Paths of sockets have to be short, and munge wants a folder that everybody can enter.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.host = socket.gethostname().partition(".")[0]
        self.configuration = self.folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know, without what a surrounding job of another SLURM has set."""
        known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        return {**known, "SLURM_CONF": str(self.configuration)}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        ports = free_ports(2)
        self.configuration.write_text(CONFIGURATION.format(host=self.host, folder=self.folder, ports=ports))
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        munge = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._run_daemon("munged", "--foreground", "--force", *munge)
        self._until((self.folder / "munge.socket").exists, "munged did not start")
        self._run_daemon("slurmctld", "-D", "-f", str(self.configuration))
        self._run_daemon("slurmd", "-D", "-f", str(self.configuration), "-N", self.host)
        self._until(
            lambda: self.client("sinfo", "-h", "-o", "%T", check=False).strip() == "idle", "the node is not idle"
        )

    def _run_daemon(self, program: str, *arguments: str) -> None:
        # Ends with this process, whatever becomes of it.
        prefix = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with (self.folder / f"{program}.out").open("wb") as stream:
            self._daemons.append(
                subprocess.Popen(
                    [*prefix, program, *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            )

    def _until(self, condition: Callable[[], bool], problem: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self._daemons):
                raise RuntimeError(f"{problem}:\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        """Return the ends of what the daemons wrote."""
        files = [path for path in sorted(self.folder.glob("*.*")) if path.suffix in {".log", ".out"}]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in files)

    def _stop(self) -> None:
        if len(self._daemons) > 1:
            self.client("scancel", "--full", "--signal=KILL", "--state=RUNNING", "--user=root", check=False)
            self.client("scancel", "--user=root", check=False)
            end = time.monotonic() + 20
            while self.client("squeue", "-h", check=False).strip() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._left():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> list[psutil.Process]:
        """Return what runs under this SLURM: a step of a lost job outlives the daemons."""
        mark = f"SLURM_CONF={self.configuration}\0".encode()
        found = []
        for process in psutil.process_iter():
            # Read as bytes: a daemon that renames itself overwrites the beginning.
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{process.pid}/environ").read_bytes():
                    found.append(process)
        return found

    def client(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run a program of SLURM's and return its output."""
        done = subprocess.run(
            [program, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def submit(self, script: str, output: Path, *options: str, **variables: str) -> str:
        """Queue a batch script and return the job's number."""
        file = output.with_suffix(".sh")
        file.write_text(f"#!/bin/bash\n{script}\n")
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        given = ["--parsable", "--open-mode=append", f"--output={output}", f"--export={exported}", *options]
        return self.client("sbatch", *given, str(file)).strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller knows of a job."""
        return dict(re.findall(r"(?:^|\s)([\w/:]+)=(\S*)", self.client("scontrol", "show", "job", "-o", number)))

    def wait(self, *numbers: str, seconds: float = 150) -> list[dict[str, str]]:
        """Wait for the end of jobs."""
        end = time.monotonic() + seconds
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
        while not all(self.job(number)["JobState"] in over for number in numbers):
            if time.monotonic() > end:
                raise TimeoutError(f"{[self.job(number)['JobState'] for number in numbers]}\n{self.logs()}")
            time.sleep(0.3)
        return [self.job(number) for number in numbers]
