"""Which generated crystals are valid: atoms that do not overlap, and elements that can make a compound.

The protocol is that of CDVAE (Xie et al., "Crystal diffusion variational autoencoder", ICLR 2022): a structure is valid
when no two atoms are nearer than 0.5 angstrom and the cell holds at least 0.1 cubic angstrom; a composition is valid
when some choice of oxidation states makes it neutral with every cation less electronegative than every anion (Davies et
al., "SMACT", J. Open Source Softw. 4, 1361 (2019)), and always when it is one element or made of metals alone.

Two things are stricter or plainer here. The distance of an atom to its own image counts as any other. The oxidation
states are SMACT's list of 2014, which its versions to 2 use, as the protocol did; its default has since become that of
the ICSD of 2024, by which more combinations pass. An element without a known electronegativity (He, Ne, Ar, Pm, Rn, Lr)
or without oxidation states makes a compound invalid, as ``smact.screening.smact_validity`` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import (
    MIN_DISTANCE_ANGSTROM,
    MIN_VOLUME_CUBIC_ANGSTROM,
    SYMBOLS,
    Crystal,
    closest_pair,
)
from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.counts import Share
from crystalfm.metrics.crystals.structures import Composition, reduced_composition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OXIDATION_STATES = "smact14"
"""SMACT's name of the list of oxidation states."""

_CACHED_COMPOSITIONS = 100_000
_MIN_CONDITION = 1e-6
"""Cells whose volume is a smaller part of the product of their lengths are too flat to be looked at."""

_COMPACT_ANGSTROM = 1.0
"""Cells with lattice planes nearer than this are reduced, so that few of their images are within reach."""


@dataclass(frozen=True)
class Validity:
    """Validity of one sample; all false for one that was not parsed.

    Attributes:
        structural: no overlapping atoms, and a cell with a volume.
        compositional: neutral with cations less electronegative than anions, an element, or an alloy.
    """

    structural: bool
    compositional: bool

    @property
    def valid(self) -> bool:
        """Both."""
        return self.structural and self.compositional


@dataclass(frozen=True)
class ValidityResult:
    """Validity of samples.

    Attributes:
        samples: of each sample, in the order given.
        num_parsed: samples that are crystals at all.
    """

    samples: tuple[Validity, ...]
    num_parsed: int

    @property
    def parsed(self) -> Share:
        """Crystals among all samples."""
        return Share(self.num_parsed, len(self.samples))

    @property
    def structural(self) -> Share:
        """Structurally valid ones among all samples, those not parsed included."""
        return Share(sum(sample.structural for sample in self.samples), len(self.samples))

    @property
    def compositional(self) -> Share:
        """Compositionally valid ones among all samples, those not parsed included."""
        return Share(sum(sample.compositional for sample in self.samples), len(self.samples))

    @property
    def valid(self) -> Share:
        """Valid ones among all samples, those not parsed included."""
        return Share(sum(sample.valid for sample in self.samples), len(self.samples))


def validity(samples: Iterable[Crystal | None]) -> ValidityResult:
    """Judge samples by structure and composition.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed, which is invalid.

    Raises:
        UserError: SMACT is not installed.
    """
    crystals = list(samples)
    judged = tuple(
        Validity(structural=False, compositional=False)
        if crystal is None
        else Validity(structural=is_structurally_valid(crystal), compositional=is_compositionally_valid(crystal))
        for crystal in crystals
    )
    return ValidityResult(judged, sum(crystal is not None for crystal in crystals))


def is_structurally_valid(crystal: Crystal) -> bool:
    """Say whether atoms, images included, are at least 0.5 angstrom apart in at least 0.1 cubic angstrom."""
    if not crystal.num_atoms or not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        return False
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    if crystal.volume < max(MIN_VOLUME_CUBIC_ANGSTROM, _MIN_CONDITION * float(lengths.prod())):
        return False
    compact = _compact(crystal)
    if np.linalg.norm(compact.lattice, axis=1).min() < MIN_DISTANCE_ANGSTROM:
        return False  # an atom and its image
    return closest_pair(compact, MIN_DISTANCE_ANGSTROM)[0] >= MIN_DISTANCE_ANGSTROM


def _compact(crystal: Crystal) -> Crystal:
    """Return the crystal in a cell of short vectors, so that few images are within the distance looked for."""
    from pymatgen.core.lattice import Lattice

    plane_spacings = 1.0 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    if plane_spacings.min() > _COMPACT_ANGSTROM:
        return crystal
    reduced = Lattice(crystal.lattice).get_lll_reduced_lattice().matrix
    coords = crystal.frac_coords @ crystal.lattice @ np.linalg.inv(reduced)
    return Crystal(reduced, crystal.atomic_numbers, coords)


def is_compositionally_valid(crystal: Crystal) -> bool:
    """Say whether the elements can make a neutral compound, or are one alone or metals alone; see the module."""
    return composition_valid(reduced_composition(crystal))


@lru_cache(maxsize=_CACHED_COMPOSITIONS)
def composition_valid(composition: Composition) -> bool:
    """Judge a composition as ``smact_validity`` does, without trying each combination of oxidation states.

    Some neutral choice with all cations below all anions in electronegativity exists if and only if, for some limit
    between two electronegativities, the elements below it as cations and those above as anions can add up to zero. So
    the reachable sums are found element by element, which takes no time even for twenty elements.

    Args:
        composition: see ``structures.reduced_composition``.

    Raises:
        UserError: SMACT is not installed.
    """
    if not composition:
        return False
    elements = _elements()
    if any(number not in elements for number, _ in composition):
        return False  # SMACT ends at lawrencium
    if len(composition) == 1 or all(elements[number].metal for number, _ in composition):
        return True
    known = [(elements[number], count) for number, count in composition]
    if any(element.electronegativity is None or not element.states for element, _ in known):
        return False
    limits = sorted({element.electronegativity or 0.0 for element, _ in known})
    return any(_can_be_neutral(known, limit) for limit in limits[1:])


@dataclass(frozen=True)
class _Element:
    """What SMACT knows of an element.

    Attributes:
        electronegativity: Pauling's, or ``None``.
        states: oxidation states.
        metal: whether it counts as one.
    """

    electronegativity: float | None
    states: tuple[int, ...]
    metal: bool


def _can_be_neutral(composition: Sequence[tuple[_Element, int]], limit: float) -> bool:
    """Say whether charges can add up to zero with cations below an electronegativity and anions from it on."""
    sums = {0}
    for element, count in composition:
        sign = 1 if (element.electronegativity or 0.0) < limit else -1
        charges = [state * count for state in element.states if state * sign > 0]
        sums = {total + charge for total in sums for charge in charges}
    return 0 in sums


@cache
def _elements() -> dict[int, _Element]:
    """Return SMACT's elements by atomic number."""
    try:
        import smact
    except ModuleNotFoundError as error:
        if error.name != "smact":
            raise
        raise UserError(
            "judging compositions needs the package smact", remedy="pip install 'crystalfm[generate]'"
        ) from error
    metals = set(smact.metals)
    found = {}
    for symbol, element in smact.element_dictionary().items():
        states = getattr(element, f"oxidation_states_{OXIDATION_STATES}") or ()
        found[SYMBOLS.index(symbol) + 1] = _Element(element.pauling_eneg, tuple(states), symbol in metals)
    return found
