"""How fast a training step is, measured from inside the training: time by phase, rows, tokens, memory, arithmetic."""

from __future__ import annotations

import inspect
import multiprocessing
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from crystalfm.contracts import MODALITIES, batch_key
from crystalfm.report.summary import peak_memory_gib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from lightning import LightningModule, Trainer

    from crystalfm.models.trained import TrainedModule

WAITING, FORWARD, BACKWARD, OPTIMIZER = "waiting", "forward", "backward", "optimizer"
PHASES = (WAITING, FORWARD, BACKWARD, OPTIMIZER)
"""What the time of a step is divided into; the rest is callbacks, logging and moving batches."""

_FLOP_BATCHES = 8
"""Measured batches, evenly spaced, whose arithmetic is counted: lengths differ from batch to batch."""

_BYTES_PER_GIB = 1 << 30

_ACTIONS = {
    "train_dataloader_next": WAITING,
    "training_step": FORWARD,
    "backward": BACKWARD,
    "optimizer_step": OPTIMIZER,
}
_OWNERS = ("[Strategy]", "[LightningModule]", "[_TrainingEpochLoop]")

# The counter knows attention on GPUs only; these take the same arguments.
_CPU_ATTENTION = {
    getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{suffix}"): inspect.unwrap(count)
    for suffix, count in (("", sdpa_flop), ("_backward", sdpa_backward_flop))
}


class PhaseTimer(Profiler):
    """Adds up the time of each phase, as seen by the host.

    Lightning calls it around everything it does. The optimizer's step encloses forward and backward pass, whose time
    is taken off: what is left is clipping, zeroing and updating.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, float] = {}
        self._enclosed = 0.0
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def reset(self) -> None:
        """Start to add up anew; call it between two steps."""
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def start(self, action_name: str) -> None:
        """Begin an action of Lightning's, such as ``[Strategy]DDPStrategy.backward``."""
        phase = _phase(action_name)
        if phase == OPTIMIZER:
            self._enclosed = 0.0
        if phase is not None:
            self._begun[phase] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """End an action."""
        phase = _phase(action_name)
        if phase is None or phase not in self._begun:
            return
        seconds = time.perf_counter() - self._begun.pop(phase)
        if phase == OPTIMIZER:
            seconds -= self._enclosed
        elif OPTIMIZER in self._begun:
            self._enclosed += seconds
        self.seconds[phase] += seconds

    def summary(self) -> str:
        """Return nothing: the results are in ``seconds``."""
        return ""


def _phase(action_name: str) -> str | None:
    owner, _, hook = action_name.rpartition(".")
    return _ACTIONS.get(hook) if owner.startswith(_OWNERS) else None


@dataclass
class StepMeasurements:
    """What one process measured.

    Attributes:
        seconds: wall time of the measured steps.
        step_seconds: time of each optimizer step, from the end of the one before.
        phase_seconds: time of each of ``PHASES`` in them.
        num_batches: batches in them; more than steps where gradients are accumulated.
        num_rows: rows in them.
        num_tokens: tokens in them, padding not counted; 0 without a modality made of tokens.
        num_padded_tokens: the same with padding.
        peak_memory_gib: largest resident memory of this process since its start, and the loader processes' at the end.
        peak_device_memory_gib: largest memory in use on its GPU.
        flops: floating-point operations of forward and backward pass in the measured steps, from a sample of batches.
        peak_flops: operations a second the device can do at most at this precision, where that is known.
    """

    seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    num_batches: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    peak_memory_gib: float = 0.0
    peak_device_memory_gib: float | None = None
    flops: float = 0.0
    peak_flops: float | None = None


