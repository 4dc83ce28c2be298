"""The mean of the training split as a prediction: what every other model must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.models.classical import ClassicalFeatures, ClassicalModel, known_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec


class MeanPredictor(ClassicalModel):
    """Predicts each target's mean over the training rows that know it.

    Args:
        targets: quantities to predict (runtime).
    """

    def __init__(self, *, targets: Sequence[TargetSpec]) -> None:
        super().__init__(targets=targets)
        self._mean = np.full(len(self.targets), np.nan)

    def fit(self, features: ClassicalFeatures, seed: int) -> None:
        """Take the means; the features are not looked at."""
        del seed  # nothing is drawn
        for column, spec in enumerate(self.targets):
            known = known_targets(features.train_y, spec, column)
            self._mean[column] = features.train_y[known, column].mean()

    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the means (T,) for each of N rows: (N, T)."""
        return np.tile(self._mean, (len(features), 1))

    def state(self) -> dict[str, Any]:
        """Return the means."""
        return {"mean": self._mean.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the means."""
        self._mean = np.asarray(state["mean"], dtype=np.float64)
