"""Scores of configurations of point defects: allowed, different, new, the true one, and near to what was asked for.

Equivalent configurations are those that a symmetry operation of the layer turns into each other. They are compared by
their canonical forms (``chem.defects.configurations.canonical``), so equivalence is exact and transitive.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.defects.configurations import canonical
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.metrics.crystals.counts import Mean, Share, plain

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule

QUARTER = 0.25

OPTIMISTIC = (
    "R²25 and RMSE25 keep only the quarter of the values with the smallest errors. Chosen by the error itself, they"
    " look better than the full sample whatever the model, random answers included; the full-sample values beside them"
    " are the ones to compare."
)
"""Why the scores of the best quarter say little."""

SAME_JUDGE = (
    "Hits are judged by the surrogate that also ranks them, not by a calculation: they say how well a search meets the"
    " surrogate, and no search can be more right than it is."
)
"""What a hit is worth."""


@dataclass(frozen=True)
class QuarterScore:
    """Scores of the quarter of pairs with the smallest errors, with those of all pairs beside them.

    With Q = {i : (y_i - p_i)² <= the 25 % quantile of all squared errors}, R²25 = 1 - sum_Q (y_i - p_i)² /
    sum_Q (y_i - mean_Q y)² and RMSE25 = sqrt(mean_Q (y_i - p_i)²): the definitions of the talk on 2DMD. See
    ``OPTIMISTIC``.

    Attributes:
        r2: 1 - SSE / SST over all pairs; NaN where the true values do not vary.
        rmse: root mean square error over all pairs, in their unit.
        mae: mean absolute error over all pairs.
        num: all pairs.
        r2_25: the same over Q.
        rmse_25: the same over Q.
        num_25: pairs in Q.
    """

    r2: float
    rmse: float
    mae: float
    num: int
    r2_25: float
    rmse_25: float
    num_25: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as plain values that JSON can hold (NaN becomes ``None``)."""
        return {name: value if isinstance(value, int) else plain(value) for name, value in asdict(self).items()}


