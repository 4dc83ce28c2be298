"""What a training says while it runs."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from crystalfm.run.tracking import console
from crystalfm.run.tracking.console import TrainingProgress


def trainer(batches: int, epoch: int) -> Any:
    """Return what the line reads of a trainer: 4 epochs of 10 batches, so many of them done."""
    return SimpleNamespace(
        max_epochs=4,
        current_epoch=epoch,
        num_training_batches=10,
        world_size=1,
        callback_metrics={},
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batches - 1)),
    )


@pytest.mark.parametrize(("before", "done", "left"), [(0, 20, 100), (20, 30, 100), (25, 30, 200), (30, 40, 0)])
def test_a_resumed_training_says_what_its_own_pace_leaves(
    before: int, done: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, clock = io.StringIO(), iter([1000.0, *[1100.0] * 10])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    line = TrainingProgress(Console(file=written, width=200))
    line.on_train_start(trainer(before, before // 10), cast("Any", None))
    line.on_train_batch_end(trainer(done, 0), cast("Any", None), None, {"row": torch.arange(4)}, 0)
    line.on_train_epoch_end(trainer(done, done // 10 - 1), cast("Any", None))
    assert f"epoch {done // 10}/4" in written.getvalue()
    assert written.getvalue().rstrip().endswith(f"100 s, {left} s left")
