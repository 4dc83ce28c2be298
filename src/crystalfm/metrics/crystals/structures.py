"""Crystals as pymatgen's structures, and their densities."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pymatgen.core.structure import Structure

_GRAM_PER_CM3 = 1.66053906660
"""One atomic mass unit in a cubic angstrom, in g/cm^3 (CODATA 2018)."""

Composition = tuple[tuple[int, int], ...]
"""(atomic number, atoms in the reduced formula) of each element, by atomic number."""


def as_structure(crystal: Crystal) -> Structure:
    """Return the crystal as a pymatgen structure."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    symbols = [SYMBOLS[number - 1] for number in crystal.atomic_numbers.tolist()]
    return Structure(Lattice(crystal.lattice), symbols, crystal.frac_coords)


def density(crystal: Crystal) -> float:
    """Return the density in g/cm^3."""
    mass = _masses()[crystal.atomic_numbers].sum()
    return float(mass / crystal.volume) * _GRAM_PER_CM3


def num_elements(crystal: Crystal) -> int:
    """Return the number of different elements."""
    return len(np.unique(crystal.atomic_numbers))


def reduced_composition(crystal: Crystal) -> Composition:
    """Return the reduced formula as numbers."""
    return reduce_composition(Counter(crystal.atomic_numbers.tolist()))


def reduce_composition(counts: Mapping[int, int]) -> Composition:
    """Return atoms by atomic number, divided by their greatest common divisor, ordered by atomic number."""
    divisor = gcd(*counts.values()) or 1
    return tuple((number, counts[number] // divisor) for number in sorted(counts))


@cache
def _masses() -> NDArray[np.float64]:
    """Return the (119,) atomic masses in u, by atomic number."""
    from pymatgen.core.periodic_table import Element

    return np.array([0.0, *(float(Element.from_Z(number).atomic_mass) for number in range(1, len(SYMBOLS) + 1))])
