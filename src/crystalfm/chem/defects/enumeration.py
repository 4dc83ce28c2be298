"""Every symmetry-distinct configuration of a few defects, and random ones of many."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.defects.configurations import Configuration, unique
from crystalfm.chem.defects.rules import parse_rules, require_elements, type_name
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule

DefectType = tuple["DefectRule", ...]
"""Rules of the defects of a configuration, sorted."""

_ATTEMPTS = 1000


def low_density_types(metal_rules: Sequence[str], chalcogen_rules: Sequence[str]) -> list[DefectType]:
    """Return 2DMD's combinations of low density: up to two defects of the chalcogen, alone or with one of the metal.

    For ``["v_Mo", "W_Mo"]`` and ``["v_S", "Se_S"]`` these are the 17 types of its MoS2 part.
    """
    metals, chalcogens = parse_rules(metal_rules), parse_rules(chalcogen_rules)
    pairs = [pair for size in range(3) for pair in combinations_with_replacement(chalcogens, size)]
    return [
        tuple(sorted((*metal, *pair)))
        for metal in ((), *((rule,) for rule in metals))
        for pair in pairs
        if metal or pair
    ]


def all_types(rules: Sequence[DefectRule], max_defects: int) -> list[DefectType]:
    """Return every combination of up to ``max_defects`` defects, fewest first."""
    return [
        tuple(kind) for size in range(1, max_defects + 1) for kind in combinations_with_replacement(sorted(rules), size)
    ]


def enumerate_configurations(
    supercell: Supercell, types: Sequence[DefectType]
) -> Iterator[tuple[DefectType, list[Configuration]]]:
    """Yield each type with all its symmetry-distinct configurations, in canonical form.

    A configuration without one of its defects is equivalent to a canonical one of the smaller type, so each type grows
    out of a smaller one by one defect on every free site.

    Raises:
        UserError: the host lacks an element, or has too few sites of it.
    """
    known: dict[DefectType, list[Configuration]] = {(): [Configuration(())]}
    for kind in types:
        _require_room(supercell, kind)
        yield kind, _of_type(supercell, kind, known)


def _of_type(
    supercell: Supercell, kind: DefectType, known: dict[DefectType, list[Configuration]]
) -> list[Configuration]:
    found = known.get(kind)
    if found is None:
        # The rule left for last is the most frequent one: what is there before it has the fewest equivalents.
        last = max(kind, key=kind.count)
        smaller = list(kind)
        smaller.remove(last)
        grown: list[Configuration] = []
        sites = supercell.sites_of(last.removed)
        for before in _of_type(supercell, tuple(smaller), known):
            taken = {site for site, _ in before.defects}
            grown.extend(
                Configuration.of((*before.defects, (site, last.number))) for site in sites if site not in taken
            )
        found = known[kind] = sorted(unique(grown, site_permutations(supercell)))
    return found


def num_defects(supercell: Supercell, concentration: float) -> int:
    """Return how many defects make up a concentration, of all sites.

    Raises:
        UserError: the concentration is not between 0 and 1, or makes no whole defect; the message names what fits.
    """
    if not 0.0 < concentration <= 1.0:
        raise UserError(f"concentration={concentration} is out of range", remedy="0.025 for 2.5 % of all sites")
    count = round(concentration * supercell.num_sites)
    if count < 1:
        edge = int(np.ceil(np.sqrt(0.5 / concentration / supercell.host.cell.num_atoms)))
        raise UserError(
            f"{supercell.host.name} {list(supercell.size)} has {supercell.num_sites} sites:"
            f" {concentration:.2%} of them is no defect",
            remedy=f"size=[{edge},{edge},1] or larger, or concentration={1 / supercell.num_sites:.3f} or more",
        )
    return count


def random_configuration(
    supercell: Supercell, rules: Sequence[DefectRule], count: int, rng: np.random.Generator
) -> Configuration:
    """Return a configuration of ``count`` defects: each on a random free site of its rule, the rules drawn at random.

    Raises:
        UserError: the host lacks an element, or has too few sites for so many defects.
    """
    require_elements(rules, supercell.host.name, supercell.host.elements)
    free = {rule.removed: supercell.sites_of(rule.removed) for rule in rules}
    if count > sum(map(len, free.values())):
        raise UserError(
            f"{count} defects do not fit on the {sum(map(len, free.values()))} sites that the rules name",
            remedy="fewer defects, more rules, or a larger supercell",
        )
    defects: list[tuple[int, int]] = []
    while len(defects) < count:
        rule = rules[int(rng.integers(len(rules)))]
        sites = free[rule.removed]
        if sites:
            defects.append((sites.pop(int(rng.integers(len(sites)))), rule.number))
    return Configuration.of(defects)


def random_configurations(
    supercell: Supercell, rules: Sequence[DefectRule], count: int, number: int, rng: np.random.Generator
) -> list[Configuration]:
    """Return ``number`` random configurations of ``count`` defects, no two of them equivalent, in canonical form.

    Raises:
        UserError: as ``random_configuration``, or there are not that many.
    """
    permutations = site_permutations(supercell)
    found: dict[Configuration, None] = {}
    for _ in range(_ATTEMPTS):
        drawn = [random_configuration(supercell, rules, count, rng) for _ in range(number - len(found))]
        found.update(dict.fromkeys(unique(drawn, permutations)))
        if len(found) == number:
            return list(found)
    raise UserError(
        f"only {len(found)} of {number} different configurations of {count} defects were found",
        remedy=f"number={len(found)}, or enumerate them",
    )


def _require_room(supercell: Supercell, kind: DefectType) -> None:
    require_elements(kind, supercell.host.name, supercell.host.elements)
    for symbol in {rule.removed for rule in kind}:
        needed = sum(rule.removed == symbol for rule in kind)
        sites = len(supercell.sites_of(symbol))
        if needed > sites:
            edge = ceil(sqrt(needed * supercell.size[0] * supercell.size[1] / sites))
            raise UserError(
                f"{type_name(kind)} needs {needed} sites of {symbol}, and {supercell.host.name}"
                f" {list(supercell.size)} has {sites}",
                remedy=f"size=[{edge},{edge},1] or larger",
            )
