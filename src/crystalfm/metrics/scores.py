"""Errors of predictions per target, in the target's own unit and, for energies, in electronvolts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import HARTREE_TO_EV, TargetSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_EV_PER_UNIT = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE_TO_EV,
}
_SYMBOLS = {
    "hartree": "Ha",
    "hartree/atom": "Ha/atom",
    "angstrom": "Å",
    "angstrom^2": "Å²",
    "bohr^2": "a₀²",
    "bohr^3": "a₀³",
}


def ev_per_unit(unit: str) -> float | None:
    """Return how many electronvolts one ``unit`` is, or ``None`` when it is no energy (energies per atom are none)."""
    return _EV_PER_UNIT.get(unit.lower())


def unit_symbol(unit: str) -> str:
    """Return the short form used on axes and in tables (``hartree`` -> ``Ha``); empty when dimensionless."""
    return "" if unit in {"", "1"} else _SYMBOLS.get(unit.lower(), unit)


def with_unit(text: str, unit: str) -> str:
    """Return a text with the short form of a unit in brackets behind it (``gap (eV)``), where there is one."""
    symbol = unit_symbol(unit)
    return f"{text} ({symbol})" if symbol else text


@dataclass(frozen=True)
class TargetScore:
    """Errors of one model on one target over the rows where the target is known.

    Attributes:
        target: the quantity and its unit.
        mae: mean absolute error, in the target's unit.
        rmse: root mean square error, in the target's unit.
        r2: coefficient of determination, 1 - SSE / SST; NaN when the true values do not vary.
        num_rows: number of rows scored.
    """

    target: TargetSpec
    mae: float
    rmse: float
    r2: float
    num_rows: int

    @property
    def mae_ev(self) -> float | None:
        """Mean absolute error in electronvolts, or ``None`` when the target is no energy."""
        factor = ev_per_unit(self.target.unit)
        return None if factor is None else self.mae * factor

    @property
    def mse(self) -> float:
        """Mean square error, in the square of the target's unit."""
        return self.rmse**2

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Return the numbers as a plain dictionary that JSON can hold (NaN becomes ``None``)."""
        values = {"mae": self.mae, "rmse": self.rmse, "mse": self.mse, "r2": self.r2}
        finite: dict[str, float | int | str | None] = {
            key: value if math.isfinite(value) else None for key, value in values.items()
        }
        return finite | {"unit": self.target.unit, "mae_ev": self.mae_ev, "num_rows": self.num_rows}


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model, one per target.

    Attributes:
        model: name shown in tables and figures.
        scores: one entry per target.
    """

    model: str
    scores: tuple[TargetScore, ...]


def known_pairs(
    true: NDArray[np.floating], predicted: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pairs (K,), (K,) of two (N,) arrays whose true value is known (not NaN)."""
    known = ~np.isnan(true)
    return true[known].astype(np.float64), predicted[known].astype(np.float64)


def score_target(true: NDArray[np.floating], predicted: NDArray[np.floating], target: TargetSpec) -> TargetScore:
    """Score the predictions of one target.

    Args:
        true: (N,) values in the target's unit, NaN where unknown.
        predicted: (N,) values in the target's unit.
        target: what is predicted.
    """
    known_true, known_predicted = known_pairs(true, predicted)
    if known_true.size == 0:
        return TargetScore(target, math.nan, math.nan, math.nan, 0)
    error = known_predicted - known_true
    total = float(np.sum((known_true - known_true.mean()) ** 2))
    r2 = 1.0 - float(np.sum(error**2)) / total if total > 0 else math.nan
    return TargetScore(
        target=target,
        mae=float(np.mean(np.abs(error))),
        rmse=float(np.sqrt(np.mean(error**2))),
        r2=r2,
        num_rows=int(known_true.size),
    )


def score_model(
    model: str,
    true: NDArray[np.floating],
    predicted: NDArray[np.floating],
    targets: Sequence[TargetSpec],
) -> ModelScores:
    """Score a model on every target.

    Args:
        model: name shown in tables and figures.
        true: (N, T) values in physical units, NaN where unknown.
        predicted: (N, T) values in physical units.
        targets: the T quantities.

    Raises:
        ValueError: the arrays and ``targets`` do not agree in shape.
    """
    if true.shape != predicted.shape or true.shape[1:] != (len(targets),):
        raise ValueError(f"expected two arrays (N, {len(targets)}), got {true.shape} and {predicted.shape}")
    scores = tuple(score_target(true[:, i], predicted[:, i], target) for i, target in enumerate(targets))
    return ModelScores(model, scores)


def by_target(results: Iterable[ModelScores]) -> dict[TargetSpec, dict[str, TargetScore]]:
    """Regroup scores: for each target, the models' scores in the order given."""
    table: dict[TargetSpec, dict[str, TargetScore]] = {}
    for result in results:
        for score in result.scores:
            table.setdefault(score.target, {})[result.model] = score
    return table


def best_model(scores: Mapping[str, TargetScore]) -> str | None:
    """Return the model with the lowest mean absolute error, or ``None`` when no model has one."""
    finite = {model: score.mae for model, score in scores.items() if math.isfinite(score.mae)}
    return min(finite, key=lambda model: finite[model]) if finite else None
