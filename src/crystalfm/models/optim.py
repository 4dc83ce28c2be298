"""Optimizers and learning-rate schedules from their settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

_MATRIX_NDIM = 2
FUSED_DEVICES = ("cpu", "cuda")
"""Device types on which torch updates all parameters in one kernel."""

_WARMUP_SHARE = 10


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters into one group that decays and one that does not.

    Only weights with two or more axes decay. Biases and norm weights have one axis; embedding tables, and
    parameters named after positions or queries, set an origin or a scale that decay would pull to zero.

    Args:
        module: module whose parameters that require a gradient are taken, each once.
        weight_decay: decay of the first group.

    Returns:
        groups for an optimizer; an empty one is left out.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    seen: set[int] = set()
    for submodule in module.modules():
        for name, parameter in submodule.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_table = isinstance(submodule, nn.Embedding) or "position" in name
            (kept if parameter.ndim < _MATRIX_NDIM or is_table else decayed).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, settings: OptimizerSettings, *, fused: bool = True) -> Optimizer:
    """Return the optimizer of a module's trainable parameters.

    Args:
        module: the module to train.
        settings: which optimizer and its numbers.
        fused: update all parameters in one kernel where the device has it; must be false where a gradient
            scaler and gradient clipping work together (``16-mixed``).

    Raises:
        UserError: nothing in the module can be trained.
    """
    groups = parameter_groups(module, settings.weight_decay)
    if not groups:
        raise UserError(
            "the model has no trainable parameter",
            remedy="unfreeze the language model or an encoder (llm.trainable, encoder.frozen)",
        )
    devices = {parameter.device.type for parameter in module.parameters() if parameter.requires_grad}
    fused = fused and devices <= set(FUSED_DEVICES)
    beta_1, beta_2 = settings.betas
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(beta_1, beta_2), fused=fused)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, betas=(beta_1, beta_2), fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def warmup_cosine(*, warmup_steps: int, total_steps: int | None, floor: float) -> Callable[[int], float]:
    """Return the factor on the peak learning rate as a function of the optimizer step.

    Args:
        warmup_steps: the factor rises linearly and reaches 1 after this many steps.
        total_steps: steps at which the half cosine ends, or ``None`` to stay at 1.
        floor: factor at the end and after it.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if total_steps is None:
            return 1.0
        progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def build_scheduler(
    optimizer: Optimizer,
    settings: SchedulerSettings,
    *,
    peak_lr: float,
    total_steps: Callable[[], float],
) -> LambdaLR | ReduceLROnPlateau | None:
    """Return the schedule, or ``None`` for a constant learning rate without warm-up.

    Args:
        optimizer: optimizer whose learning rate it sets.
        settings: which schedule and its numbers.
        peak_lr: learning rate of the optimizer's settings.
        total_steps: called when the number of optimizer steps of the whole run is needed (cosine).

    Raises:
        UserError: cosine without a known end.
    """
    if settings.name == "plateau":
        return ReduceLROnPlateau(
            optimizer, mode="min", factor=settings.factor, patience=settings.patience, min_lr=settings.min_lr
        )
    if settings.name == "constant":
        if not settings.warmup_steps:
            return None
        return LambdaLR(optimizer, warmup_cosine(warmup_steps=settings.warmup_steps, total_steps=None, floor=1.0))
    steps = total_steps()
    if not math.isfinite(steps):
        raise UserError(
            "scheduler.name=cosine needs to know when training ends",
            remedy="set trainer.max_epochs or trainer.max_steps, or use scheduler=plateau",
        )
    # Cut for short runs, which would otherwise end before the learning rate has risen.
    warmup_steps = min(settings.warmup_steps, int(steps) // _WARMUP_SHARE)
    floor = min(settings.min_lr / peak_lr, 1.0)
    return LambdaLR(optimizer, warmup_cosine(warmup_steps=warmup_steps, total_steps=int(steps), floor=floor))
