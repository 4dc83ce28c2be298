"""Space groups of crystals as spglib finds them (Togo et al., Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024))."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.counts import Share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.crystals import Crystal

_LOG = logging.getLogger(__name__)

SYMPREC_ANGSTROM = 0.1
"""How far atoms may be from their symmetric places. Coordinates of two digits are off by 0.005 of a cell's length."""

CRYSTAL_SYSTEMS: Mapping[str, range] = {
    "triclinic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 168),
    "hexagonal": range(168, 195),
    "cubic": range(195, 231),
}
"""Space-group numbers of each crystal system."""


@dataclass(frozen=True)
class SymmetryHistogram:
    """How many crystals belong to each crystal system.

    Attributes:
        systems: crystals by system, all seven.
        num_unknown: samples that are no crystal or for which spglib finds no group.
        num_trivial: crystals of the group P1, which have no symmetry but translations.
        symprec_angstrom: tolerance of the search.
    """

    systems: Mapping[str, int]
    num_unknown: int
    num_trivial: int
    symprec_angstrom: float

    @property
    def num_known(self) -> int:
        """Crystals with a space group."""
        return sum(self.systems.values())

    @property
    def trivial(self) -> Share:
        """Crystals of P1 among those with a space group."""
        return Share(self.num_trivial, self.num_known)


def space_group(crystal: Crystal, symprec_angstrom: float = SYMPREC_ANGSTROM) -> int | None:
    """Return the number of a crystal's space group, or ``None`` where spglib finds none.

    Args:
        crystal: crystal of any setting.
        symprec_angstrom: how far atoms may be from their symmetric places.

    Raises:
        UserError: spglib is not installed.
    """
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # the library writes past Python's own streams otherwise
    try:
        import spglib
    except ModuleNotFoundError as error:
        if error.name != "spglib":
            raise
        raise UserError(
            "finding symmetry needs the package spglib", remedy="pip install 'crystalfm[generate]'"
        ) from error
    cell = (crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = spglib.get_symmetry_dataset(cell, symprec=symprec_angstrom)
    except (getattr(spglib, "SpglibError", ValueError), TypeError, ValueError) as error:
        # Newer versions raise where older ones return None.
        _LOG.debug("no space group of %s: %s", crystal.formula, error)
        return None
    return None if found is None else int(found.number)


def space_groups(
    samples: Sequence[Crystal | None], symprec_angstrom: float = SYMPREC_ANGSTROM
) -> tuple[int | None, ...]:
    """Return the space group of each sample, ``None`` where there is no crystal or no group.

    Raises:
        UserError: spglib is not installed.
    """
    return tuple(None if sample is None else space_group(sample, symprec_angstrom) for sample in samples)


def crystal_system(number: int) -> str:
    """Return the crystal system of a space group.

    Raises:
        ValueError: the number is not between 1 and 230.
    """
    for name, numbers in CRYSTAL_SYSTEMS.items():
        if number in numbers:
            return name
    raise ValueError(f"space groups have the numbers 1 to 230, not {number}")


def symmetry_histogram(groups: Sequence[int | None], symprec_angstrom: float = SYMPREC_ANGSTROM) -> SymmetryHistogram:
    """Count crystals by crystal system.

    Args:
        groups: what ``space_groups`` returns.
        symprec_angstrom: with which tolerance it was found; kept in the result.
    """
    counts = Counter(crystal_system(number) for number in groups if number is not None)
    return SymmetryHistogram(
        systems={name: counts[name] for name in CRYSTAL_SYSTEMS},
        num_unknown=sum(number is None for number in groups),
        num_trivial=sum(number == 1 for number in groups),
        symprec_angstrom=symprec_angstrom,
    )