def quarter_score(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> QuarterScore:
    """Score pairs in full and by their best quarter.

    Args:
        true: (N,) values, such as targets that were asked for; NaN where unknown.
        predicted: (N,) values in the same unit; pairs without a number are left out.
    """
    known = np.isfinite(true) & np.isfinite(predicted)
    true, predicted = true[known].astype(np.float64), predicted[known].astype(np.float64)
    if not true.size:
        return QuarterScore(math.nan, math.nan, math.nan, 0, math.nan, math.nan, 0)
    squares = (true - predicted) ** 2
    kept = squares <= np.quantile(squares, QUARTER)
    return QuarterScore(
        r2=_r2(true, squares),
        rmse=math.sqrt(squares.mean()),
        mae=float(np.abs(true - predicted).mean()),
        num=int(true.size),
        r2_25=_r2(true[kept], squares[kept]),
        rmse_25=math.sqrt(squares[kept].mean()),
        num_25=int(kept.sum()),
    )


def _r2(true: NDArray[np.float64], squares: NDArray[np.float64]) -> float:
    # Equal values have a mean that rounding can set off from them: they are recognised before it.
    if np.ptp(true) == 0:
        return math.nan
    return 1.0 - float(squares.sum() / ((true - true.mean()) ** 2).sum())


def rules_kept(
    configuration: Configuration,
    supercell: Supercell,
    rules: Collection[DefectRule],
    *,
    min_defects: int = 1,
    max_defects: int | None = None,
) -> bool:
    """Return whether every defect is one of the rules, and their number in the range (``None``: no upper limit)."""
    if len(configuration) < min_defects or (max_defects is not None and len(configuration) > max_defects):
        return False
    return set(configuration.rules(supercell)) <= set(rules)


def canonical_forms(configurations: Sequence[Configuration | None], supercell: Supercell) -> list[Configuration | None]:
    """Return the canonical form of each configuration of one supercell, ``None`` where there is none."""
    present = [configuration for configuration in configurations if configuration is not None]
    found = iter(canonical(present, site_permutations(supercell)))
    return [None if configuration is None else next(found) for configuration in configurations]


def first_equivalents(forms: Sequence[Configuration | None]) -> list[int | None]:
    """Return for each canonical form the place of the first equal one, its own where it is the first."""
    first: dict[Configuration, int] = {}
    return [None if form is None else first.setdefault(form, place) for place, form in enumerate(forms)]


@dataclass(frozen=True)
class DefectCounts:
    """How many samples are any good, each with what they are counted among.

    Attributes:
        valid: texts that are a configuration of the supercell: coordinates kept, each site at most once; of all.
        allowed: those that keep to the rules and numbers of defects, too; of all.
        unique: different allowed configurations under the layer's symmetry; of all.
        unique_among_allowed: the same of the allowed ones.
        novel: of the different allowed ones those equivalent to none in the training part; ``None``: not known.
        types: allowed samples by the name of their combination of defects.
    """

    valid: Share
    allowed: Share
    unique: Share
    unique_among_allowed: Share
    novel: Share | None
    types: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the shares as plain containers."""
        names = ("valid", "allowed", "unique", "unique_among_allowed", "novel")
        shares = {name: getattr(self, name) for name in names}
        return {name: None if share is None else share.as_dict() for name, share in shares.items()} | {
            "types": self.types
        }


def count_defects(
    forms: Sequence[Configuration | None],
    allowed: Sequence[bool],
    supercell: Supercell,
    known: Collection[Configuration] | None = None,
) -> DefectCounts:
    """Count samples of one supercell.

    Args:
        forms: canonical form of each sample (``canonical_forms``), ``None`` where its text is none.
        allowed: whether each keeps the rules.
        supercell: the supercell.
        known: canonical forms of the training part; ``None`` where it is not at hand.
    """
    good = [form for form, kept in zip(forms, allowed, strict=True) if kept and form is not None]
    different = set(good)
    total = len(forms)
    return DefectCounts(
        valid=Share(sum(form is not None for form in forms), total),
        allowed=Share(len(good), total),
        unique=Share(len(different), total),
        unique_among_allowed=Share(len(different), len(good)),
        novel=None if known is None else Share(len(different - set(known)), len(different)),
        types=dict(Counter(form.type_name(supercell) for form in good).most_common()),
    )


@dataclass(frozen=True)
class ConfigurationMatches:
    """How often a configuration that was asked for by its properties came out.

    Attributes:
        exact: written configurations with the very defects of the true one, site by site; of all.
        equivalent: those that a symmetry operation of the layer turns into it; of all.
        same_type: those with the same combination of defects, wherever they are; of all.
    """

    exact: Share
    equivalent: Share
    same_type: Share

    def as_dict(self) -> dict[str, Any]:
        """Return the shares as plain containers."""
        return {name: getattr(self, name).as_dict() for name in ("exact", "equivalent", "same_type")}


def match_configurations(
    written: Sequence[Configuration | None], true: Sequence[Configuration], supercells: Sequence[Supercell]
) -> ConfigurationMatches:
    """Compare written configurations with true ones, pair by pair.

    Only what was decided counts: the sites of the host that nobody changed are no hits.

    Args:
        written: what was written; ``None`` where the text is no configuration, which is no match.
        true: what it should be.
        supercells: the supercell of each pair.
    """
    exact = same_type = 0
    by_supercell: dict[Supercell, list[tuple[Configuration, Configuration]]] = {}
    for found, wanted, supercell in zip(written, true, supercells, strict=True):
        if found is not None:
            exact += found == wanted
            same_type += sorted(found.rules(supercell)) == sorted(wanted.rules(supercell))
            by_supercell.setdefault(supercell, []).append((found, wanted))
    equivalent = 0
    for supercell, pairs in by_supercell.items():
        one, other = (canonical_forms(side, supercell) for side in zip(*pairs, strict=True))
        equivalent += sum(first == second for first, second in zip(one, other, strict=True))
    total = len(true)
    return ConfigurationMatches(Share(exact, total), Share(equivalent, total), Share(same_type, total))


@dataclass(frozen=True)
class DesignScore:
    """How near the configurations of a search come to what was asked for.

    Attributes:
        hits: samples within the tolerance; of all samples, those without a value being misses.
        unique_hits: different configurations within it; of all samples.
        best_error: smallest error; NaN of nothing.
        top_hits: of the best different configurations (up to a given number) those within the tolerance.
        top_error: mean error of these.
    """

    hits: Share
    unique_hits: Share
    best_error: float
    top_hits: Share
    top_error: Mean

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain containers."""
        return {
            "hits": self.hits.as_dict(),
            "unique_hits": self.unique_hits.as_dict(),
            "best_error": plain(self.best_error),
            "top_hits": self.top_hits.as_dict(),
            "top_error": self.top_error.as_dict(),
        }


def design_score(
    keys: Sequence[Hashable | None], errors: NDArray[np.float64], tolerance: float, top: int
) -> DesignScore:
    """Score a search.

    Args:
        keys: what makes a sample different, its canonical form and what it was asked for; ``None`` where it is no
            allowed configuration.
        errors: (N,) its error against what was asked for, not negative; NaN where it has none.
        tolerance: largest error of a hit.
        top: how many of the best different configurations are looked at, as somebody would who can afford so many
            calculations.
    """
    best: dict[Hashable, float] = {}
    num_hits = 0
    for key, error in zip(keys, errors.tolist(), strict=True):
        if key is not None and math.isfinite(error):
            num_hits += error <= tolerance
            best[key] = min(error, best.get(key, math.inf))
    ranked = sorted(best.values())
    chosen = ranked[:top]
    return DesignScore(
        hits=Share(num_hits, len(keys)),
        unique_hits=Share(sum(error <= tolerance for error in ranked), len(keys)),
        best_error=ranked[0] if ranked else math.nan,
        top_hits=Share(sum(error <= tolerance for error in chosen), len(chosen)),
        top_error=Mean(math.fsum(chosen) / len(chosen) if chosen else math.nan, len(chosen)),
    )
