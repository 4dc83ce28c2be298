"""Trainings as jobs of SLURM, with a stand-in for it: who acts on which signal, and where a restarted job goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from run_helpers import MakeConfig, last_state
from test_resume import EXTRA, assert_same_training, interrupt_at

from crystalfm.contracts import UserError
from crystalfm.run import network
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.checkpoints.resume_point import checkpoint_of_earlier_start, resume_location
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel import slurm, stamp
from crystalfm.run.parallel.slurm import QueuedAgain, SlurmError, SlurmJob, is_preempted
from crystalfm.run.train import train

RUNNING = "JobId=7 JobName=x JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0"
PREEMPTED = f"{RUNNING} PreemptEligibleTime=2026-01-31T12:00:00 PreemptTime=2026-01-31T12:00:00"
ENDING = RUNNING.replace("RUNNING", "COMPLETING")


class Controller:
    """Stands for ``scontrol``; keeps what it is asked for."""

    def __init__(self) -> None:
        self.description = RUNNING
        self.refuses = False
        self.requeued: list[str] = []

    def __call__(self, *arguments: str) -> str:
        if arguments[0] == "show":
            return self.description
        if self.refuses:
            raise SlurmError("scontrol requeue 7", "Requested operation is presently disabled")
        assert arguments[0] == "requeue"
        self.requeued.append(arguments[1])
        return ""


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No job around the test, and signals as they were after it."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")) or name in {"ENVIRONMENT", "LOCAL_RANK", stamp.STAMP_VARIABLE}:
            monkeypatch.delenv(name)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    """Be the first task of a batch job."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}.items():
        monkeypatch.setenv(name, value)
    found = Controller()
    monkeypatch.setattr(slurm, "scontrol", found)
    return found


BATCH = {"SLURM_JOB_ID": "7", "ENVIRONMENT": "BATCH"}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, None),
        (BATCH, SlurmJob("7")),
        ({**BATCH, "SLURM_PROCID": "1", "SLURM_RESTART_COUNT": "2"}, SlurmJob("7", num_restarts=2, is_first=False)),
        # A data-parallel process that the task of a job started itself.
        ({**BATCH, "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, SlurmJob("7", is_first=False)),
        ({**BATCH, "SUBMITIT_EXECUTOR": "slurm"}, SlurmJob("7", submitit_signal=signal.SIGUSR2)),
        (
            {**BATCH, "SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_PREEMPT_SIGNAL": "USR1"},
            SlurmJob("7", submitit_signal=signal.SIGUSR1),
        ),
    ],
)
def test_the_job_around_this_process(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], job: SlurmJob | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert SlurmJob.current() == job
    assert slurm.is_restarted() == (job is not None and job.num_restarts > 0)


@pytest.mark.parametrize(
    ("description", "preempted"),
    [(RUNNING, False), (f"{RUNNING} PreemptTime=None", False), (PREEMPTED, True), (ENDING, None)],
)
def test_what_slurm_says_of_a_job(description: str, preempted: bool | None) -> None:
    assert is_preempted(description) is preempted


def test_a_missing_or_failing_scontrol(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="scontrol show job"):
        slurm.scontrol("show", "job")
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho Invalid job id >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(SlurmError, match="Invalid job id"):
        slurm.scontrol("requeue", "7")


def stopped_by(number: int, checkpoint: Path = Path("none")) -> None:
    """End a block as a training does that was saved on a signal."""
    with QueuedAgain(checkpoint):
        raise TrainingInterruptedError(number)


@pytest.mark.parametrize(
    ("number", "description", "requeued"),
    [
        (signal.SIGTERM, ENDING, []),  # SLURM queues the job again or not, as it was told
        (signal.SIGTERM, PREEMPTED, ["7"]),
        (signal.SIGTERM, RUNNING, ["7"]),
        (signal.SIGUSR1, RUNNING, ["7"]),
        (signal.SIGUSR2, RUNNING, ["7"]),
    ],
)
def test_after_the_training_is_saved(
    controller: Controller, number: signal.Signals, description: str, requeued: list[str]
) -> None:
    controller.description = description
    with pytest.raises(SystemExit) as left:
        stopped_by(number)
    assert left.value.code == 128 + number
    assert controller.requeued == requeued


def test_the_first_process_acts_for_all(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit) as left:
        stopped_by(signal.SIGUSR2)
    assert (left.value.code, controller.requeued) == (0, [])


