"""Energies of the elements where a reference set holds no crystals of them, but compounds with energies of formation.

A data set's energies of formation say how far below its elements each compound lies. What the calculator's energy of
a compound exceeds them by is then the energy of its elements, so that these follow from all compounds together by
linear regression: with thousands of compounds an element's energy is known far better than any single one. They stand
for the elements' ground states on the calculator's scale, and what the scales differ by beyond that (corrections of
another year, for instance) goes into them as far as it is linear in the composition.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MIN_COMPOUNDS = 5
"""An element in fewer compounds gets no energy."""

_SINGULAR = 1e-6
_SCALE_EV_PER_ATOM = 0.1
"""Residuals beyond this count less and less: single compounds for which the calculator fails."""


@dataclass(frozen=True)
class ElementFit:
    """Energies of elements, by regression.

    Attributes:
        energies: eV/atom by symbol.
        num_compounds: compounds used.
        median_residual: median of the absolute residuals in eV/atom.
        rmse: root of their mean square, outliers included, in eV/atom.
    """

    energies: Mapping[str, float]
    num_compounds: int
    median_residual: float
    rmse: float

    def as_dict(self) -> dict[str, object]:
        """Return what a report says of the fit."""
        return {
            "compounds": self.num_compounds,
            "elements": len(self.energies),
            "median_residual": self.median_residual,
            "rmse": self.rmse,
        }


def fit_elements(
    compositions: Sequence[Mapping[str, float]], energies: Sequence[float], formation_energies: Sequence[float]
) -> ElementFit | None:
    """Fit the energies of the elements.

    Args:
        compositions: atoms by element symbol.
        energies: the calculator's, in eV/atom.
        formation_energies: those of the data set in eV/atom; NaN where unknown.

    Returns:
        the fit, or ``None`` where the compounds determine the energy of no element; in compounds of one ratio, for
        instance, what is given to all cations can be taken from all anions.
    """
    known = [row for row, value in enumerate(formation_energies) if math.isfinite(value)]
    names = _fitted_names([compositions[row] for row in known])
    rows = [row for row in known if set(compositions[row]) <= set(names)]
    if not rows:
        return None
    columns = {name: column for column, name in enumerate(names)}
    shares = np.zeros((len(rows), len(names)))
    for place, row in enumerate(rows):
        total = math.fsum(compositions[row].values())
        for name, count in compositions[row].items():
            shares[place, columns[name]] = count / total
    excess = np.array([energies[row] - formation_energies[row] for row in rows])
    found = _robust(shares, excess)
    residuals = np.abs(shares @ found - excess)
    determined = _determined(shares)
    if not determined.any():
        return None
    return ElementFit(
        {name: energy for name, energy, usable in zip(names, found.tolist(), determined, strict=True) if usable},
        len(rows),
        float(np.median(residuals)),
        float(np.sqrt(np.mean(residuals**2))),
    )


def _fitted_names(compositions: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the elements in enough compounds all of whose elements are."""
    names: set[str] | None = None
    while True:
        usable = [set(one) for one in compositions if names is None or set(one) <= names]
        counts = Counter(name for one in usable for name in one)
        enough = {name for name, count in counts.items() if count >= MIN_COMPOUNDS}
        if enough == names:
            return sorted(enough)
        names = enough


def _determined(shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (E,) whether the equations leave no freedom to an element."""
    _, sizes, directions = np.linalg.svd(shares.T @ shares)
    free = directions[sizes < _SINGULAR * sizes[0]]
    determined: NDArray[np.bool_] = np.abs(free).max(axis=0, initial=0.0) < _SINGULAR
    return determined


def _robust(shares: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (E,) solution of a linear regression in which outliers count little."""
    from scipy.optimize import least_squares

    start = np.linalg.lstsq(shares, excess, rcond=None)[0]
    found: NDArray[np.float64] = least_squares(
        lambda x: shares @ x - excess, start, jac=lambda _: shares, loss="soft_l1", f_scale=_SCALE_EV_PER_ATOM
    ).x
    return found
