"""The other processes of a run on this machine: started when the data are ready, watched, and never left behind.

Lightning would start them itself, but kills all processes when one ends with an error, so that neither its message nor
its exit code would reach the user. To Lightning these look like processes of a job scheduler.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from crystalfm.contracts import UserError
from crystalfm.run.parallel.distributed import disconnect, lost_contact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

PARENT_VARIABLE = "CRYSTALFM_PARENT_PID"
"""Environment variable with the number of the process that started this rank."""

USER_PROVIDER = "user"
"""Hydra's name for the user's own configuration folders, as ``config.compose`` registers them."""

_CHANGED_VARIABLES = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS"),
    PARENT_VARIABLE,
)
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
"""Time in which the ranks of a run end by themselves after the first of them has ended with an error."""

_SHOWN_LINES = 25


class RankError(UserError):
    """A process of a distributed run failed alone.

    Args:
        rank: its local rank.
        code: its return code, negative for a signal.
        log: what it wrote.
    """

    def __init__(self, rank: int, code: int, log: Path) -> None:
        what = f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        hint = " (killed processes often had no memory left)" if code == -signal.SIGKILL else ""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        tail = "\n  ".join(lines[-_SHOWN_LINES:])
        super().__init__(f"rank {rank} {what}{hint}", remedy=f"the end of {log}:\n  {tail}")
        self.exit_code = code if code > 0 else 128 - code


class LocalRanks:
    """The ranks beside the first.

    Args:
        num_processes: processes of the run on this machine, this one included.
        command: command line of a rank, without what differs between ranks.
        folder: run folder; rank N writes to ``rank_N.log`` there and not to the terminal.
    """

    def __init__(self, num_processes: int, command: Sequence[str], folder: Path) -> None:
        self._num_processes = num_processes
        self._command = list(command)
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()

    def start(self) -> None:
        """Start them and watch over them."""
        for local_rank in range(1, self._num_processes):
            environment = {**os.environ, "LOCAL_RANK": str(local_rank), PARENT_VARIABLE: str(os.getpid())}
            command = [*self._command, f"hydra.job.name=rank_{local_rank}"]
            with self._log(local_rank).open("ab") as stream:
                self._processes[local_rank] = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
                )
        threading.Thread(target=self._watch, name="rank-watcher", daemon=True).start()

    def _log(self, local_rank: int) -> Path:
        return self._folder / f"rank_{local_rank}.log"

    def failure(self) -> RankError | None:
        """Return the error of a rank that has ended with one, if any has."""
        for local_rank, process in self._processes.items():
            code = process.poll()
            if code:
                return RankError(local_rank, code, self._log(local_rank))
        return None

    def _watch(self) -> None:
        """End this process if it does not end by itself after a rank has failed.

        It may be waiting for the lost rank in a call that no exception reaches.
        """
        while not self._over.wait(_POLL_SECONDS):
            if self.failure() is not None and not self._over.wait(_GRACE_SECONDS):
                failure = self.failure()
                self._kill()
                if failure is not None:
                    Console(stderr=True, highlight=False).print(f"error: {failure}", markup=False, soft_wrap=True)
                    sys.stdout.flush()
                    os._exit(failure.exit_code)

    def __enter__(self) -> Self:
        """Start them."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for them, or stop them after an exception.

        Raises:
            RankError: one of them failed; takes the place of the exception that followed from it here.
        """
        if error is None:
            self.finish()
            return
        failure = self.abandon(error)
        if failure is not None:
            raise failure from None

    def finish(self) -> None:
        """Wait for the ranks after the common work is done.

        Raises:
            RankError: one of them failed or hangs.
        """
        self._wait(_GRACE_SECONDS * self._num_processes)
        self._over.set()
        failure = self.failure()
        self._kill()
        if failure is not None:
            raise failure

    def abandon(self, error: BaseException) -> RankError | None:
        """Stop the ranks after an exception here; return the failure of another rank that caused it, if one did."""
        self._wait(_GRACE_SECONDS if lost_contact(error) else _GRACE_SECONDS / 2)
        self._over.set()
        failure = self.failure() if lost_contact(error) else None
        self._kill()
        return failure

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in self._processes.values()):
            time.sleep(_POLL_SECONDS / 4)

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def local_ranks(num_processes: int | None, folder: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Run the other ranks of this machine beside the block.

    Args:
        num_processes: processes on this machine; ``None`` when something else starts them, or none are needed.
        folder: run folder.
        overrides: what the ranks are told beyond the overrides of this run.

    Raises:
        RankError: another rank failed.
        UserError: this process was not started by the command line.
    """
    if num_processes is None:
        yield
        return
    before = {name: os.environ.get(name) for name in _CHANGED_VARIABLES}
    ranks = LocalRanks(num_processes, rank_command(folder, overrides) if num_processes > 1 else [], folder)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    os.environ.setdefault("NODE_RANK", "0")
    os.environ["LOCAL_RANK"] = "0"
    try:
        with ranks:
            yield
    finally:
        disconnect()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def rank_command(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command line that repeats the present job of Hydra's in the same run folder.

    Raises:
        UserError: no job is running.
    """
    if not HydraConfig.initialized():
        raise UserError(
            "training in several processes needs the command line",
            remedy="start it with python train.py, or one device",
        )
    hydra_cfg: Any = HydraConfig.get()
    told = [str(item) for item in hydra_cfg.overrides.task]
    replaced = {item.partition("=")[0] for item in overrides}
    told = [item for item in told if item.lstrip("+").partition("=")[0] not in replaced]
    task = str(hydra_cfg.job.config_name)
    command = [sys.executable, "-m", "crystalfm", task, *_config_dir(hydra_cfg), *told, *overrides]
    return [*command, f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]


def _config_dir(hydra_cfg: Any) -> list[str]:
    """Return the option that names the user's own folder of groups, if one was given."""
    own = [source.path for source in hydra_cfg.runtime.config_sources if source.provider == USER_PROVIDER]
    given = [folder for folder in own if Path(folder) != Path.cwd() / "conf"]
    return ["--config-dir", given[0]] if given else []


def quoted(path: Path) -> str:
    """Return a path as a value of an override."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def follow_parent() -> None:
    """End this process when the one that started it is gone; does nothing in a process that is no such rank."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        threading.Thread(target=_follow, args=(int(parent),), name="parent-watcher", daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS * 5)
    os._exit(1)
