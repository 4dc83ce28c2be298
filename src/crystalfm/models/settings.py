"""Settings of optimizers and learning-rate schedules; importing this module loads no torch."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

LossName = Literal["mse", "mae", "huber", "smooth_l1"]
PositionsName = Literal["learned", "sinusoidal", "none"]
_NUM_BETAS = 2


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``.

    Raises:
        UserError: names the key, the nearest choice and all choices.
    """
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"{key}={value} is not known", remedy=f"{hint}choices: {', '.join(choices)}")


def check_range(
    key: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise unless ``value`` is a finite number between ``low`` and ``high``.

    Args:
        key: config key for the message.
        value: number to check.
        low: smallest value allowed.
        high: largest value allowed.
        low_open: whether ``low`` itself is refused.
        high_open: whether ``high`` itself is refused.

    Raises:
        UserError: the number is outside, infinite or not a number.
    """
    is_low = value <= low if low_open else value < low
    is_high = value >= high if high_open else value > high
    if math.isfinite(value) and not is_low and not is_high:
        return
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if low_open else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if high_open else 'at most'} {high:g}")
    raise UserError(f"{key}={value} is out of range", remedy=f"use a number {' and '.join(bounds) or 'that is finite'}")


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its settings.

    Attributes:
        name: ``adamw`` (LLM-Fusion's choice), ``adam`` or ``sgd``.
        lr: peak learning rate.
        weight_decay: decay of weight matrices, decoupled for ``adamw``; never of biases, norms, embeddings.
        betas: decay rates of the two moments of Adam.
        momentum: momentum of ``sgd``.

    Raises:
        UserError: a value is out of range.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("optimizer.name", self.name, ("adamw", "adam", "sgd"))
        check_range("optimizer.lr", self.lr, low=0, low_open=True)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)
        check_range("optimizer.momentum", self.momentum, low=0, high=1, high_open=True)
        if len(self.betas) != _NUM_BETAS:
            raise UserError(f"optimizer.betas={list(self.betas)} has {len(self.betas)} values", remedy="give two")
        for beta in self.betas:
            check_range("optimizer.betas", beta, low=0, high=1, high_open=True)


@dataclass(frozen=True)
class SchedulerSettings:
    """How the learning rate changes.

    Attributes:
        name: ``plateau`` (times ``factor`` when ``val/loss`` stops falling; LLM-Fusion's choice), ``cosine``
            (to ``min_lr`` at the last step) or ``constant``.
        warmup_steps: optimizer steps of linear warm-up, for ``cosine`` (a tenth of the run at most) and ``constant``.
        factor: what a plateau multiplies the learning rate by.
        patience: validations without improvement before that happens.
        min_lr: the learning rate never falls below it.

    Raises:
        UserError: a value is out of range, or warm-up is asked of ``plateau``.
    """

    name: Literal["plateau", "cosine", "constant"] = "plateau"
    warmup_steps: int = 0
    factor: float = 0.5
    patience: int = 5
    min_lr: float = 1e-6

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("scheduler.name", self.name, ("plateau", "cosine", "constant"))
        check_range("scheduler.warmup_steps", self.warmup_steps, low=0)
        check_range("scheduler.factor", self.factor, low=0, high=1, low_open=True, high_open=True)
        check_range("scheduler.patience", self.patience, low=0)
        check_range("scheduler.min_lr", self.min_lr, low=0)
        if self.name == "plateau" and self.warmup_steps:
            raise UserError(
                f"scheduler.warmup_steps={self.warmup_steps} does not go with scheduler.name=plateau",
                remedy="use scheduler=cosine or scheduler=constant, or scheduler.warmup_steps=0",
            )
