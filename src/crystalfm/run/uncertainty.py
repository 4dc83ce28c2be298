"""What a run knows of the uncertainty of its predictions: spread of its members, and calibrated intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.io.files import write_json
from crystalfm.metrics.conformal import ConformalIntervals, IntervalScore, score_intervals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.run.prepare import PreparedData

FILE_VERSION = 1

FLOOR_SHARE = 0.01
"""What is added to the members' standard deviation, as a share of that of the training targets."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Predictions with what is known of their uncertainty, in the targets' units.

    Attributes:
        values: (K, T) predictions; of an ensemble the mean of its members.
        std: (K, T) standard deviation of the members; ``None`` for a single model.
        lower: (K, T) lower ends of the intervals; ``None`` without intervals.
        upper: (K, T) upper ends.
    """

    values: NDArray[np.float64]
    std: NDArray[np.float64] | None = None
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None

    @classmethod
    def of_members(cls, members: Sequence[NDArray[np.float64]]) -> Estimate:
        """Return mean and standard deviation of the members' (K, T) predictions."""
        if len(members) == 1:
            return cls(members[0])
        stacked = np.stack(members)
        return cls(stacked.mean(axis=0), stacked.std(axis=0, ddof=1))

    def with_intervals(self, intervals: ConformalIntervals | None) -> Estimate:
        """Return the same with intervals, where there are any that are bounded."""
        if intervals is None or not intervals.is_bounded:
            return self
        lower, upper = intervals.around(self.values, self.std)
        return Estimate(self.values, self.std, lower, upper)

    def select(self, places: NDArray[np.int64]) -> Estimate:
        """Return the estimates at ``places``."""
        parts = (self.values, self.std, self.lower, self.upper)
        values, *others = (None if part is None else part[places] for part in parts)
        return Estimate(self.values[places] if values is None else values, *others)

    def columns(self, column: int) -> dict[str, NDArray[np.float64]]:
        """Return what there is beside the values of one target: ``std``, ``lower``, ``upper``, (K,) each."""
        parts = {"std": self.std, "lower": self.lower, "upper": self.upper}
        return {name: part[:, column] for name, part in parts.items() if part is not None}


def calibrate(
    prepared: PreparedData, rows: NDArray[np.int64], estimate: Estimate, coverage: float | None
) -> ConformalIntervals | None:
    """Fit intervals on the validation rows.

    Args:
        prepared: data of the run.
        rows: (K,) rows of the estimates, ascending; the validation rows are among them.
        estimate: their estimates.
        coverage: probability with which an interval is to hold the true value; ``None`` for no intervals.
    """
    val = prepared.splits.val
    if coverage is None or not len(val):
        return None
    table = prepared.table
    held_out = estimate.select(np.searchsorted(rows, val))
    floors = None if held_out.std is None else FLOOR_SHARE * target_scales(table.targets[prepared.splits.train])
    return ConformalIntervals.fit(table.targets[val], held_out.values, float(coverage), std=held_out.std, floors=floors)


def target_scales(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (T,) standard deviations of (N, T) targets, 1 where they do not vary."""
    scales = np.ones(targets.shape[1])
    for column in range(targets.shape[1]):
        known = targets[~np.isnan(targets[:, column]), column]
        spread = float(known.std()) if known.size else 0.0
        scales[column] = spread if spread > 0 else 1.0
    return scales


def score_estimate(
    true: NDArray[np.float64], estimate: Estimate, targets: Sequence[TargetSpec]
) -> list[IntervalScore] | None:
    """Score the intervals of (K, T) estimates; ``None`` without intervals."""
    if estimate.lower is None or estimate.upper is None:
        return None
    return score_intervals(true, estimate.lower, estimate.upper, targets)


def uncertainty_summary(
    intervals: ConformalIntervals | None, scores: Sequence[IntervalScore] | None, targets: Sequence[TargetSpec]
) -> dict[str, Any] | None:
    """Return what ``summary.json`` says: level, and for each target its quantile and how its intervals did.

    Args:
        intervals: intervals of the run.
        scores: how they did on test rows, where there are any.
        targets: the T quantities.
    """
    if intervals is None:
        return None
    state = intervals.state()
    found = {score.target.name: score.as_dict() for score in scores or []}
    return {
        "coverage": intervals.coverage,
        "normalized": intervals.floors is not None,
        "targets": {
            target.name: {
                "quantile": state["quantiles"][column],
                "num_validation_rows": state["num_rows"][column],
                "test": found.get(target.name),
            }
            for column, target in enumerate(targets)
        },
    }


def write_uncertainty(
    path: Path, intervals: ConformalIntervals | None, targets: Sequence[TargetSpec], checkpoint: str | None
) -> None:
    """Write the intervals into the run folder, for predictions to come; without any the file is removed.

    Args:
        path: the file.
        intervals: what was fitted.
        targets: the T quantities.
        checkpoint: name of the checkpoint whose errors they were fitted on; ``None`` for an ensemble.
    """
    if intervals is None:
        path.unlink(missing_ok=True)
        return
    names = [target.name for target in targets]
    write_json(path, {"version": FILE_VERSION, "checkpoint": checkpoint, "targets": names, **intervals.state()})


def read_uncertainty(
    path: Path, targets: Sequence[TargetSpec], checkpoint: str | None = None
) -> ConformalIntervals | None:
    """Read what ``write_uncertainty`` wrote; ``None`` where there is nothing for this checkpoint.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        fits = state["version"] == FILE_VERSION and state["targets"] == [target.name for target in targets]
        intervals = ConformalIntervals.from_state(state) if state["checkpoint"] == checkpoint else None
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(path, str(error)) from error
    if not fits:
        raise _refusal(path, "it is of another version or of other targets")
    return intervals


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read: {reason}", remedy="remove it to predict without intervals, or train again"
    )
