"""Configurations of a search, the model's or a random one, with what a surrogate says of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.metrics.defects import canonical_forms, design_score, first_equivalents
from crystalfm.run.designing.surrogate import worst_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.metrics.defects import DesignScore
    from crystalfm.run.designing.plan import DesignPlan
    from crystalfm.run.designing.surrogate import Surrogate

_STREAM = 1
"""Sets the random numbers of the baseline off from others of the same seed."""


@dataclass(frozen=True, eq=False)
class Search:
    """What was searched, in the order in which it came.

    Attributes:
        configurations: N configurations that keep the rules; ``None`` where a sample is none.
        forms: their canonical forms.
        targets: what each was asked for.
        values: (N,) what the surrogate says, by property; NaN where there is no configuration. Empty without one.
        errors: (N,) values minus what was asked for, by property that was asked for.
        worst: (N,) largest error in size; NaN where it is not known.
    """

    configurations: list[Configuration | None]
    forms: list[Configuration | None]
    targets: list[Mapping[str, float]]
    values: dict[str, NDArray[np.float64]]
    errors: dict[str, NDArray[np.float64]]
    worst: NDArray[np.float64]

    @cached_property
    def keys(self) -> list[tuple[Configuration, tuple[float, ...]] | None]:
        """What makes samples different: the canonical form and what was asked for."""
        return [
            None if form is None else (form, tuple(target.values()))
            for form, target in zip(self.forms, self.targets, strict=True)
        ]

    @cached_property
    def first_of(self) -> list[int | None]:
        """Of each, the place of the first equivalent one, whatever it was asked for; ``None`` where there is none."""
        return first_equivalents(self.forms)

    @property
    def is_scored(self) -> bool:
        """Whether errors are known."""
        return bool(np.isfinite(self.worst).any())

    def ranked(self) -> list[int]:
        """Return the places of different configurations, best first; as they came where errors are not known."""
        first: dict[object, int] = {}
        for place, key in enumerate(self.keys):
            if key is not None:
                first.setdefault(key, place)
        places = list(first.values())
        return sorted(places, key=lambda place: (np.nan_to_num(self.worst[place], nan=np.inf), place))

    def score(self, tolerance: float, top: int) -> DesignScore:
        """Return how near it came."""
        return design_score(self.keys, self.worst, tolerance, top)


def make_search(
    configurations: Sequence[Configuration | None],
    plan: DesignPlan,
    indices: Sequence[int],
    surrogate: Surrogate | None,
) -> Search:
    """Ask the surrogate about configurations, each different one once.

    Args:
        configurations: configurations that keep the rules; ``None`` for none.
        plan: what was asked.
        indices: number of each sample, which decides what it was asked for.
        surrogate: the surrogate; ``None`` for none.
    """
    forms = canonical_forms(configurations, plan.supercell)
    targets = [plan.target(index) for index in indices]
    values: dict[str, NDArray[np.float64]] = {}
    if surrogate is not None:
        different = list(dict.fromkeys(form for form in forms if form is not None))
        places = {form: place for place, form in enumerate(different)}
        rows = np.array([-1 if form is None else places[form] for form in forms], dtype=np.int64)
        for name, column in surrogate.values(different, plan.supercell).items():
            values[name] = np.append(column, np.nan)[rows]
    errors, worst = worst_errors(values, targets) if values else ({}, np.full(len(forms), np.nan))
    return Search(list(configurations), forms, targets, values, errors, worst)


def random_search(plan: DesignPlan, count: int, seed: int, surrogate: Surrogate | None) -> Search:
    """Return as many random configurations that keep the rules.

    The number of defects is drawn evenly from those allowed, then a rule for each of them, then one of its free sites.

    Args:
        plan: what the model was asked; the same targets are asked for in turn.
        count: how many.
        seed: seed of the draw.
        surrogate: the surrogate; ``None`` for none.
    """
    rng = np.random.default_rng([seed, _STREAM])
    drawn = []
    for _ in range(count):
        number = int(rng.integers(plan.min_defects, plan.max_defects + 1))
        drawn.append(random_configuration(plan.supercell, plan.rules, number, rng))
    return make_search(drawn, plan, range(count), surrogate)
