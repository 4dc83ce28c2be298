"""Prediction intervals from the errors on held-out rows: split-conformal prediction.

If the rows an interval is fitted on and those it is used for are exchangeable, it holds the true value with at least
the probability asked for, whatever the model (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005;
Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, J. Am. Stat. Assoc. 113, 1094, 2018). Errors divided by an estimate of
their size give wide intervals where that is large (Papadopoulos, Gammerman and Vovk, 2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec

_DIGITS = 9


def conformal_rank(num_rows: int, coverage: float) -> int | None:
    """Return which of ``num_rows`` ascending errors, counted from 1, the interval reaches to.

    ``ceil((n + 1) * coverage)``; ``None`` where this is more than n, since no finite interval has the coverage then.
    """
    rank = math.ceil(round((num_rows + 1) * coverage, _DIGITS))
    return rank if rank <= num_rows else None


def rows_needed(coverage: float) -> int:
    """Return the smallest number of rows that gives a finite interval."""
    rows = math.ceil(coverage / (1.0 - coverage)) - 1
    while conformal_rank(rows, coverage) is None:
        rows += 1
    return rows


@dataclass(frozen=True, eq=False)
class ConformalIntervals:
    """Intervals around predictions of T targets, each of its own width.

    Attributes:
        coverage: probability with which an interval is to hold the true value.
        quantiles: (T,) half the width, in units of ``scale``; infinite where there were too few rows.
        floors: (T,) what is added to a standard deviation, in the target's unit; ``None`` for constant widths.
        num_rows: (T,) rows each quantile was fitted on.
    """

    coverage: float
    quantiles: NDArray[np.float64]
    floors: NDArray[np.float64] | None
    num_rows: NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        true: NDArray[np.float64],
        predicted: NDArray[np.float64],
        coverage: float,
        *,
        std: NDArray[np.float64] | None = None,
        floors: NDArray[np.float64] | None = None,
    ) -> ConformalIntervals:
        """Fit on rows that took no part in the training.

        Args:
            true: (N, T) values, NaN where unknown.
            predicted: (N, T) predictions.
            coverage: probability with which an interval is to hold the true value, between 0 and 1.
            std: (N, T) expected sizes of the errors, such as an ensemble's standard deviations; ``None`` for intervals
                of constant width.
            floors: (T,) positive values added to ``std``, so that members that happen to agree on a row do not promise
                that they are right; must not depend on these rows. Needed with ``std``.

        Raises:
            ValueError: shapes or values do not fit.
        """
        shapes = {array.shape for array in (true, predicted, std) if array is not None}
        if len(shapes) > 1 or len(true.shape[1:]) != 1:
            raise ValueError(f"expected arrays of one shape (N, T), got {true.shape} and {predicted.shape}")
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"coverage {coverage} is not between 0 and 1")
        if (std is None) != (floors is None) or (floors is not None and not np.all(floors > 0)):
            raise ValueError("standard deviations need positive floors, and only they do")
        scale = 1.0 if std is None or floors is None else std + floors
        errors = np.abs(true - predicted) / scale
        quantiles = np.full(true.shape[1], np.inf)
        num_rows = np.zeros(true.shape[1], dtype=np.int64)
        for column in range(true.shape[1]):
            # A prediction that is not a number is as wrong as can be.
            known = np.nan_to_num(errors[~np.isnan(true[:, column]), column], nan=np.inf)
            num_rows[column] = known.size
            rank = conformal_rank(known.size, coverage)
            if rank is not None:
                quantiles[column] = np.sort(known)[rank - 1]
        return cls(coverage, quantiles, floors, num_rows)

    @property
    def is_bounded(self) -> bool:
        """Whether the intervals of any target are finite."""
        return bool(np.isfinite(self.quantiles).any())

    def around(
        self, predicted: NDArray[np.float64], std: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper ends (N, T) of the intervals, in the targets' units.

        Args:
            predicted: (N, T) predictions.
            std: (N, T), as in ``fit``; infinite ends follow from infinite quantiles, NaN from NaN.

        Raises:
            ValueError: ``std`` is missing, or given though the intervals were fitted without.
        """
        if (std is None) != (self.floors is None):
            raise ValueError("standard deviations are needed exactly where the intervals were fitted with them")
        scale = 1.0 if std is None or self.floors is None else std + self.floors
        half = np.broadcast_to(self.quantiles * scale, predicted.shape)
        return predicted - half, predicted + half

    def state(self) -> dict[str, Any]:
        """Return plain containers that JSON can hold; an infinite quantile is ``None``."""
        return {
            "coverage": self.coverage,
            "quantiles": [value if math.isfinite(value) else None for value in self.quantiles.tolist()],
            "floors": None if self.floors is None else self.floors.tolist(),
            "num_rows": self.num_rows.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ConformalIntervals:
        """Restore what ``state`` returned."""
        quantiles = [math.inf if value is None else float(value) for value in state["quantiles"]]
        floors = None if state["floors"] is None else np.asarray(state["floors"], dtype=np.float64)
        return cls(float(state["coverage"]), np.array(quantiles), floors, np.asarray(state["num_rows"], dtype=np.int64))


@dataclass(frozen=True)
class IntervalScore:
    """How the intervals of one target do on rows they were not fitted on.

    Attributes:
        target: the quantity and its unit.
        coverage: share of the rows whose true value is inside; NaN without rows.
        mean_width: mean of upper minus lower end, in the target's unit.
        num_rows: rows where the target is known.
    """

    target: TargetSpec
    coverage: float
    mean_width: float
    num_rows: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as a plain dictionary that JSON can hold (NaN and infinity become ``None``)."""
        values = {"coverage": self.coverage, "mean_width": self.mean_width}
        return {key: value if math.isfinite(value) else None for key, value in values.items()} | {
            "num_rows": self.num_rows
        }


def score_intervals(
    true: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    targets: Sequence[TargetSpec],
) -> list[IntervalScore]:
    """Return for each of T targets how often (N, T) intervals hold the true value (NaN where unknown)."""
    scores = []
    for column, target in enumerate(targets):
        known = ~np.isnan(true[:, column])
        value, low, high = true[known, column], lower[known, column], upper[known, column]
        inside = float(np.mean((low <= value) & (value <= high))) if value.size else math.nan
        width = float(np.mean(high - low)) if value.size else math.nan
        scores.append(IntervalScore(target, inside, width, int(value.size)))
    return scores
