"""SLURM jobs that are stopped before they are done: saved in time, queued again, gone on with in the same folder.

Who acts on which signal, so that a job is never queued twice:

* SIGTERM comes from SLURM when it takes a job off its node. After ``scontrol requeue`` it queues the job again itself,
  after ``scancel`` it does not; either way nothing is left to do once the training is saved. Only a job that SLURM
  still calls running (a pre-emption with a grace time) has to be queued again by itself, or it would count as ended.
* SIGUSR2 or SIGUSR1 (``sbatch --signal``) warns of the time limit: the job queues itself again. In a submitit job this
  is submitit's to do, which counts the time limits met; it gets the signal once the training is saved.

Lightning would queue the job on SIGUSR1 too, from wherever the training happens to be. It leaves a signal alone that
already has a handler, which is why all of them are taken here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from crystalfm.contracts import UserError
from crystalfm.run.parallel.stamp import in_batch_job, is_child_rank

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType, TracebackType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that announce the end of a job."""

_HANDLED = (*WARNINGS, signal.SIGTERM)
_SIGNAL_BASE = 128
_SCONTROL_SECONDS = 60.0


@dataclass(frozen=True)
class SlurmJob:
    """The job of SLURM's that this process belongs to.

    Attributes:
        id: number of the job; a task of an array has one of its own.
        num_restarts: how often SLURM started it before.
        is_first: whether this is the first process of its run, which decides for all.
        submitit_signal: signal on which submitit queues the job again; ``None`` in jobs that are not submitit's.
    """

    id: str
    num_restarts: int = 0
    is_first: bool = True
    submitit_signal: signal.Signals | None = None

    @classmethod
    def current(cls) -> SlurmJob | None:
        """Return the batch job around this process; ``None`` outside of one and in interactive sessions."""
        known = os.environ.get
        if not in_batch_job():
            return None
        submitit = known("SUBMITIT_EXECUTOR") == "slurm"
        return cls(
            id=str(known("SLURM_JOB_ID")),
            num_restarts=int(known("SLURM_RESTART_COUNT") or 0),
            is_first=not is_child_rank(),
            submitit_signal=signal.Signals[f"SIG{known('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"] if submitit else None,
        )


def is_restarted() -> bool:
    """Say whether SLURM started this job before: it was pre-empted, met its time limit, or lost its node."""
    job = SlurmJob.current()
    return job is not None and job.num_restarts > 0


class SlurmError(Exception):
    """SLURM refused a request or did not answer.

    Args:
        request: what was asked.
        reason: its answer.
    """

    def __init__(self, request: str, reason: str) -> None:
        super().__init__(f"{request}: {reason}")


def scontrol(*arguments: str) -> str:
    """Return what ``scontrol`` has to say.

    Raises:
        SlurmError: it is missing, failed or did not answer.
    """
    request = " ".join(["scontrol", *arguments])
    try:
        done = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, check=False, timeout=_SCONTROL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(request, str(error)) from error
    if done.returncode:
        raise SlurmError(request, done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def is_preempted(description: str) -> bool | None:
    """Read ``scontrol show job``.

    Args:
        description: its output.

    Returns:
        ``None`` when SLURM is already ending the job, else whether it has been chosen to make room for another one.
    """
    fields = dict(re.findall(r"(?:^|\s)(JobState|PreemptTime)=(\S+)", description))
    if fields.get("JobState") != "RUNNING":
        return None
    return fields.get("PreemptTime", "None") not in {"None", "Unknown"}


class QueuedAgain:
    """Lets the batch job around a block go on later when SLURM stops it; does nothing elsewhere.

    A training in the block catches the signals itself and raises an exception with a ``signal_number`` once it is
    saved. Everything else in the block is simply repeated after the restart.

    Args:
        checkpoints: newest states of a run's trainings, which the block writes; none before there is a run.
    """

    def __init__(self, *checkpoints: Path) -> None:
        self._job = SlurmJob.current()
        self._checkpoints = checkpoints
        self._at_start = self._written()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals that nobody else has taken; only the main thread may do so."""
        if self._job is not None and threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                handler = signal.getsignal(number)
                if handler is signal.SIG_DFL or isinstance(getattr(handler, "__self__", None), QueuedAgain):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the node if the block was stopped by SLURM, and give the signals back.

        Raises:
            SystemExit: the job goes on after its next start, or SLURM ends it.
            UserError: the job is over, since it met its time limit too often.
        """
        number = getattr(error, "signal_number", None)
        try:
            if self._job is not None and number in _HANDLED:
                self._leave(self._job, signal.Signals(number))
        finally:
            for taken, handler in self._previous.items():
                signal.signal(taken, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Leave from outside of the training: before its first step or after its last."""
        if self._job is None:
            return
        if number in WARNINGS and not self._job.is_first:
            return
        if self._job.submitit_signal is None and number in WARNINGS and not self._worth_repeating(self._job):
            _tell("SLURM warns of the job's time limit; nothing was trained since its start, so it is not queued again")
            return
        self._leave(self._job, signal.Signals(number))

    def _worth_repeating(self, job: SlurmJob) -> bool:
        """Say whether a warned job gets further by another start: a limit that is too short would never end."""
        return self._written() != self._at_start or _asked_whether_preempted(job) is True

    def _written(self) -> int | None:
        return max((path.stat().st_mtime_ns for path in self._checkpoints if path.is_file()), default=None)

    def _leave(self, job: SlurmJob, number: signal.Signals) -> None:
        if not job.is_first:
            # Nothing went wrong: with srun --kill-on-bad-exit an error here would kill the first process.
            raise SystemExit(0)
        if number in WARNINGS or _asked_whether_preempted(job) is not None:
            _queue_again(job)
        raise SystemExit(_SIGNAL_BASE + number)


def hold_signals() -> None:
    """Take the signals of a batch job for the rest of this process, so that none kills it before its run begins.

    Python and its libraries may need a minute on a busy file system. Blocks of ``QueuedAgain`` take over from here.
    """
    QueuedAgain().__enter__()


def _asked_whether_preempted(job: SlurmJob) -> bool | None:
    """Ask SLURM for ``is_preempted``; without an answer the job is taken to be ending."""
    try:
        return is_preempted(scontrol("show", "job", "-o", job.id))
    except SlurmError as error:
        _tell(f"SLURM did not say what becomes of the job ({error})")
        return None


def _queue_again(job: SlurmJob) -> None:
    """Queue the job again.

    Raises:
        SystemExit: submitit did so and ends the process.
        UserError: submitit refuses, since the job met its time limit too often.
    """
    if job.submitit_signal is not None:
        try:
            signal.raise_signal(job.submitit_signal)
        # Submitit's own error is one too.
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise UserError(
                f"the job was saved and is not queued again: {error}",
                remedy="train on with ckpt=FOLDER of the job, and give hydra.launcher.timeout_min more minutes"
                " or hydra.launcher.max_num_timeout a larger number",
            ) from error
        return
    # Before the request: SLURM may end this process before the answer is here.
    _tell(f"queueing job {job.id} again; it goes on in its run folder")
    try:
        scontrol("requeue", job.id)
    except SlurmError as error:
        _tell(f"the job could not be queued again ({error}); go on with ckpt= and the run folder")


def _tell(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
