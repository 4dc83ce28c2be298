"""A resumed run equals an uninterrupted one bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from run_helpers import MakeConfig, assert_same_training, interrupt_at, last_state

from crystalfm.contracts import UserError
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.checkpoints.resume import ExactResume
from crystalfm.run.train import train
from crystalfm.run.trainer_session import predict_rows

EXTRA = [
    "trainer.max_epochs=4",
    "model.dropout=0.1",
    "data.bucket_by_length=true",
    "optimizer.lr=0.01",
    "scheduler.patience=0",
]


@pytest.fixture
def whole(make_config: MakeConfig, tmp_path: Path) -> Path:
    train(make_config(*EXTRA), tmp_path / "whole")
    return tmp_path / "whole"


def test_resume_at_an_epoch_boundary(make_config: MakeConfig, tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "parts"
    train(make_config(*EXTRA, "trainer.max_epochs=2"), folder)
    train(make_config(*EXTRA, f"ckpt={folder}"), tmp_path / "unused")
    assert not (tmp_path / "unused" / "config.yaml").exists()
    assert_same_training(whole, folder)


def test_the_time_of_all_parts_counts(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    train(make_config(*EXTRA, "trainer.max_epochs=2"), folder)
    state = last_state(folder)
    own = json.loads((folder / "summary.json").read_text())["training"]["train_time_seconds"]
    elapsed = state["callbacks"]["Timer"]["time_elapsed"]
    assert 0 < elapsed["train"] <= own
    elapsed["train"] = 5000.0
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    train(make_config(*EXTRA, f"ckpt={folder}"), folder)
    training = json.loads((folder / "summary.json").read_text())["training"]
    assert 5000 < training["train_time_seconds"] < training["wall_time_seconds"] < 5500


def test_the_time_limit_counts_all_parts(make_config: MakeConfig, tmp_path: Path) -> None:
    def epochs_after(*overrides: str) -> int:
        train(make_config("trainer.max_epochs=300", *overrides), tmp_path / "run")
        found: int = json.loads((tmp_path / "run" / "summary.json").read_text())["training"]["num_epochs"]
        return found

    stopped = epochs_after("trainer.max_minutes=0.02")
    assert 0 < stopped < 300
    assert epochs_after("trainer.max_minutes=0.02", f"ckpt={tmp_path / 'run'}") <= stopped + 1


@pytest.mark.parametrize("steps", [[2], [8], [3, 9], [6], [0, 1, 17]])
def test_resume_in_mid_epoch(
    make_config: MakeConfig, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    folder = tmp_path / "parts"
    for number, step in enumerate(steps):
        interrupt_at(monkeypatch, step)
        point = [f"ckpt={folder}"] if number else []
        with pytest.raises(TrainingInterruptedError):
            train(make_config(*EXTRA, *point), folder)
        assert last_state(folder)["global_step"] >= step + 1
    interrupt_at(monkeypatch, None)
    train(make_config(*EXTRA, f"ckpt={folder}"), folder)
    assert_same_training(whole, folder)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.val_check_interval=0.5"],
        ["trainer.accumulate_grad_batches=2"],
        ["scheduler=cosine", "scheduler.warmup_steps=3"],
        ["callbacks.ema_decay=0.9"],
        ["data.num_workers=2"],
        ["callbacks.early_stopping_patience=50", "model.modality_dropout=0.3"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_resume_with_other_settings(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    settings = [*EXTRA, "trainer.max_epochs=3", *overrides]
    train(make_config(*settings), tmp_path / "whole")
    folder = tmp_path / "parts"
    interrupt_at(monkeypatch, 3)
    with pytest.raises(TrainingInterruptedError):
        train(make_config(*settings), folder)
    interrupt_at(monkeypatch, None)
    train(make_config(*settings, f"ckpt={folder}"), folder)
    assert_same_training(tmp_path / "whole", folder)


def test_periodic_checkpoints_do_not_change_the_training(make_config: MakeConfig, tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "periodic"
    train(make_config(*EXTRA, "callbacks.checkpoint_every_n_steps=2"), folder)
    assert_same_training(whole, folder)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_states_saved_every_few_epochs_lose_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, step: int
) -> None:
    """Whether the signal comes within an epoch or at its last step, after which no state is due."""
    settings = [*EXTRA, "callbacks.checkpoint_every_n_epochs=3"]
    saved: list[int] = []
    original = ExactResume._save

    def counted(self: Any, trainer: Any, *, epoch: int, batch: int) -> None:
        saved.append(trainer.global_step)
        original(self, trainer, epoch=epoch, batch=batch)

    monkeypatch.setattr(ExactResume, "_save", counted)
    folder = tmp_path / "parts"
    interrupt_at(monkeypatch, step)
    with pytest.raises(TrainingInterruptedError):
        train(make_config(*settings), folder)
    assert saved == [step + 1]
    interrupt_at(monkeypatch, None)
    train(make_config(*settings, f"ckpt={folder}"), folder)
    assert len(saved) == 3  # where it was stopped, after the third epoch, at the end
    assert_same_training(whole, folder)


def test_termination_signal_leaves_a_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupt_at(monkeypatch, 1, signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError, match="SIGTERM"):
        train(make_config(*EXTRA), tmp_path / "run")
    assert last_state(tmp_path / "run")["global_step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


class SignalWhilePredicting(Callback):
    """Sends this process a termination signal in the first batch of the predictions."""

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # time for the handler to run


def test_termination_signal_ends_the_final_predictions(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        original = predict_rows
        patch.setattr(
            "crystalfm.run.trainer_session.predict_rows",
            lambda *args, callbacks: original(*args, callbacks=[*callbacks, SignalWhilePredicting()]),
        )
        with pytest.raises(TrainingInterruptedError, match="SIGTERM"):
            train(make_config(*EXTRA), tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "run" / "predictions.parquet").exists()
    train(make_config(*EXTRA, f"ckpt={tmp_path / 'run'}"), tmp_path / "unused")
    assert_same_training(whole, tmp_path / "run")
    assert (tmp_path / "run" / "predictions.parquet").exists()


def test_signals_are_given_back_after_a_normal_end(make_config: MakeConfig, tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    train(make_config("trainer.max_epochs=1"), tmp_path / "run")
    assert [signal.getsignal(number) for number in numbers] == before


def test_auto_finds_the_newest_run_of_the_name(make_config: MakeConfig, tmp_path: Path, whole: Path) -> None:
    first = tmp_path / "runs" / "mine" / "1"
    train(make_config(*EXTRA, "trainer.max_epochs=2", "name=mine", "ckpt=auto"), first)
    train(make_config(*EXTRA, "name=mine", "ckpt=auto"), tmp_path / "runs" / "mine" / "2")
    assert not (tmp_path / "runs" / "mine" / "2").exists()
    assert_same_training(whole, first)


def test_a_changed_setting_is_refused_and_shown(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(make_config("trainer.max_epochs=1"), folder)
    with pytest.raises(UserError, match=r"! optimizer\.lr: 0\.001 -> 0\.5") as caught:
        train(make_config(f"ckpt={folder}", "optimizer.lr=0.5", "trainer.max_epochs=3"), folder)
    assert "trainer.max_epochs: 1 -> 3" in str(caught.value)


def test_changed_data_are_refused(make_config: MakeConfig, tmp_path: Path, molecule_csv: Path) -> None:
    folder = tmp_path / "run"
    train(make_config("trainer.max_epochs=1"), folder)
    molecule_csv.write_text(molecule_csv.read_text().replace("m0,", "m_zero,"))
    with pytest.raises(UserError, match="records changed"):
        train(make_config(f"ckpt={folder}", "trainer.max_epochs=2"), folder)


def test_weights_alone_cannot_be_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(make_config("trainer.max_epochs=1"), folder)
    with pytest.raises(UserError, match="weights only"):
        train(make_config(f"ckpt={folder / 'checkpoints' / 'best.ckpt'}"), folder)
