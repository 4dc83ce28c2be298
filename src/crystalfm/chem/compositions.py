"""Compositions as vectors: how much of each element, and statistics of the elements' properties.

The vector follows Ward et al., "A general-purpose machine learning framework for predicting properties of inorganic
materials", npj Comput. Mater. 2, 16028 (2016): stoichiometry, and over the elements of a compound the fraction-weighted
mean and mean absolute deviation, the minimum, the maximum and the range of each elemental property. The elemental data
are pymatgen's (Ong et al., Comput. Mater. Sci. 68, 314, 2013).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, CrystalError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from pymatgen.core.periodic_table import Element

NUM_ELEMENTS = len(SYMBOLS)

_OF_PYMATGEN = (
    "Z",
    "atomic_mass",
    "X",
    "atomic_radius",
    "van_der_waals_radius",
    "row",
    "group",
    "mendeleev_no",
    "melting_point",
    "molar_volume",
    "electron_affinity",
    "ionization_energy",
)
_CAPACITY = {"s": 2, "p": 6, "d": 10, "f": 14}
_NOBLE_GASES = {1: 0, 2: 2, 3: 10, 4: 18, 5: 36, 6: 54, 7: 86}
"""Electrons in the closed core below each row of the periodic table."""

ELEMENT_PROPERTIES = (
    *_OF_PYMATGEN,
    *(f"{shell}_valence_electrons" for shell in _CAPACITY),
    "valence_electrons",
    *(f"{shell}_unfilled" for shell in _CAPACITY),
    "unfilled",
)
"""Names of the columns of ``element_table``.

Atomic number, mass (u), Pauling electronegativity, atomic and van der Waals radius (angstrom), row, group, Mendeleev
number, melting point (K), molar volume (cm^3/mol), electron affinity and first ionisation energy (eV); electrons
outside the core of the noble gas before, by shell and in all, and the room left in those shells that hold any.
"""

STATISTICS = ("mean", "deviation", "minimum", "maximum", "range")
"""What is taken of each property over the elements of a compound."""

NUM_FEATURES = NUM_ELEMENTS + 2 + len(ELEMENT_PROPERTIES) * len(STATISTICS)
"""Length of the vector of a composition."""


def element_table() -> NDArray[np.float64]:
    """Return the properties of the elements: (119, P), row by atomic number; row 0 is empty (zeros).

    What is not known of an element (the electronegativity of argon, the melting point of most elements that were made
    a few atoms at a time) is filled with the mean over the elements of its group that have it, where none has it with
    the mean over all.
    """
    from pymatgen.core.periodic_table import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each value that it does not have
        elements = [Element.from_Z(number) for number in range(1, NUM_ELEMENTS + 1)]
        known = np.array([_properties(element) for element in elements], dtype=np.float64)
    groups = known[:, ELEMENT_PROPERTIES.index("group")]
    filled = known.copy()
    for row, column in np.argwhere(np.isnan(known)):
        same = known[groups == groups[row], column]
        values = same if np.isfinite(same).any() else known[:, column]
        filled[row, column] = np.nanmean(values)
    return np.vstack([np.zeros(len(ELEMENT_PROPERTIES)), filled])


def _properties(element: Element) -> list[float]:
    plain = [_number(element, name) for name in _OF_PYMATGEN]
    counts = _valence_counts(element)
    if counts is None:
        return plain + [np.nan] * (2 * len(_CAPACITY) + 2)
    unfilled = [capacity - count if count else 0 for capacity, count in zip(_CAPACITY.values(), counts, strict=True)]
    return [*plain, *counts, sum(counts), *unfilled, sum(unfilled)]


def _number(element: Element, name: str) -> float:
    try:
        value = getattr(element, name)
    except (AttributeError, KeyError):
        return np.nan
    return float(value) if isinstance(value, int | float) else np.nan


def _valence_counts(element: Element) -> list[int] | None:
    """Return the electrons outside the noble-gas core in s, p, d and f shells; ``None`` where they are not known."""
    try:
        shells = element.full_electronic_structure
    except (KeyError, ValueError):
        return None
    counts = dict.fromkeys(_CAPACITY, 0)
    core = _NOBLE_GASES[int(element.row)] if element.row in _NOBLE_GASES else 0
    for _, shell, number in sorted(shells, key=_filling_order):
        if core >= number:
            core -= number
        else:
            counts[shell] += number
    return list(counts.values())


def _filling_order(shell: tuple[int, str, int]) -> tuple[int, int]:
    principal, name, _ = shell
    angular = list(_CAPACITY).index(name)
    return principal + angular, principal


def element_fractions(structures: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of each element in each crystal: (N, 118), column by atomic number less one; rows add up to 1.

    Args:
        structures: crystals as ``Crystal.to_json`` writes them.

    Raises:
        CrystalError: a text is not a crystal, has no atoms, or holds an atomic number outside 1 to 118.
    """
    fractions = np.zeros((len(structures), NUM_ELEMENTS))
    for row, text in enumerate(structures):
        numbers = Crystal.from_json(text).atomic_numbers
        if not len(numbers):
            raise CrystalError(Problem.NO_ATOMS)
        if numbers.min() < 1 or numbers.max() > NUM_ELEMENTS:
            wrong = numbers[(numbers < 1) | (numbers > NUM_ELEMENTS)][0]
            raise CrystalError(f"{Problem.UNKNOWN_ELEMENT}: atomic number {int(wrong)}")
        fractions[row] = np.bincount(numbers - 1, minlength=NUM_ELEMENTS) / len(numbers)
    return fractions


def composition_features(fractions: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vector of each composition: (N, ``NUM_FEATURES``).

    Args:
        fractions: (N, 118) of ``element_fractions``.
        table: (119, P) of ``element_table``.

    Returns:
        the fractions; the number of elements and the Euclidean norm of the fractions; then for each of the P properties
        the five ``STATISTICS``, property by property. Mean and deviation (mean absolute difference from the mean) are
        weighted by the fractions.
    """
    present = fractions > 0
    properties = table[1:]
    mean = fractions @ properties
    statistics = np.empty((len(fractions), properties.shape[1], len(STATISTICS)))
    for column in range(properties.shape[1]):
        values = np.broadcast_to(properties[:, column], fractions.shape)
        low = np.min(values, axis=1, initial=np.inf, where=present)
        high = np.max(values, axis=1, initial=-np.inf, where=present)
        spread = (fractions * np.abs(values - mean[:, [column]])).sum(axis=1)
        statistics[:, column] = np.stack([mean[:, column], spread, low, high, high - low], axis=1)
    counts = np.stack([present.sum(axis=1), np.linalg.norm(fractions, axis=1)], axis=1)
    return np.hstack([fractions, counts, statistics.reshape(len(fractions), properties.shape[1] * len(STATISTICS))])


def feature_names() -> list[str]:
    """Return the names of the columns of ``composition_features``."""
    statistics: Iterable[str] = (f"{name}_{kind}" for name in ELEMENT_PROPERTIES for kind in STATISTICS)
    return [*SYMBOLS, "num_elements", "norm", *statistics]
