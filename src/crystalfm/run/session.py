"""What training asks of every kind of model: describe yourself, fit, predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

Predict = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Rows (K,) of the prepared table to predictions (K, T) in physical units, in the same order."""


@dataclass(frozen=True)
class FittedModel:
    """A model after fitting.

    Attributes:
        predict: its predictions.
        num_epochs: completed epochs; 0 for models that have none.
        train_seconds: time spent fitting, over all interruptions.
        validation: validation quantities of the chosen weights, such as ``{"loss": 0.02}``.
        peak_device_memory_gib: peak memory of the accelerator, where there is one.
        earlier_seconds: part of ``train_seconds`` before this process went on.
    """

    predict: Predict
    num_epochs: int
    train_seconds: float
    validation: dict[str, float] = field(default_factory=dict)
    peak_device_memory_gib: float | None = None
    earlier_seconds: float = 0.0


class Session(ABC):
    """One model about to be fitted on prepared data.

    Attributes:
        num_parameters: parameters, ``None`` when there are none before fitting.
        num_trainable: parameters that are trained.
        device: device and how many.
        precision: numeric precision of a training step.
        notes: lines for the start table.
        num_local_processes: processes of this machine that have to be started for ``fit``, this one included; ``None``
            when it works in this process alone or something else starts the others.
    """

    num_parameters: int | None = None
    num_trainable: int | None = None
    device: str = "cpu"
    precision: str = "32-true"
    num_local_processes: int | None = None

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    @abstractmethod
    def fit(self, resume_from: Path | None) -> FittedModel:
        """Fit and write checkpoints.

        Args:
            resume_from: checkpoint to go on from.
        """


def outcome_arguments(fitted: FittedModel, seconds: float) -> dict[str, Any]:
    """Return what ``report.summary.Outcome`` wants to know of a fitted model.

    Args:
        fitted: the model.
        seconds: time since this process began to work.
    """
    return {
        "wall_time_seconds": seconds + fitted.earlier_seconds,
        "num_epochs": fitted.num_epochs,
        "train_time_seconds": fitted.train_seconds,
        "validation": fitted.validation,
        "peak_device_memory_gib": fitted.peak_device_memory_gib,
    }
