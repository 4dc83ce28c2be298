"""A configuration of defects as a vector of fixed length: what the defects are, how far apart, on which side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.records import DefectRecord

FEATURES_VERSION = 1
"""Raised when the same configuration would get another vector from the same layout."""

SHELLS_ANGSTROM = (0.0, 2.0, 2.75, 3.67, 4.05, 5.07, 6.05, 7.76, 9.63, 12.05)
"""Limits of the shells in which distances are counted; no distance in the hosts' lattices is within 0.03 Å of one."""

REACHES_ANGSTROM = (3.67, 5.07, 7.76, 12.05)
"""A defect's neighbours are counted within each of these distances."""

NUM_NEAREST = 3
"""So many of the shortest distances of a configuration have a column each: those of three defects are all there."""

_SAME_SIDE_ANGSTROM = 0.1
_DECIMALS = 4
"""Distances are rounded to 0.1 mÅ, so that equivalent configurations have the same vector to the bit."""

_PAIR_COLUMNS = ("pairs", "same side", "opposite sides", "1/d of the nearest", "sum of 1/d", "sum of 1/d^3")


@dataclass(frozen=True)
class SiteTable:
    """How any two sites of a supercell lie to each other.

    Attributes:
        distances: (N, N) to the nearest image, in angstrom; from a site to itself, to its nearest image.
        shells: (N, N, S) uint16, images in each shell of ``SHELLS_ANGSTROM``; the site itself does not count.
        reaches: (N, N, R) uint16, images within each of ``REACHES_ANGSTROM``.
        sides: (N,) int8, 1 above the middle of the layer, -1 below, 0 in it.
        area: area of the supercell in the plane, in square nanometres.
    """

    distances: NDArray[np.float64]
    shells: NDArray[np.uint16]
    reaches: NDArray[np.uint16]
    sides: NDArray[np.int8]
    area: float


@lru_cache(maxsize=32)
def site_table(supercell: Supercell) -> SiteTable:
    """Return how the sites of a supercell lie to each other; images repeat in the plane only, not across the vacuum."""
    lattice, coords = supercell.lattice, supercell.frac_coords
    middle = coords[0, 2]
    depths = (coords[:, 2] - middle - np.round(coords[:, 2] - middle)) * lattice[2, 2]
    depths -= (depths.min() + depths.max()) / 2
    plane = lattice[:2]
    difference = coords[None, :, :2] - coords[:, None, :2]
    difference -= np.round(difference)
    across = depths[None] - depths[:, None]
    heights = np.linalg.norm(np.cross(plane[0], plane[1])) / np.linalg.norm(plane[::-1], axis=1)
    columns, rows = (np.arange(-n, n + 1) for n in np.ceil(SHELLS_ANGSTROM[-1] / heights + 0.5).astype(int).tolist())
    shape = (len(coords), len(coords))
    distances = np.full(shape, np.inf)
    shells = np.zeros((*shape, len(SHELLS_ANGSTROM) - 1), dtype=np.uint16)
    reaches = np.zeros((*shape, len(REACHES_ANGSTROM)), dtype=np.uint16)
    for shift in ((column, row) for column in columns for row in rows):
        vectors = (difference + shift) @ plane
        vectors[..., 2] += across
        found = np.round(np.linalg.norm(vectors, axis=2), _DECIMALS)
        found[found == 0] = np.inf
        np.minimum(distances, found, out=distances)
        places = np.searchsorted(SHELLS_ANGSTROM, found, side="right") - 1
        for shell in range(shells.shape[2]):
            shells[..., shell] += places == shell
        for number, reach in enumerate(REACHES_ANGSTROM):
            reaches[..., number] += found <= reach
    sides = np.where(np.abs(depths) < _SAME_SIDE_ANGSTROM, 0, np.sign(depths)).astype(np.int8)
    area = float(np.linalg.norm(np.cross(plane[0], plane[1]))) / 100
    return SiteTable(distances, shells, reaches, sides, area)


