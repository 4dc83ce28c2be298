"""What a run's page shows, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.metrics.scores import ModelScores
    from crystalfm.report.page.structures import Structure

MAX_WORST = 400
"""Rows of the table of worst predictions, all targets together."""

_WORST_PER_TARGET = 50


@dataclass(frozen=True)
class RejectedRows:
    """Rows that were not used.

    Attributes:
        counts: number of rows by reason, the most frequent first.
        first: identifier, reason and value of the first rows.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    first: Sequence[tuple[str, str, str]] = ()

    @property
    def total(self) -> int:
        """Number of rejected rows."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class WorstRow:
    """A prediction that is far off.

    Attributes:
        row: which of the predictions.
        column: which of the targets.
        relative: absolute error beside the target's mean absolute error.
    """

    row: int
    column: int
    relative: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """True and predicted values of the rows that are shown.

    Attributes:
        rows: what the rows are, such as ``test``.
        ids: K identifiers.
        targets: T targets.
        true: (K, T) values in the targets' units, NaN where unknown.
        predicted: (K, T) predictions.
    """

    rows: str
    ids: Sequence[str]
    targets: Sequence[TargetSpec]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]

    def worst(self) -> list[WorstRow]:
        """Return the largest errors, a few of each target, the largest beside the target's mean absolute error first.

        Rows without a true value, and predictions that are no number, are left out: the former have no error, the
        latter are told by ``num_not_finite``.
        """
        number = max(1, min(_WORST_PER_TARGET, MAX_WORST // max(len(self.targets), 1)))
        found = []
        for column in range(min(len(self.targets), MAX_WORST)):
            errors = np.abs(self.predicted[:, column] - self.true[:, column])
            known = np.flatnonzero(np.isfinite(errors))
            mean = float(errors[known].mean()) if known.size else 0.0
            order = known[np.argsort(-errors[known], kind="stable")][:number]
            found += [WorstRow(row, column, float(errors[row]) / (mean or 1.0)) for row in order.tolist()]
        return sorted(found, key=lambda one: -one.relative)

    @property
    def num_not_finite(self) -> int:
        """Number of predictions that are no finite number."""
        return int(np.count_nonzero(~np.isfinite(self.predicted)))


@dataclass(frozen=True)
class Explanation:
    """Something that ``explain=`` found.

    Attributes:
        title: heading.
        html: what is shown, as HTML that is safe to put in.
    """

    title: str
    html: str


@dataclass(frozen=True, eq=False)
class PageContent:
    """Everything on a page.

    Attributes:
        title: name of the run.
        kind: what it is, such as ``training``.
        facts: what was run, as names and values.
        command: command that repeats it; ``None`` where it is not known.
        data: what the data are, as names and values.
        rejected: rows that were not used.
        metrics: logged metrics, a mapping a row (see ``figures.read_metrics``).
        results: scores of the model (first) and of its baselines.
        predictions: what was predicted; ``None`` where there is nothing.
        structures: crystals and molecules of the worst predictions, by id.
        structures_left_out: how many had no room.
        explanations: what ``explain=`` found.
        environment: versions and machine, as names and values.
    """

    title: str
    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    rejected: RejectedRows = field(default_factory=RejectedRows)
    metrics: Sequence[Mapping[str, float]] = ()
    results: Sequence[ModelScores] = ()
    predictions: Predictions | None = None
    structures: Mapping[str, Structure] = field(default_factory=dict)
    structures_left_out: int = 0
    explanations: Sequence[Explanation] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
