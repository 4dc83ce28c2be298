"""Bootstrap intervals of means, and of differences between two models on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the limits of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: the estimate is more than noise."""
        return self.low > 0.0 or self.high < 0.0


def mean_interval(values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 42) -> Interval:
    """Return the mean of values (N,) with its percentile bootstrap interval (Efron, Ann. Statist. 7, 1, 1979).

    For the difference of two models' errors give the differences row by row: the bootstrap is then a paired one.

    Args:
        values: one value a row; NaN is left out. Without any value everything is NaN.
        resamples: resamples of the rows.
        seed: seed of the resampling.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = np.array([known[rng.integers(len(known), size=len(known))].mean() for _ in range(resamples)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high))
