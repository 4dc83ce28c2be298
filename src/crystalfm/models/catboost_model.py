"""CatBoost: gradient-boosted symmetric trees, fitted in random orders against overfitting of few rows."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from crystalfm.contracts import UserError
from crystalfm.models.classical import ClassicalFeatures, ClassicalModel, known_targets
from crystalfm.models.settings import check_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.contracts import TargetSpec

_log = logging.getLogger(__name__)

_FORMAT = "cbm"
"""CatBoost's own binary format: arrays of numbers, no code."""


@dataclass(frozen=True)
class _Fit:
    """The fitted model of one target, and how it did.

    Attributes:
        model: in CatBoost's format; empty where the mean is predicted.
        mean: mean of the training rows.
        num_trees: trees that were kept.
        val_mae: mean absolute error on the validation rows, in the target's unit.
    """

    model: bytes
    mean: float
    num_trees: int
    val_mae: float


class CatBoostRegressor(ClassicalModel):
    """One CatBoost model a target (Prokhorenkova et al., NeurIPS 2018).

    With validation rows, boosting stops early on their MAE and the best round is kept.

    Args:
        targets: quantities to predict (runtime).
        num_trees: boosting rounds at most.
        learning_rate: shrinkage of each tree; ``None`` for CatBoost's own choice from the numbers of rows and rounds.
        depth: depth of the symmetric trees.
        l2_leaf_reg: L2 penalty on the leaves' values.
        random_strength: spread of the noise on the scores of splits, in the first rounds.
        boosting_type: ``ordered`` (a row's residual never comes from trees that saw it) or ``plain``; ``None`` for
            CatBoost's own choice.
        early_stopping_rounds: rounds without a better validation MAE before boosting stops, or ``None``.
        num_threads: threads, or ``None`` for all.

    Raises:
        UserError: a setting is out of range, or the package ``catboost`` is not installed.
    """

    FILE_SUFFIX: ClassVar[str] = ".cbm"

    def __init__(
        self,
        *,
        targets: Sequence[TargetSpec],
        num_trees: int = 1000,
        learning_rate: float | None = None,
        depth: int = 6,
        l2_leaf_reg: float = 3.0,
        random_strength: float = 1.0,
        boosting_type: str | None = None,
        early_stopping_rounds: int | None = 50,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(targets=targets)
        check_range("model.num_trees", num_trees, low=1)
        check_range("model.depth", depth, low=1, high=16)
        check_range("model.l2_leaf_reg", l2_leaf_reg, low=0)
        check_range("model.random_strength", random_strength, low=0)
        if learning_rate is not None:
            check_range("model.learning_rate", learning_rate, low=0, low_open=True)
        if early_stopping_rounds is not None:
            check_range("model.early_stopping_rounds", early_stopping_rounds, low=1)
        if num_threads is not None:
            check_range("model.num_threads", num_threads, low=1)
        if boosting_type not in (None, "ordered", "plain"):
            raise UserError(f"model.boosting_type={boosting_type} is not known", remedy="ordered, plain, or null")
        require_catboost()
        self._settings: dict[str, Any] = {
            "iterations": num_trees,
            "depth": depth,
            "l2_leaf_reg": l2_leaf_reg,
            "random_strength": random_strength,
            "loss_function": "RMSE",
            "eval_metric": "MAE",
            "allow_writing_files": False,
            "verbose": False,
        }
        if learning_rate is not None:
            self._settings["learning_rate"] = learning_rate
        if boosting_type is not None:
            self._settings["boosting_type"] = boosting_type.capitalize()
        if num_threads is not None:
            self._settings["thread_count"] = num_threads
        self._early_stopping_rounds = early_stopping_rounds
        self._num_threads = num_threads
        self._fits: list[_Fit] = []

    def fit(self, features: ClassicalFeatures, seed: int) -> None:
        """Fit one model a target.

        Args:
            features: matrices of both splits.
            seed: the same seed gives the same trees.

        Raises:
            UserError: a target has no known value in the training rows.
        """
        self._fits = []
        for column, spec in enumerate(self.targets):
            train_known = known_targets(features.train_y, spec, column)
            val_known = np.isfinite(features.val_y[:, column])
            train = (features.train_x[train_known], features.train_y[train_known, column])
            val = (features.val_x[val_known], features.val_y[val_known, column]) if val_known.any() else None
            self._fit_one(spec, train, val, seed)

    def _fit_one(
        self,
        spec: TargetSpec,
        train: tuple[NDArray[np.generic], NDArray[np.float64]],
        val: tuple[NDArray[np.generic], NDArray[np.float64]] | None,
        seed: int,
    ) -> None:
        import catboost

        model = catboost.CatBoostRegressor(random_seed=seed, **self._settings)
        mean = float(train[1].mean())
        # CatBoost refuses rows that do not differ, and targets that are all equal.
        if np.ptp(train[1]) == 0 or not _varies(train[0]):
            val_mae = float("nan") if val is None else float(np.abs(val[1] - mean).mean())
            self._fits.append(_Fit(b"", mean, 0, val_mae))
            _log.info("catboost %s: there is nothing to split by, the mean is predicted", spec.label)
            return
        stopping = None if val is None else self._early_stopping_rounds
        model.fit(*train, eval_set=val, early_stopping_rounds=stopping, use_best_model=stopping is not None)
        num_trees = int(model.tree_count_)
        val_mae = float("nan") if val is None else float(np.abs(model.predict(val[0]) - val[1]).mean())
        self._fits.append(_Fit(_to_bytes(model), mean, num_trees, val_mae))
        _log.info("catboost %s: val MAE %.6g with %d trees", spec.label, val_mae, num_trees)

    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return predictions (N, T) in physical units for features (N, C).

        Raises:
            UserError: the model has not been fitted.
        """
        import catboost

        if not self._fits:
            raise UserError("the CatBoost model has not been fitted", remedy="train it first")
        predictions = np.empty((len(features), len(self._fits)))
        for column, fit in enumerate(self._fits):
            predictions[:, column] = fit.mean
            if fit.model and len(features):
                model = catboost.CatBoostRegressor()
                model.load_model(blob=fit.model, format=_FORMAT)
                predictions[:, column] = model.predict(features, thread_count=self._num_threads or -1)
        return predictions

    def state(self) -> dict[str, Any]:
        """Return the models as bytes (CatBoost's binary format in uint8 tensors), and numbers."""
        return {
            "models": [_bytes_tensor(fit.model) for fit in self._fits],
            "mean": [fit.mean for fit in self._fits],
            "num_trees": [fit.num_trees for fit in self._fits],
            "val_mae": [fit.val_mae for fit in self._fits],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the fitted models."""
        self._fits = [
            _Fit(model.numpy().tobytes(), float(mean), int(num_trees), float(val_mae))
            for model, mean, num_trees, val_mae in zip(
                state["models"], state["mean"], state["num_trees"], state["val_mae"], strict=True
            )
        ]


def require_catboost() -> None:
    """Refuse to go on without the package.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("catboost") is None:
        raise UserError(
            "model=catboost: the package catboost is not installed",
            remedy="pip install 'crystalfm[defects]', or model=xgboost",
        )


def _varies(features: NDArray[np.generic]) -> bool:
    if not features.size:
        return False
    missing = np.isnan(features) if features.dtype.kind == "f" else np.zeros(features.shape, dtype=bool)
    filled = np.where(missing, 0, features)
    return bool((np.ptp(filled, axis=0) > 0).any() or (missing.any(axis=0) & ~missing.all(axis=0)).any())


def _to_bytes(model: Any) -> bytes:
    """Return a fitted model in CatBoost's format, which it writes to files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{_FORMAT}"
        model.save_model(str(path), format=_FORMAT)
        return path.read_bytes()


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
