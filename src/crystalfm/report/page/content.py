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
    from crystalfm.report.page.markup import Cell
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


@dataclass(frozen=True)
class Figure:
    """A figure of generated samples.

    Attributes:
        name: what it is.
        value: as it is shown.
        of: what it was taken over, such as ``835 of 1,000 samples``.
        share: 0 to 1, drawn as a bar; ``None`` for other quantities.
    """

    name: str
    value: str
    of: str = ""
    share: float | None = None


@dataclass(frozen=True)
class FigureGroup:
    """Figures that belong together.

    Attributes:
        title: heading.
        figures: one a line.
        note: what has to be known to read them.
    """

    title: str
    figures: Sequence[Figure]
    note: str = ""


@dataclass(frozen=True)
class Distribution:
    """How often something occurs, in one set or in several, in the same bins.

    Attributes:
        title: what is counted.
        series: heights of the B bins by name; the colours of ``samples``, ``reference``, ``stable``, ``metastable`` and
            ``unstable`` are known.
        edges: B + 1 borders of the bins; empty where they are kinds.
        kinds: names of the bins; empty where they are ranges of numbers.
        x_label: what the numbers are, with their unit.
        y_label: what the heights are.
        note: what has to be known to read it.
    """

    title: str
    series: Mapping[str, Sequence[float]]
    edges: Sequence[float] = ()
    kinds: Sequence[str] = ()
    x_label: str = ""
    y_label: str = "share of crystals"
    note: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """A sample in the table.

    Attributes:
        id: identifier, by which its structure is found.
        cells: what the columns hold, the identifier first.
        told: said beside its structure.
        groups: keys of the groups it belongs to.
        absent: why it has no structure on the page, where it has none.
    """

    id: str
    cells: Sequence[Cell]
    told: str = ""
    groups: Sequence[str] = ()
    absent: str = ""


@dataclass(frozen=True)
class Card:
    """A crystal shown as a small picture.

    Attributes:
        id: identifier of its row.
        told: a line below its formula.
    """

    id: str
    told: str = ""


@dataclass(frozen=True)
class Gallery:
    """Generated samples: a table that is sorted and filtered, and crystals to turn.

    Attributes:
        title: heading.
        headings: of the columns.
        rows: samples.
        groups: what can be chosen, such as ``valid``, by key.
        cards: crystals shown as pictures.
        note: what has to be known to read the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[GalleryRow]
    groups: Mapping[str, str] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class PageContent:
    """Everything on a page.

    Attributes:
        title: name of the run.
        kind: what it is, such as ``training``.
        facts: what was run, as names and values.
        command: command that repeats it; ``None`` where it is not known.
        prompt: what a generator was asked; ``None`` where nothing was.
        headline: the figures of generated samples that matter most.
        figures: all figures of generated samples.
        gallery: generated samples; ``None`` where there are none. A page has a gallery or predictions.
        distributions: of what was generated, beside what it is compared with.
        data: what the data are, as names and values.
        rejected: rows that were not used.
        metrics: logged metrics, a mapping a row (see ``figures.read_metrics``).
        results: scores of the model (first) and of its baselines.
        predictions: what was predicted; ``None`` where there is nothing.
        structures: crystals and molecules of the worst predictions, or of the gallery, by id.
        structures_left_out: how many had no room.
        explanations: what ``explain=`` found.
        environment: versions and machine, as names and values.
    """

    title: str
    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    prompt: str | None = None
    headline: Sequence[Figure] = ()
    figures: Sequence[FigureGroup] = ()
    gallery: Gallery | None = None
    distributions: Sequence[Distribution] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    rejected: RejectedRows = field(default_factory=RejectedRows)
    metrics: Sequence[Mapping[str, float]] = ()
    results: Sequence[ModelScores] = ()
    predictions: Predictions | None = None
    structures: Mapping[str, Structure] = field(default_factory=dict)
    structures_left_out: int = 0
    explanations: Sequence[Explanation] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
