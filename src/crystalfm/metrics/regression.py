"""Errors of predictions per target, in physical units; energies in electronvolts as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from crystalfm.contracts import HARTREE_TO_EV, TargetSpec
from crystalfm.models.errors import RegressionErrors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RegressionErrors", "regression_metrics"]


def regression_metrics(
    prediction: NDArray[np.floating],
    target: NDArray[np.floating],
    mask: NDArray[np.bool_],
    specs: Sequence[TargetSpec],
) -> dict[str, float]:
    """Score predictions of one set of rows.

    Args:
        prediction: (N, T) in each target's physical unit.
        target: (N, T) true values in the same units; anything where ``mask`` is false, NaN included.
        mask: (N, T) bool, true where the target is known.
        specs: the T targets.

    Returns:
        for each target, by its label: ``mae_<label>``, ``rmse_<label>`` (in its unit), ``r2_<label>``,
        ``count_<label>`` (rows that know it) and, for energies in Hartree, ``mae_<name>_eV``. NaN where no
        row knows the target; R² is also NaN where all true values are equal.

    Raises:
        ValueError: the shapes do not agree.
    """
    if not prediction.shape == target.shape == mask.shape or prediction.shape[1:] != (len(specs),):
        raise ValueError(
            f"shapes disagree: prediction {prediction.shape}, target {target.shape}, mask {mask.shape}, "
            f"{len(specs)} targets"
        )
    known = torch.from_numpy(mask)
    truth = torch.where(known, torch.from_numpy(target).double(), 0.0)
    origin = truth.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    errors = RegressionErrors(origin)
    errors.update(torch.from_numpy(prediction), truth, known)
    scores = {
        f"{kind}_{spec.label}": float(values[column])
        for kind, values in errors.scores().items()
        for column, spec in enumerate(specs)
    }
    for column, spec in enumerate(specs):
        scores[f"count_{spec.label}"] = float(mask[:, column].sum())
        if spec.unit == "hartree":
            scores[f"mae_{spec.name}_eV"] = scores[f"mae_{spec.label}"] * HARTREE_TO_EV
    return scores
