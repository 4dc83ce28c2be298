"""Configurations of point defects: which sites of a supercell hold what, as crystals, and which are equivalent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal
from crystalfm.chem.defects.rules import DefectRule, type_name
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.defects.hosts import Supercell

_CODES = 128
"""More than there are atomic numbers: a defect is the number site * 128 + atomic number."""

_CHUNK = 4_000_000


@dataclass(frozen=True, order=True)
class Configuration:
    """Defects of a supercell.

    Attributes:
        defects: (site, atomic number of what is there, 0 for a vacancy), by ascending site, each site once.
    """

    defects: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        sites = [site for site, _ in self.defects]
        if sites != sorted(set(sites)):
            raise ValueError(f"defects on the sites {sites}: each site once, ascending")

    @classmethod
    def of(cls, defects: Iterable[tuple[int, int]]) -> Configuration:
        """Return the configuration of defects in any order."""
        return cls(tuple(sorted(defects)))

    def __len__(self) -> int:
        return len(self.defects)

    def rules(self, supercell: Supercell) -> tuple[DefectRule, ...]:
        """Return the rule of each defect.

        Raises:
            UserError: a site is not in the supercell, or holds what it holds anyway.
        """
        if any(not 0 <= site < supercell.num_sites for site, _ in self.defects):
            raise UserError(f"a defect is on a site that {supercell.host.name} {list(supercell.size)} does not have")
        return tuple(
            DefectRule(SYMBOLS[supercell.numbers[site] - 1], SYMBOLS[number - 1] if number else "")
            for site, number in self.defects
        )

    def type_name(self, supercell: Supercell) -> str:
        """Return the name of its combination of defects."""
        return type_name(self.rules(supercell))

    def crystal(self, supercell: Supercell) -> Crystal:
        """Return the unrelaxed structure: the sites in their order, vacancies left out."""
        numbers = supercell.numbers.copy()
        for site, number in self.defects:
            numbers[site] = number
        present = numbers > 0
        return Crystal(supercell.lattice, numbers[present], supercell.frac_coords[present])

    def moved(self, permutation: NDArray[np.int64]) -> Configuration:
        """Return the configuration after an operation of ``site_permutations``."""
        return Configuration.of((int(permutation[site]), number) for site, number in self.defects)

    def to_json(self) -> str:
        """Return ``[[site, atomic number], ...]``."""
        return json.dumps([list(defect) for defect in self.defects], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Configuration:
        """Read what ``to_json`` wrote."""
        return cls(tuple((int(site), int(number)) for site, number in json.loads(text)))


def read_configuration(crystal: Crystal, supercell: Supercell) -> Configuration:
    """Return the defects of an unrelaxed structure: sites with another element, and sites without an atom.

    Raises:
        UserError: the structure is none of this supercell.
    """
    found = np.zeros(supercell.num_sites, dtype=np.int64)
    found[supercell.match(crystal)] = crystal.atomic_numbers
    changed = np.flatnonzero(found != supercell.numbers)
    return Configuration(tuple((int(site), int(found[site])) for site in changed))


def canonical(configurations: Sequence[Configuration], permutations: NDArray[np.int64]) -> list[Configuration]:
    """Return for each configuration the first of all its equivalents.

    Args:
        configurations: configurations of one supercell.
        permutations: (G, N) its operations (``symmetry.site_permutations``).
    """
    result: list[Configuration | None] = [None] * len(configurations)
    by_size: dict[int, list[int]] = {}
    for index, configuration in enumerate(configurations):
        by_size.setdefault(len(configuration), []).append(index)
    for size, indices in by_size.items():
        if not size:
            for index in indices:
                result[index] = configurations[index]
            continue
        step = max(1, _CHUNK // (len(permutations) * size))
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            pairs = np.array([configurations[index].defects for index in part], dtype=np.int64)
            for index, keys in zip(part, _first_keys(pairs, permutations), strict=True):
                result[index] = Configuration(tuple((key // _CODES, key % _CODES) for key in keys.tolist()))
    return [configuration for configuration in result if configuration is not None]


def _first_keys(pairs: NDArray[np.int64], permutations: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (M, k) the smallest of all moved defects of M configurations (M, k, 2), as sorted keys."""
    keys = permutations[:, pairs[..., 0]] * _CODES + pairs[None, ..., 1]
    keys.sort(axis=2)
    # Candidates for the smallest are narrowed defect by defect.
    open_to = np.ones(keys.shape[:2], dtype=np.bool_)
    for place in range(keys.shape[2]):
        at = np.where(open_to, keys[..., place], np.iinfo(np.int64).max)
        open_to &= at == at.min(axis=0)
    first: NDArray[np.int64] = keys[open_to.argmax(axis=0), np.arange(keys.shape[1])]
    return first


def multiplicities(configurations: Sequence[Configuration], permutations: NDArray[np.int64]) -> list[int]:
    """Return how many different configurations are equivalent to each, itself among them.

    The operations are a group, so that this is their number by that of those which leave the configuration as it is.

    Args:
        configurations: configurations of one supercell.
        permutations: (G, N) its operations (``symmetry.site_permutations``).
    """
    found: list[int] = []
    for configuration in configurations:
        if not configuration.defects:
            found.append(1)
            continue
        sites, numbers = np.array(configuration.defects, dtype=np.int64).T
        keys = np.sort(permutations[:, sites] * _CODES + numbers, axis=1)
        unmoved = int((keys == sites * _CODES + numbers).all(axis=1).sum())
        found.append(len(permutations) // unmoved)
    return found


def unique(configurations: Sequence[Configuration], permutations: NDArray[np.int64]) -> list[Configuration]:
    """Return one configuration, the canonical one, of each set of equivalent ones, in the order of first appearance."""
    return list(dict.fromkeys(canonical(configurations, permutations)))
