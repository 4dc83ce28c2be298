"""Where a model errs: its errors by kinds of crystals or molecules, and which kinds it predicts best.

After section 4 and Fig. 6 of Li et al., Digital Discovery 4, 376 (2025): the share of the best-predicted tenth in each
group. Every figure has its count and, for errors, an interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.metrics.bootstrap import Interval, mean_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

REST = "all others"
_BEST_SHARE = 0.1
_RANGES = 5


@dataclass(frozen=True)
class GroupError:
    """Errors of a target within a group of rows.

    Attributes:
        kind: what the rows are grouped by.
        group: name of the group.
        target: label of the target.
        count: rows of the group with a known value.
        mae: mean absolute error with its interval, in the target's unit.
        best_share: share of the group's rows that are among the best-predicted tenth of all rows; a tenth where the
            group is as any other.
    """

    kind: str
    group: str
    target: str
    count: int
    mae: Interval
    best_share: float


def group_errors(
    errors: NDArray[np.float64],
    groups: Mapping[str, Sequence[str]],
    target: str,
    *,
    least: int = 10,
    order: Mapping[str, Sequence[str]] | None = None,
) -> list[GroupError]:
    """Return the errors of each group of each kind.

    Args:
        errors: (N,) absolute errors, NaN where the value is not known.
        groups: by kind, the group (N,) of each row.
        target: label of the target.
        least: groups of fewer known rows are put together as ``REST``.
        order: order of the groups of a kind that has one of its own; else the most frequent first.
    """
    known = np.isfinite(errors)
    num_best = max(1, round(_BEST_SHARE * int(known.sum())))
    best = np.zeros(len(errors), dtype=np.bool_)
    best[np.argsort(np.where(known, errors, np.inf), kind="stable")[:num_best]] = True
    found = []
    for kind, names in groups.items():
        column = np.asarray(names, dtype=np.str_)
        counts = {str(name): int((known & (column == name)).sum()) for name in np.unique(column)}
        small = [name for name, count in counts.items() if count < least]
        large = [name for name in counts if name not in small]
        wanted = (order or {}).get(kind)
        frequent = sorted(large, key=counts.__getitem__, reverse=True)
        ranked = sorted(large, key=wanted.index) if wanted else frequent
        parts = [(name, column == name) for name in ranked]
        if sum(counts[name] for name in small):
            parts.append((REST, np.isin(column, small)))
        for name, rows in parts:
            chosen = rows & known
            share = float(best[chosen].mean())
            found.append(GroupError(kind, name, target, int(chosen.sum()), mean_interval(errors[chosen]), share))
    return found


def value_ranges(values: NDArray[np.float64], ranges: int = _RANGES) -> tuple[list[str], list[str]]:
    """Return the range (N,) that each value falls in, and the names of the ranges in order.

    The ranges hold about as many values each. A value that more rows have than a range would hold, as the gap 0 of
    metals, is a range of its own.

    Args:
        values: (N,) values, NaN where not known.
        ranges: how many ranges.
    """
    known = values[np.isfinite(values)]
    distinct, counts = np.unique(known, return_counts=True)
    frequent = distinct[counts * ranges > len(known)]
    others = known[~np.isin(known, frequent)]
    edges = np.unique(np.quantile(others, np.linspace(0, 1, ranges + 1))) if len(others) else others
    spans = list(pairwise(edges.tolist())) or [(float(edge), float(edge)) for edge in edges]
    starts = [(float(value), f"{value:.3g}") for value in frequent.tolist()]
    starts += [(low, f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}") for low, high in spans]
    exact = dict(starts[: len(frequent)])
    names = []
    for value in values.tolist():
        place = int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, max(len(spans) - 1, 0)))
        names.append(exact[value] if value in exact else starts[len(frequent) + place][1] if spans else REST)
    return names, [name for _, name in sorted(starts)]
