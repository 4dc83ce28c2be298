"""Whether samples are what was asked for: their formula, their space group, their properties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.formulas import reduced_formula
from crystalfm.metrics.crystals.counts import Mean, Share
from crystalfm.metrics.crystals.symmetry import SYMPREC_ANGSTROM, space_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.crystals import Crystal

FORMULA = "formula"
SPACE_GROUP = "spacegroup"
"""Names of the conditions that a crystal itself answers; every other one is a property that is predicted."""


@dataclass(frozen=True)
class PropertyErrors:
    """How far predicted properties are from what was asked for.

    Attributes:
        absolute: mean absolute error, in the property's unit, with the number of samples.
        num_asked: samples of which the property was asked, those without a prediction included.
    """

    absolute: Mean
    num_asked: int


@dataclass(frozen=True)
class ConditionScores:
    """How far samples are what was asked for.

    Attributes:
        formula: samples with the reduced formula asked for, among those of which one was asked.
        space_group: samples with the space group asked for, among those of which one was asked.
        symprec_angstrom: tolerance of the space groups.
        properties: errors of each property that was asked for and predicted.
    """

    formula: Share
    space_group: Share
    symprec_angstrom: float
    properties: Mapping[str, PropertyErrors]


def condition_scores(
    samples: Sequence[Crystal | None],
    asked: Sequence[Mapping[str, str | int | float]],
    *,
    predicted: Mapping[str, Sequence[float | None]] | None = None,
    symprec_angstrom: float = SYMPREC_ANGSTROM,
) -> ConditionScores:
    """Compare samples with what was asked of each.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed, which honours nothing.
        asked: conditions of each sample: ``formula``, ``spacegroup`` (a number) and properties by name.
        predicted: by property, a predictor's value for each sample in the property's unit; ``None`` or NaN where
            there is none.
        symprec_angstrom: tolerance of the space groups.

    Raises:
        UserError: a formula that was asked for is none, or spglib is not installed.
        ValueError: the numbers of samples, conditions and predictions differ.
    """
    pairs = list(zip(samples, asked, strict=True))
    formulas = [
        crystal is not None and crystal.formula == reduced_formula(str(wanted[FORMULA]))
        for crystal, wanted in pairs
        if FORMULA in wanted
    ]
    groups = [
        crystal is not None and space_group(crystal, symprec_angstrom) == int(wanted[SPACE_GROUP])
        for crystal, wanted in pairs
        if SPACE_GROUP in wanted
    ]
    return ConditionScores(
        formula=Share(sum(formulas), len(formulas)),
        space_group=Share(sum(groups), len(groups)),
        symprec_angstrom=symprec_angstrom,
        properties={name: _errors(name, asked, values) for name, values in (predicted or {}).items()},
    )


def _errors(
    name: str, asked: Sequence[Mapping[str, str | int | float]], predicted: Sequence[float | None]
) -> PropertyErrors:
    """Return the errors of one property over the samples of which it was asked."""
    pairs = [(wanted[name], value) for wanted, value in zip(asked, predicted, strict=True) if name in wanted]
    errors = [abs(float(value) - float(wanted)) for wanted, value in pairs if value is not None]
    finite = [error for error in errors if math.isfinite(error)]
    return PropertyErrors(Mean(float(np.mean(finite)) if finite else math.nan, len(finite)), len(pairs))
