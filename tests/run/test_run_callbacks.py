"""Stopping on a bad loss, and the metrics table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from run_helpers import MakeConfig

from crystalfm.models.llm_fusion import LLMFusion
from crystalfm.run.callbacks import NonFiniteLossError
from crystalfm.run.tracking.metrics_logger import MetricsTable
from crystalfm.run.train import train


def test_a_loss_that_is_not_finite_names_the_rows_of_its_batch(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LLMFusion.loss
    batches: list[list[int]] = []

    def broken(self: LLMFusion, standardised: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        loss, count = original(self, standardised, batch)
        if self.training:
            batches.append(batch["row"].tolist())
            loss = loss * float("nan") if len(batches) == 3 else loss
        return loss, count

    monkeypatch.setattr(LLMFusion, "loss", broken)
    with pytest.raises(NonFiniteLossError, match="step 2") as caught:
        train(make_config(), tmp_path / "run")
    assert all(f"m{row}" in str(caught.value) for row in batches[2])
    assert len(batches) == 3


def test_the_guard_can_be_turned_off(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LLMFusion.loss
    monkeypatch.setattr(
        LLMFusion, "loss", lambda self, out, batch: (original(self, out, batch)[0] * float("nan"), torch.tensor(1))
    )
    train(make_config("callbacks.stop_on_nan=false", "trainer.max_epochs=1"), tmp_path / "run")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_metrics_of_a_step_share_a_row(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"train/loss": 0.5, "epoch": 0}, step=3)
    table.log_metrics({"val/loss": 0.25}, step=3)
    table.log_metrics({"train/loss": 0.1}, step=7)
    table.save()
    rows = read(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["3", "7"]
    assert (rows[0]["train/loss"], rows[0]["val/loss"], rows[1]["val/loss"]) == ("0.5", "0.25", "")


def test_rows_beyond_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    before = MetricsTable(path)
    for step in range(6):
        before.log_metrics({"train/loss": float(step)}, step=step)
    before.save()
    after = MetricsTable(path)
    after.resume_from(3)
    after.log_metrics({"train/loss": 40.0}, step=4)
    after.save()
    assert [float(row["train/loss"]) for row in read(path)] == [0, 1, 2, 3, 40]


def test_a_table_without_rows_writes_nothing(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.resume_from(5)
    table.finalize("success")
    assert not (tmp_path / "metrics.csv").exists()
