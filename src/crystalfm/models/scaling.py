"""Standardisation of targets, learned from the training split alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class TargetScaling:
    """Mean and standard deviation of each target over the training rows.

    Attributes:
        mean: (T,) float64, in each target's physical unit.
        std: (T,) float64, in each target's physical unit; 1 where the target is constant.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, targets: NDArray[np.floating], train_rows: NDArray[np.integer]) -> TargetScaling:
        """Learn from the known values of the training rows; no other row is looked at.

        Args:
            targets: (N, T) values of the whole table in physical units, NaN where missing.
            train_rows: rows of the training split.

        Raises:
            UserError: a target has no known or an infinite value in the training rows.
        """
        values = np.asarray(targets, dtype=np.float64)[train_rows]
        known = ~np.isnan(values)
        counts = known.sum(axis=0)
        if not counts.all():
            missing = ", ".join(str(column) for column in np.flatnonzero(counts == 0))
            raise UserError(
                f"target column {missing} has no known value in the {len(values)} training rows",
                remedy="choose other targets, or a split whose training part knows them",
            )
        mean = np.where(known, values, 0.0).sum(axis=0) / counts
        if not np.isfinite(mean).all():
            raise UserError("a target is infinite in a training row", remedy="remove the row or mend the value")
        variance = np.square(np.where(known, values - mean, 0.0)).sum(axis=0) / counts
        std = np.sqrt(variance)
        # A constant target leaves rounding noise of the mean as its "spread"; dividing by it would explode.
        constant = std <= 1e-12 * np.maximum(np.abs(mean), 1.0)
        return cls(mean=mean, std=np.where(constant, 1.0, std))

    def transform(self, values: Tensor) -> Tensor:
        """Return standardised values (..., T) of physical ones, in their type and on their device."""
        return (values - values.new_tensor(self.mean)) / values.new_tensor(self.std)

    def inverse(self, values: Tensor) -> Tensor:
        """Return physical values (..., T) of standardised ones, in their type and on their device."""
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean)

    def state(self) -> dict[str, Any]:
        """Return plain lists for a checkpoint."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TargetScaling:
        """Restore what ``state`` returned."""
        return cls(
            mean=np.asarray(state["mean"], dtype=np.float64),
            std=np.asarray(state["std"], dtype=np.float64),
        )
