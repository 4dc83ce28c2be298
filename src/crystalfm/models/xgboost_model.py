"""Gradient-boosted trees on fingerprints or cached embeddings: LLM-Fusion's baseline."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from crystalfm.contracts import UserError
from crystalfm.models.classical import ClassicalFeatures, ClassicalModel, known_targets
from crystalfm.models.settings import check_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xgboost
    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec

_log = logging.getLogger(__name__)

_SPARSE_BELOW = 0.5  # share of cells that are not zero
_ROWS_PER_CHUNK = 4096


@dataclass(frozen=True)
class TreeParameters:
    """The seven hyper-parameters that LLM-Fusion searches, under XGBoost's names in Python.

    Attributes:
        num_trees: boosting rounds at most (nEstimators).
        learning_rate: shrinkage of each tree (learningRate).
        max_depth: depth of a tree (maxDepth).
        subsample: share of rows a tree sees (subSample).
        colsample_bytree: share of columns a tree sees (colSampleByTree).
        gamma: loss a split must save, in squared units of the standardised target.
        min_child_weight: rows a leaf needs (minChildWeight).

    Raises:
        UserError: a value is out of range.
    """

    num_trees: int
    learning_rate: float
    max_depth: int
    subsample: float
    colsample_bytree: float
    gamma: float
    min_child_weight: float

    def __post_init__(self) -> None:
        """Check every value."""
        check_range("model.num_trees", self.num_trees, low=1)
        check_range("model.learning_rate", self.learning_rate, low=0, low_open=True)
        check_range("model.max_depth", self.max_depth, low=1)
        check_range("model.subsample", self.subsample, low=0, high=1, low_open=True)
        check_range("model.colsample_bytree", self.colsample_bytree, low=0, high=1, low_open=True)
        check_range("model.gamma", self.gamma, low=0)
        check_range("model.min_child_weight", self.min_child_weight, low=0)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> TreeParameters:
        """Draw one trial of the random search; the paper names the parameters but not their ranges.

        Args:
            rng: source of chance.

        Returns:
            num_trees 100 to 1000 and max_depth 3 to 12 (uniform whole numbers); learning_rate 0.02 to 0.3 and
            min_child_weight 1 to 20 (log-uniform); subsample 0.5 to 1 and colsample_bytree 0.3 to 1
            (uniform); gamma 0 in half of the draws, else 0.001 to 1 (log-uniform).
        """
        return cls(
            num_trees=int(rng.integers(100, 1001)),
            learning_rate=_log_uniform(rng, 0.02, 0.3),
            max_depth=int(rng.integers(3, 13)),
            subsample=float(rng.uniform(0.5, 1.0)),
            colsample_bytree=float(rng.uniform(0.3, 1.0)),
            gamma=_log_uniform(rng, 1e-3, 1.0) * int(rng.integers(2)),
            min_child_weight=_log_uniform(rng, 1.0, 20.0),
        )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class _Fit:
    """One fitted booster of one target, and how it did."""

    model: bytes
    num_trees: int
    val_mae: float


class XGBoostRegressor(ClassicalModel):
    """One booster a target, on targets standardised by their training rows.

    Features that are mostly zero (fingerprint bits, counts) are handed over as sparse matrices, which builds
    the same trees several times faster; a zero is then what XGBoost calls missing. With validation rows,
    boosting stops early on their MAE and the best round is kept. With ``num_trials``, a random search over
    the seven hyper-parameters of LLM-Fusion's baselines (arXiv 2503.01022) keeps the trial with the smallest
    validation MAE of each target; trial 0 is the configured setting, so a search never does worse there.

    Args:
        targets: quantities to predict (runtime).
        num_trees: boosting rounds at most.
        learning_rate: shrinkage of each tree.
        max_depth: depth of a tree.
        subsample: share of rows a tree sees.
        colsample_bytree: share of columns a tree sees.
        gamma: loss a split must save, in squared units of the standardised target.
        min_child_weight: rows a leaf needs.
        num_trials: random draws of the search on the validation rows; 0 for none.
        early_stopping_rounds: rounds without a better validation MAE before boosting stops, or ``None``.
        num_threads: threads, or ``None`` for all.

    Raises:
        UserError: a setting is out of range.
    """

    FILE_SUFFIX: ClassVar[str] = ".ubj"

    def __init__(
        self,
        *,
        targets: Sequence[TargetSpec],
        num_trees: int = 400,
        learning_rate: float = 0.1,
        max_depth: int = 10,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        gamma: float = 0.0,
        min_child_weight: float = 1.0,
        num_trials: int = 0,
        early_stopping_rounds: int | None = 50,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(targets=targets)
        check_range("model.num_trials", num_trials, low=0)
        if early_stopping_rounds is not None:
            check_range("model.early_stopping_rounds", early_stopping_rounds, low=1)
        if num_threads is not None:
            check_range("model.num_threads", num_threads, low=1)
        self._parameters = TreeParameters(
            num_trees=num_trees,
            learning_rate=learning_rate,
            max_depth=max_depth,
            subsample=subsample,
            colsample_bytree=colsample_bytree,
            gamma=gamma,
            min_child_weight=min_child_weight,
        )
        self._num_trials = num_trials
        self._early_stopping_rounds = early_stopping_rounds
        self._num_threads = num_threads
        self._fits: list[_Fit] = []
        self._mean: list[float] = []
        self._std: list[float] = []
        self._sparse = False
        self._table: list[dict[str, float | int | str]] = []

    def fit(self, features: ClassicalFeatures, seed: int) -> None:
        """Fit, and search if asked for.

        Args:
            features: matrices of both splits.
            seed: the same seed (and number of threads) gives the same trees.

        Raises:
            UserError: a target has no known value in the training rows, or a search has no validation rows.
        """
        rng = np.random.default_rng(seed)
        trials = [self._parameters, *(TreeParameters.draw(rng) for _ in range(self._num_trials))]
        self._sparse = _density(features.train_x) < _SPARSE_BELOW
        self._fits, self._mean, self._std, self._table = [], [], [], []
        data = _PreparedData(features, sparse=self._sparse, num_threads=self._num_threads)
        for column, spec in enumerate(self.targets):
            train, val, mean, std = data.labelled(spec, column)
            if val is None and self._num_trials:
                raise UserError(
                    f"model.num_trials={self._num_trials} needs validation rows that know '{spec.name}'",
                    remedy="set data.val_fraction above 0, or model.num_trials=0",
                )
            fits = []
            for trial, parameters in enumerate(trials):
                fits.append(self._boost(parameters, train, val, seed, std))
                self._record(trial, spec, parameters, fits[-1])
            self._fits.append(min(fits, key=lambda fit: fit.val_mae) if self._num_trials else fits[0])
            self._mean.append(mean)
            self._std.append(std)

    def _boost(
        self,
        parameters: TreeParameters,
        train: xgboost.QuantileDMatrix,
        val: xgboost.QuantileDMatrix | None,
        seed: int,
        std: float,
    ) -> _Fit:
        import xgboost

        evaluations: dict[str, dict[str, list[float]]] = {}
        booster = xgboost.train(
            self._booster_settings(parameters, seed),
            train,
            num_boost_round=parameters.num_trees,
            evals=[] if val is None else [(val, "val")],
            early_stopping_rounds=None if val is None else self._early_stopping_rounds,
            evals_result=evaluations,
            verbose_eval=False,
        )
        history = evaluations.get("val", {}).get("mae", [])
        if history and self._early_stopping_rounds is not None:
            best = int(booster.best_iteration)
            booster = booster[: best + 1]
        else:
            best = booster.num_boosted_rounds() - 1
        val_mae = history[best] * std if history else float("nan")
        return _Fit(model=bytes(booster.save_raw("ubj")), num_trees=best + 1, val_mae=val_mae)

    def _booster_settings(self, parameters: TreeParameters, seed: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "objective": "reg:squarederror",
            "eval_metric": "mae",
            "tree_method": "hist",
            "base_score": 0.0,
            "learning_rate": parameters.learning_rate,
            "max_depth": parameters.max_depth,
            "subsample": parameters.subsample,
            "colsample_bytree": parameters.colsample_bytree,
            "gamma": parameters.gamma,
            "min_child_weight": parameters.min_child_weight,
            "seed": seed,
            "verbosity": 0,
        }
        return settings if self._num_threads is None else settings | {"nthread": self._num_threads}

    def _record(self, trial: int, spec: TargetSpec, parameters: TreeParameters, fit: _Fit) -> None:
        row: dict[str, float | int | str] = {"trial": trial, "target": spec.label}
        row |= vars(parameters) | {"best_num_trees": fit.num_trees, "val_mae": fit.val_mae}
        self._table.append(row)
        _log.info("xgboost %s trial %d: val MAE %.6g with %d trees", spec.label, trial, fit.val_mae, fit.num_trees)

    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return predictions (N, T) in physical units for features (N, C).

        Raises:
            UserError: the model has not been fitted.
        """
        import xgboost

        if not self._fits:
            raise UserError("the XGBoost model has not been fitted", remedy="train it first")
        matrix = _to_matrix(features, sparse=self._sparse)
        predictions = np.empty((len(features), len(self._fits)))
        for column, fit in enumerate(self._fits):
            booster = xgboost.Booster({} if self._num_threads is None else {"nthread": self._num_threads})
            booster.load_model(bytearray(fit.model))
            standardised = booster.inplace_predict(matrix)
            predictions[:, column] = standardised * self._std[column] + self._mean[column]
        return predictions

    def search_table(self) -> list[dict[str, float | int | str]]:
        """Return a row a trial: trial, target, seven hyper-parameters, best_num_trees, val_mae (physical)."""
        return list(self._table)

    def state(self) -> dict[str, Any]:
        """Return the boosters as bytes (XGBoost's UBJSON in uint8 tensors) and the scaling as numbers."""
        return {
            "boosters": [torch.frombuffer(bytearray(fit.model), dtype=torch.uint8) for fit in self._fits],
            "num_trees": [fit.num_trees for fit in self._fits],
            "val_mae": [fit.val_mae for fit in self._fits],
            "mean": list(self._mean),
            "std": list(self._std),
            "sparse": self._sparse,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the fitted boosters."""
        self._fits = [
            _Fit(model=model.numpy().tobytes(), num_trees=int(num_trees), val_mae=float(val_mae))
            for model, num_trees, val_mae in zip(state["boosters"], state["num_trees"], state["val_mae"], strict=True)
        ]
        self._mean, self._std = list(state["mean"]), list(state["std"])
        self._sparse = bool(state["sparse"])


class _PreparedData:
    """Quantised matrices of both splits, built once for all targets that are known in the same rows."""

    def __init__(self, features: ClassicalFeatures, *, sparse: bool, num_threads: int | None) -> None:
        self._features = features
        self._train_x = _to_matrix(features.train_x, sparse=sparse)
        self._val_x = _to_matrix(features.val_x, sparse=sparse)
        self._num_threads = num_threads
        self._key: tuple[bytes, bytes] | None = None
        self._train: xgboost.QuantileDMatrix | None = None
        self._val: xgboost.QuantileDMatrix | None = None

    def labelled(
        self, spec: TargetSpec, column: int
    ) -> tuple[xgboost.QuantileDMatrix, xgboost.QuantileDMatrix | None, float, float]:
        """Return both matrices with one target's standardised values as labels, and its mean and spread."""
        import xgboost

        train_y, val_y = self._features.train_y[:, column], self._features.val_y[:, column]
        train_known = known_targets(self._features.train_y, spec, column)
        val_known = np.isfinite(val_y)
        key = (train_known.tobytes(), val_known.tobytes())
        if key != self._key or self._train is None:
            self._val = None
            self._train = xgboost.QuantileDMatrix(_rows(self._train_x, train_known), nthread=self._num_threads)
            if val_known.any():
                self._val = xgboost.QuantileDMatrix(
                    _rows(self._val_x, val_known), ref=self._train, nthread=self._num_threads
                )
            self._key = key
        mean = float(train_y[train_known].mean())
        std = float(train_y[train_known].std()) or 1.0
        self._train.set_label((train_y[train_known] - mean) / std)
        if self._val is not None:
            self._val.set_label((val_y[val_known] - mean) / std)
        return self._train, self._val, mean, std


def _density(features: NDArray[np.generic]) -> float:
    sample = features[:_ROWS_PER_CHUNK]
    return float(np.count_nonzero(sample) / max(sample.size, 1))


def _to_matrix(features: NDArray[np.generic], *, sparse: bool) -> Any:
    if not sparse:
        return features
    from scipy import sparse as scipy_sparse

    chunks = [
        scipy_sparse.csr_matrix(features[start : start + _ROWS_PER_CHUNK].astype(np.float32))
        for start in range(0, max(len(features), 1), _ROWS_PER_CHUNK)
    ]
    return scipy_sparse.vstack(chunks, format="csr")


def _rows(matrix: Any, known: NDArray[np.bool_]) -> Any:
    return matrix if known.all() else matrix[known]