@dataclass(frozen=True)
class FeatureLayout:
    """Which columns a vector has.

    Every rule of the training rows has a column for its number, and every two rules that meet there columns for how
    they lie to each other; what else there is counts in the columns of all defects alone.

    Attributes:
        rules: names of the rules, sorted.
        pairs: pairs of names, each sorted, sorted.
    """

    rules: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, records: Iterable[DefectRecord]) -> FeatureLayout:
        """Return the layout for the rules and pairs of rules of records."""
        rules: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for kind in {tuple(sorted(rule.name for rule in record.rules)) for record in records}:
            rules.update(kind)
            pairs.update(combinations(kind, 2))
        return cls(tuple(sorted(rules)), tuple(sorted(pairs)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each column."""
        shells = [f"{low:g}-{high:g} Å" for low, high in pairwise(SHELLS_ANGSTROM)]
        each = [*_PAIR_COLUMNS, *(f"in {shell}" for shell in shells)]
        return (
            "defects",
            "defects of all sites",
            "defects per nm²",
            "defects of other rules",
            *(f"{name}" for name in self.rules),
            *(f"1/d, {place}. shortest" for place in range(1, NUM_NEAREST + 1)),
            *(f"{kind} neighbours within {reach:g} Å" for kind in ("mean", "most") for reach in REACHES_ANGSTROM),
            *(f"all: {column}" for column in each),
            *(f"{first} and {second}: {column}" for first, second in self.pairs for column in each),
        )

    @property
    def num_features(self) -> int:
        """Length of a vector."""
        return len(self.names)

    def features(self, record: DefectRecord) -> NDArray[np.float64]:
        """Return the vector (F,) of a configuration, equal for all that the layer's symmetry makes equivalent.

        Every entry is a finite number: where there is no such pair its inverse distance is 0.
        """
        supercell = record.supercell
        table = site_table(supercell)
        names = [rule.name for rule in record.rules]
        sites = np.array([site for site, _ in record.configuration.defects], dtype=np.int64)
        counts = Counter(names)
        others = len(names) - sum(counts[name] for name in self.rules)
        pairs = _Pairs.of(names, sites, table)
        per_defect = table.reaches[np.ix_(sites, sites)].sum(axis=1)
        blocks = [
            [len(names), len(names) / supercell.num_sites, len(names) / table.area, others],
            [counts[name] for name in self.rules],
            pairs.nearest(),
            per_defect.mean(axis=0) if len(sites) else np.zeros(len(REACHES_ANGSTROM)),
            per_defect.max(axis=0) if len(sites) else np.zeros(len(REACHES_ANGSTROM)),
            pairs.columns(np.ones(len(pairs.first), dtype=bool)),
            *(pairs.columns(pairs.of_rules(*pair)) for pair in self.pairs),
        ]
        return np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])

    def state(self) -> dict[str, Any]:
        """Return plain containers from which ``of_state`` makes the layout again."""
        return {"rules": list(self.rules), "pairs": [list(pair) for pair in self.pairs]}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> FeatureLayout:
        """Return the layout of a state, whose version the caller has checked."""
        pairs = tuple((str(first), str(second)) for first, second in state["pairs"])
        return cls(tuple(str(name) for name in state["rules"]), pairs)


@dataclass(frozen=True)
class _Pairs:
    """The P pairs of defects of a configuration, and those of a defect with its own images.

    Attributes:
        first, second: (P,) the rules' names of each pair, sorted.
        distances: (P,) in angstrom, to the nearest image.
        sides: (P,) 1 on the same side of the layer, -1 on opposite ones, 0 where one is in the middle.
        shells: (P, S) images in each shell.
    """

    first: NDArray[np.str_]
    second: NDArray[np.str_]
    distances: NDArray[np.float64]
    sides: NDArray[np.int64]
    shells: NDArray[np.float64]

    @classmethod
    def of(cls, names: list[str], sites: NDArray[np.int64], table: SiteTable) -> _Pairs:
        """Return all pairs of defects, named by their rules in alphabetical order."""
        order = sorted(range(len(names)), key=lambda place: (names[place], sites[place]))
        sites = sites[order]
        labels = np.array([names[place] for place in order], dtype=np.str_)
        low, high = np.triu_indices(len(order), 1)
        first, second = sites[low], sites[high]
        return cls(
            labels[low],
            labels[high],
            table.distances[first, second],
            table.sides[first].astype(np.int64) * table.sides[second],
            table.shells[first, second].astype(np.float64),
        )

    def of_rules(self, first: str, second: str) -> NDArray[np.bool_]:
        """Return (P,) which pairs are of these rules, given sorted."""
        chosen: NDArray[np.bool_] = (self.first == first) & (self.second == second)
        return chosen

    def nearest(self) -> NDArray[np.float64]:
        """Return the inverse of the shortest distances, longest last, 0 where there are fewer."""
        found = np.zeros(NUM_NEAREST)
        shortest = np.sort(self.distances)[:NUM_NEAREST]
        found[: len(shortest)] = 1 / shortest
        return found

    def columns(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the columns of a kind of pair: ``_PAIR_COLUMNS``, then the number in each shell."""
        inverse = 1 / self.distances[chosen]
        sides = self.sides[chosen]
        head = [
            len(inverse),
            np.count_nonzero(sides > 0),
            np.count_nonzero(sides < 0),
            inverse.max(initial=0.0),
            inverse.sum(),
            (inverse**3).sum(),
        ]
        return np.concatenate([head, self.shells[chosen].sum(axis=0)])