class ThroughputMeter(Callback):
    """Measures the optimizer steps after a warm-up.

    The clock runs from the end of the last warm-up step to the end of the last measured one. A GPU is waited for at
    these two moments alone, so that it works as in any training.

    Args:
        timer: profiler of the same Trainer.
        warmup: optimizer steps before the measurement.
        steps: optimizer steps measured; the training must last for both.
    """

    def __init__(self, timer: PhaseTimer, *, warmup: int, steps: int) -> None:
        self._timer = timer
        self._warmup = warmup
        self._steps = steps
        self._started: float | None = None
        self._last = 0.0
        self._last_step = 0
        self._counts: Tensor | None = None
        self._sample: list[dict[str, Tensor]] = []
        self._sampled_steps = set(np.linspace(0, steps - 1, min(steps, _FLOP_BATCHES)).astype(int).tolist())
        self.measured: StepMeasurements | None = None
        self._current = StepMeasurements()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Take the time; start and end the measurement."""
        if self._started is None:
            if trainer.global_step >= self._warmup:
                self._timer.reset()
                self._started = self._last = _now(pl_module.device)
                self._last_step = trainer.global_step
            return
        if self.measured is not None:
            return
        self._count(batch)
        if trainer.global_step == self._last_step:
            return  # gradients are being accumulated
        if len(self._current.step_seconds) in self._sampled_steps:
            self._sample.append(batch)
        self._last_step = trainer.global_step
        is_last = len(self._current.step_seconds) + 1 == self._steps
        now = _now(pl_module.device) if is_last else time.perf_counter()
        self._current.step_seconds.append(now - self._last)
        self._last = now
        if is_last:
            self._finish(now - self._started, pl_module.device)

    def _count(self, batch: Mapping[str, Tensor]) -> None:
        self._current.num_batches += 1
        self._current.num_rows += len(batch["row"])
        counts = count_tokens(batch)
        # Added up where the batch is: to read the sum would wait for the device.
        self._counts = counts if self._counts is None else self._counts + counts

    def _finish(self, seconds: float, device: torch.device) -> None:
        done = self._current
        done.seconds = seconds
        done.phase_seconds = dict(self._timer.seconds)
        if self._counts is not None:
            done.num_tokens, done.num_padded_tokens = self._counts.tolist()
        done.peak_memory_gib = peak_memory_gib() + _loader_memory_gib()
        if device.type == "cuda":
            done.peak_device_memory_gib = torch.cuda.max_memory_allocated(device) / _BYTES_PER_GIB
        self.measured = done

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the arithmetic of a few of the measured batches, after the clock has stopped."""
        if self.measured is None:
            return
        context = trainer.precision_plugin.train_step_context
        module = cast("TrainedModule", pl_module)
        counted = [count_flops(module, batch, context()) for batch in self._sample]
        self.measured.flops = float(np.mean(counted)) * self.measured.num_batches
        self.measured.peak_flops = device_peak_flops(pl_module.device, str(trainer.precision))
        self._sample.clear()


def _now(device: torch.device) -> float:
    """Return the time when all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _loader_memory_gib() -> float:
    """Return the resident memory of this process's loader workers."""
    workers = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    resident = 0
    for pid in workers:
        try:
            resident += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended in between
    return resident / _BYTES_PER_GIB


def count_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Return (tokens, tokens with padding) over all modalities of a batch that are made of tokens: (2,) int64."""
    masks = [batch[key] for key in (batch_key(name, "mask") for name in MODALITIES) if key in batch]
    masks += [batch[key] >= 0 for key in (batch_key(name, "segments") for name in MODALITIES) if key in batch]
    device = batch["row"].device
    real = torch.stack([mask.sum() for mask in masks]).sum() if masks else torch.zeros((), dtype=torch.int64)
    return torch.stack([real.to(device), torch.tensor(sum(mask.numel() for mask in masks), device=device)])


def count_flops(module: TrainedModule, batch: dict[str, Tensor], context: AbstractContextManager[Any]) -> int:
    """Return the floating-point operations of the forward and backward pass of a batch.

    Matrix products, convolutions and attention are counted, a multiplication with an addition as two.

    Args:
        module: the network that is trained.
        batch: a training batch on the module's device.
        context: precision of the training step.
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        with context:
            loss = module.training_loss(batch)
        torch.autograd.backward(loss)
    return int(counter.get_total_flops())


_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the operations a second that a device can do at most, where Lightning knows it."""
    if device.type != "cuda":
        return None
    known = get_available_flops(device, _DTYPES.get(precision.partition("-")[0], torch.float32))
    return None if known is None else float(known)


def combine(parts: Sequence[Mapping[str, Any]], *, peak_tflops: float | None = None) -> dict[str, Any]:
    """Return the figures of a run from what each of its processes measured.

    Rows, tokens, arithmetic and resident memory are sums over the processes, phases their means, and the time is that
    of the slowest. On a GPU the host only hands out work, so that no phase but waiting can be told.

    Args:
        parts: fields of each process's ``StepMeasurements``.
        peak_tflops: peak of one device, in place of the known one.
    """
    first, num = parts[0], len(parts)
    seconds = max(part["seconds"] for part in parts)
    rows, tokens, padded, flops = (
        sum(part[name] for part in parts) for name in ("num_rows", "num_tokens", "num_padded_tokens", "flops")
    )
    device_memory = [part["peak_device_memory_gib"] for part in parts if part["peak_device_memory_gib"] is not None]
    phases = (WAITING,) if device_memory else PHASES
    peak = peak_tflops * 1e12 if peak_tflops is not None else first["peak_flops"]
    steps = len(first["step_seconds"])
    return {
        "seconds": seconds,
        "steps": steps,
        "rows": rows,
        "rows_per_second": rows / seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if padded else None,
        "padding_share": 1 - tokens / padded if padded else None,
        "step_seconds_median": float(np.median(first["step_seconds"])),
        "step_seconds_p90": float(np.quantile(first["step_seconds"], 0.9)),
        "shares": {name: sum(part["phase_seconds"][name] / part["seconds"] for part in parts) / num for name in phases},
        "peak_memory_gib": sum(part["peak_memory_gib"] for part in parts),
        "peak_device_memory_gib": max(device_memory, default=None),
        "gflop_per_step": flops / steps / 1e9,
        "tflops_per_second": flops / seconds / 1e12,
        "peak_tflops_per_device": None if peak is None else peak / 1e12,
        "mfu": None if peak is None else flops / seconds / (peak * num),
    }
