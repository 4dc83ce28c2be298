"""Errors of predictions, accumulated over batches and processes in physical units."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RegressionErrors(Metric):
    """MAE, RMSE and R² of each target over its known values.

    The sums are kept in float64 and targets are measured from ``origin``, so that R² of total energies
    (mean 10³, spread 10¹) does not cancel. Updating reads nothing back from the device.

    Args:
        origin: (T,) a typical value of each target in its physical unit, such as the training mean.
    """

    full_state_update = False
    is_differentiable = False
    count: Tensor
    absolute: Tensor
    squared: Tensor
    offset: Tensor
    offset_squared: Tensor

    def __init__(self, origin: Tensor) -> None:
        super().__init__()
        self._origin = origin.detach().cpu().clone()
        for name in ("count", "absolute", "squared", "offset", "offset_squared"):
            self.add_state(name, torch.zeros(len(origin), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add one batch.

        Args:
            prediction: (B, T) in physical units.
            target: (B, T) in physical units; anything where unknown.
            mask: (B, T) bool, true where the target is known.
        """
        dtype = self.count.dtype
        known = mask.to(dtype)
        truth = target.to(dtype)
        error = torch.where(mask, prediction.detach().to(dtype) - truth, 0.0)
        offset = torch.where(mask, truth - self._origin.to(target.device, dtype), 0.0)
        self.count += known.sum(dim=0)
        self.absolute += error.abs().sum(dim=0)
        self.squared += error.square().sum(dim=0)
        self.offset += offset.sum(dim=0)
        self.offset_squared += offset.square().sum(dim=0)

    def scores(self) -> dict[str, Tensor]:
        """Return ``mae``, ``rmse`` and ``r2``, each (T,) float64, summed over processes."""
        # torchmetrics makes a single target's (1,) a scalar.
        return {kind: values.reshape(-1) for kind, values in self.compute().items()}

    def compute(self) -> dict[str, Tensor]:
        """Return ``mae``, ``rmse`` and ``r2``; NaN for a target without known values. Use ``scores``.

        R² is 1 minus squared error over the targets' own squared deviation; NaN when they are all equal.
        """
        spread = self.offset_squared - self.offset.square() / self.count
        return {
            "mae": self.absolute / self.count,
            "rmse": (self.squared / self.count).sqrt(),
            "r2": torch.where(spread > 0, 1.0 - self.squared / spread, torch.nan),
        }


class WeightedMean(Metric):
    """Mean of values with weights, over batches and processes; NaN stays NaN.

    (torchmetrics' own ``MeanMetric`` either looks for NaN at every update, which waits for the device, or, told
    not to, ignores the weights.)
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add a scalar with its weight."""
        self.total += value.detach().to(self.total.dtype) * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean, float64; NaN without any weight."""
        return self.total / self.weight
