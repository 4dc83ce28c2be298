"""What the tests of runs share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from crystalfm.run.trainer_session import TrainerSession

MakeConfig = Callable[..., DictConfig]

TINY = [
    "llm.width=16",
    "llm.num_layers=1",
    "llm.num_heads=2",
    "encoders.smiles.width=16",
    "encoders.smiles.num_layers=1",
    "encoders.smiles.num_heads=2",
    "encoders.smiles.dropout=0.1",
    "encoders.fingerprint.num_bits=64",
    "modalities=[smiles,fingerprint]",
    "data=csv",
    "data.targets=[energy,gap]",
    "data.units={energy:eV,gap:hartree}",
    "data.batch_size=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar=false",
]


def molecules(num: int) -> list[str]:
    """Return distinct chains of carbon, nitrogen and oxygen."""
    found: list[str] = []
    length = 2
    while len(found) < num:
        for place in range(length):
            for atom in "NOS":
                chain = ["C"] * length
                chain[place] = atom
                text = "".join(chain)
                if place < (length + 1) // 2:
                    found.append(text)
        length += 1
    return found[:num]


def last_state(folder: Path) -> dict[str, Any]:
    """Return the newest training state of a run folder."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


class SignalAtStep(Callback):
    """Sends this process a signal in the middle of one training step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.number = number

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int | None, number: signal.Signals = signal.SIGINT) -> None:
    original = (
        TrainerSession._callbacks.__wrapped__
        if hasattr(TrainerSession._callbacks, "__wrapped__")
        else TrainerSession._callbacks
    )

    def with_signal(self: Any, console: Any) -> list[Callback]:
        extra = [] if step is None else [SignalAtStep(step, number)]
        return [*original(self, console), *extra]

    with_signal.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(TrainerSession, "_callbacks", with_signal)


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert first == second, where


def assert_same_training(first: Path, second: Path) -> None:
    """Compare weights, optimizer, schedule, random states, and every logged number."""
    one, two = last_state(first), last_state(second)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(one[key], two[key], key)
    assert_same(one["callbacks"]["exact_resume"], two["callbacks"]["exact_resume"], "exact_resume")
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