def test_ctrl_c_and_other_errors_pass(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingInterruptedError):
        stopped_by(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), QueuedAgain(Path("none")):
        raise ZeroDivisionError
    monkeypatch.delenv("ENVIRONMENT")
    with pytest.raises(TrainingInterruptedError):
        stopped_by(signal.SIGTERM)
    assert controller.requeued == []


def test_a_refused_requeue_is_told(controller: Controller, capsys: pytest.CaptureFixture[str]) -> None:
    controller.refuses = True
    with pytest.raises(SystemExit):
        stopped_by(signal.SIGUSR2)
    assert "presently disabled" in capsys.readouterr().err


def test_a_warning_outside_of_the_training(
    controller: Controller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    with QueuedAgain(checkpoint):
        signal.raise_signal(signal.SIGUSR2)
        # A job that gets nowhere within its time limit would be queued for ever.
        assert controller.requeued == []
        assert "nothing was trained" in capsys.readouterr().err
        checkpoint.write_text("new")
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR2)
    assert controller.requeued == ["7"]
    with QueuedAgain(checkpoint):
        controller.description = PREEMPTED
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR1)
    assert controller.requeued == ["7", "7"]


def test_being_taken_off_the_node_outside_of_the_training(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for description, requeued in ((ENDING, []), (PREEMPTED, ["7"])):
        controller.description = description
        with QueuedAgain(Path("none")), pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        assert controller.requeued == requeued
    monkeypatch.setenv("SLURM_PROCID", "1")
    with QueuedAgain(Path("none")):
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    assert controller.requeued == ["7"]


def test_signals_before_the_run_begins(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        monkeypatch.setenv(stamp.STAMP_VARIABLE, "earlier")
        stamp.begin_run()
        held = [signal.getsignal(number) for number in numbers]
        signal.raise_signal(signal.SIGUSR2)
        assert "nothing was trained" in capsys.readouterr().err
        with QueuedAgain(tmp_path / "last.ckpt"):
            (tmp_path / "last.ckpt").write_text("new")
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGUSR2)
        assert [signal.getsignal(number) for number in numbers] == held
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert controller.requeued == ["7", "7"]
    assert stamp.STAMP_VARIABLE not in os.environ


@pytest.fixture
def submitit(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Have the handlers of a submitit job; the list holds the signals on which it queued itself again."""
    received: list[int] = []

    def requeue(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise RuntimeError("Job not requeued because: timed-out too many times.")
        raise SystemExit(-1)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGUSR2, requeue)
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


def test_submitit_queues_its_own_jobs(controller: Controller, submitit: list[int]) -> None:
    with pytest.raises(SystemExit):
        stopped_by(signal.SIGUSR2)
    assert submitit == [signal.SIGUSR2]
    with pytest.raises(UserError, match=r"timed-out too many times.*\n.*max_num_timeout"):
        stopped_by(signal.SIGUSR1)
    assert controller.requeued == []


@pytest.mark.parametrize(("description", "received"), [(ENDING, []), (PREEMPTED, [signal.SIGUSR2])])
def test_pre_emption_of_a_submitit_job(
    controller: Controller, submitit: list[int], description: str, received: list[int]
) -> None:
    controller.description = description
    with pytest.raises(SystemExit):
        stopped_by(signal.SIGTERM)
    assert (submitit, controller.requeued) == (received, [])


@pytest.fixture
def trained(make_config: MakeConfig, tmp_path: Path) -> Callable[[], None]:
    def run() -> None:
        folder = tmp_path / "parts"
        with QueuedAgain(RunFolder(folder).last):
            train(make_config(*EXTRA), folder)

    return run


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGUSR1, 2), (signal.SIGUSR2, 8), (signal.SIGTERM, 9), (signal.SIGUSR2, 23)]
)
def test_a_stopped_training_goes_on_by_itself(
    controller: Controller,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: Callable[[], None],
    number: signal.Signals,
    step: int,
) -> None:
    train(make_config(*EXTRA), tmp_path / "whole")
    assert last_state(tmp_path / "whole")["global_step"] == 24
    # What Lightning takes for a job of SLURM's, where it would act on SIGUSR1.
    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.setenv(name, "1")
    for name in ("SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    interrupt_at(monkeypatch, step, number)
    with pytest.raises(SystemExit):
        trained()
    assert controller.requeued == ["7"]
    folder = tmp_path / "parts"
    assert last_state(folder)["global_step"] == step + 1
    assert not list(folder.rglob("hpc_ckpt*"))
    interrupt_at(monkeypatch, None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    trained()
    assert_same_training(tmp_path / "whole", folder)
    assert controller.requeued == ["7"]


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_ensemble_goes_on_by_itself(
    controller: Controller, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In the middle of the first member's training, and at its last step, when only the rest is left."""
    folder = RunFolder(tmp_path / "parts")
    cfg = make_config(*EXTRA, "trainer.max_epochs=1", "ensemble=2")
    train(make_config(*EXTRA, "trainer.max_epochs=1", "ensemble=2"), tmp_path / "whole")
    interrupt_at(monkeypatch, step, signal.SIGUSR2)
    with pytest.raises(SystemExit), QueuedAgain(folder.member(1).last, folder.member(2).last):
        train(cfg, folder.root)
    assert controller.requeued == ["7"]
    assert last_state(folder.member(1).root)["global_step"] == step + 1
    assert not folder.member(2).root.exists()
    interrupt_at(monkeypatch, None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(cfg, folder.root)
    for number in (1, 2):
        assert_same_training(RunFolder(tmp_path / "whole").member(number).root, folder.member(number).root)
    assert folder.read_summary()["ensemble"]["seeds"] == [42, 43]


class Twice(Callback):
    """Sends a signal twice within a step, as SLURM and ``srun`` do."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 1:
            for _ in range(2):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, TrainingInterruptedError), (signal.SIGINT, SystemExit)]
)
def test_a_second_signal(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    expected: type[BaseException],
) -> None:
    original = network.NetworkSession._callbacks
    monkeypatch.setattr(
        network.NetworkSession, "_callbacks", lambda self, console: [*original(self, console), Twice(number)]
    )
    with pytest.raises(expected):
        train(make_config(*EXTRA), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file() == (number == signal.SIGTERM)


def stamp_of(monkeypatch: pytest.MonkeyPatch, *argv: str, **environment: str) -> str | None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", list(argv))
        for name, value in environment.items():
            patch.setenv(name, value)
        return stamp.shared_stamp()


def test_a_training_has_one_name_at_every_start_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    name = stamp_of(monkeypatch, "train.py", "seed=1", **BATCH)
    assert name is not None
    assert name.startswith("slurm_7_")
    assert stamp_of(monkeypatch, "train.py", "seed=1", **BATCH, SLURM_RESTART_COUNT="3", SLURM_STEP_ID="1") == name
    assert stamp_of(monkeypatch, "train.py", "seed=1", **BATCH, SLURM_NTASKS="2", SLURM_STEP_ID="0") == name
    assert stamp_of(monkeypatch, "train.py", "seed=2", **BATCH) != name
    assert stamp_of(monkeypatch, "/bin/crystalfm", "train", **BATCH) is not None
    # Other commands may be repeated in a job, each time with a folder of its own.
    assert stamp_of(monkeypatch, "evaluate.py", "ckpt=runs/x", **BATCH) is None
    assert stamp_of(monkeypatch, "train.py", "seed=1", SLURM_JOB_ID="7") is None


def whole_run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    for name in ("last.ckpt", "epoch.ckpt"):
        (folder / "checkpoints" / name).write_text("")
    return folder / "checkpoints" / "last.ckpt"


def test_a_restarted_job_goes_on_where_it_was(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, other = tmp_path / "run" / "slurm_7_abc", tmp_path / "run" / "other"
    saved = whole_run(own)
    newest = whole_run(other)
    os.utime(newest, (2e9, 2e9))
    file = str(other / "checkpoints" / "epoch.ckpt")

    def found(ckpt: str) -> Path | None:
        return resume_location(ckpt, tmp_path, "run")

    assert checkpoint_of_earlier_start(own) is None
    assert (found("auto"), found(file)) == (newest, Path(file))
    monkeypatch.setenv(stamp.STAMP_VARIABLE, own.name)
    # The same command twice in a job is the same run.
    assert checkpoint_of_earlier_start(own) == saved
    assert checkpoint_of_earlier_start(other) is None
    of_multirun = whole_run(own / "0_seed-1")
    assert checkpoint_of_earlier_start(own / "0_seed-1") == of_multirun
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert checkpoint_of_earlier_start(other) == newest
    assert checkpoint_of_earlier_start(tmp_path / "empty") is None
    assert (found("auto"), found(file)) == (saved, newest)
