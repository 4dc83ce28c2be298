"""Which crystals are the same: uniqueness among samples, novelty against training crystals, matches of pairs.

pymatgen's ``StructureMatcher`` decides (Ong et al., Comput. Mater. Sci. 68, 314 (2013)), for uniqueness and novelty
with its default tolerances, which are those of most papers; it compares primitive cells scaled to one volume. Crystals
can only match if they have the same reduced formula and as many atoms in the primitive cell, so nothing else is
compared, and each cell is reduced once. Volumes are no criterion, as the matcher scales them.

Only structurally valid crystals are compared: with a cell that is flat, or atoms on top of each other, the answer
means nothing and can take hours.

Matching is not transitive: a sample belongs to the first earlier one that it matches and that is not itself a copy, as
in the matcher's own grouping.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.counts import Mean, Share
from crystalfm.metrics.crystals.structures import as_structure
from crystalfm.metrics.crystals.validity import is_structurally_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core.structure import Structure

    from crystalfm.chem.crystals import Crystal

_LIBRARY_ERRORS = (ValueError, ArithmeticError, LookupError, np.linalg.LinAlgError)
"""What pymatgen raises for cells that it cannot reduce or compare."""

_MIN_PARALLEL = 256
"""Fewer formulas are compared in this process: it takes less time than others need to start."""


@dataclass(frozen=True)
class Tolerances:
    """How much matching crystals may differ; see ``StructureMatcher``.

    Attributes:
        length: relative difference of cell lengths.
        site: distance of sites by the cube root of the volume an atom.
        angle_degrees: difference of cell angles.
    """

    length: float = 0.2
    site: float = 0.3
    angle_degrees: float = 5.0


PAIR_TOLERANCES = Tolerances(length=0.3, site=0.5, angle_degrees=10.0)
"""Tolerances of CDVAE's protocol for pairs of crystals."""


@dataclass(frozen=True)
class Uniqueness:
    """Which samples are copies of others.

    Attributes:
        first_of: of each sample, the place of the first one that it is the same as, its own where it is the first;
            ``None`` where it was not compared.
        num_formulas: different reduced formulas among those compared.
    """

    first_of: tuple[int | None, ...]
    num_formulas: int

    @property
    def num_compared(self) -> int:
        """Samples that could be compared."""
        return sum(first is not None for first in self.first_of)

    @property
    def num_unique(self) -> int:
        """Different crystals among the samples."""
        return len({first for first in self.first_of if first is not None})

    @property
    def among_compared(self) -> Share:
        """Different crystals among those compared."""
        return Share(self.num_unique, self.num_compared)

    @property
    def among_all(self) -> Share:
        """Different crystals among all samples."""
        return Share(self.num_unique, len(self.first_of))

    @property
    def formulas(self) -> Share:
        """Different reduced formulas among the samples compared."""
        return Share(self.num_formulas, self.num_compared)


@dataclass(frozen=True)
class Novelty:
    """Which samples are no training crystal.

    Attributes:
        novel: of each sample; ``None`` where it was not compared.
        num_train: training crystals.
        num_new_formulas: samples compared whose reduced formula no training crystal has.
    """

    novel: tuple[bool | None, ...]
    num_train: int
    num_new_formulas: int

    @property
    def num_compared(self) -> int:
        """Samples that could be compared."""
        return sum(entry is not None for entry in self.novel)

    @property
    def among_compared(self) -> Share:
        """Novel ones among those compared."""
        return Share(sum(entry is True for entry in self.novel), self.num_compared)

    @property
    def among_all(self) -> Share:
        """Novel ones among all samples."""
        return Share(sum(entry is True for entry in self.novel), len(self.novel))

    @property
    def new_formulas(self) -> Share:
        """Samples of a new formula among those compared."""
        return Share(self.num_new_formulas, self.num_compared)


@dataclass(frozen=True)
class PairMatches:
    """How well crystals that were asked for came out.

    Attributes:
        distances: of each pair, the root mean square distance of sites by the cube root of the volume an atom;
            ``None`` where they do not match.
    """

    distances: tuple[float | None, ...]

    @property
    def match_rate(self) -> Share:
        """Matching pairs among all pairs."""
        return Share(sum(distance is not None for distance in self.distances), len(self.distances))

    @property
    def rmse(self) -> Mean:
        """Mean of the distances over matching pairs; without a unit."""
        found = [distance for distance in self.distances if distance is not None]
        return Mean(float(np.mean(found)) if found else math.nan, len(found))


def uniqueness(
    samples: Sequence[Crystal | None],
    *,
    sound: Sequence[bool] | None = None,
    tolerances: Tolerances = Tolerances(),
    jobs: int = 1,
) -> Uniqueness:
    """Find the samples that are copies of others.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed, which is not compared.
        sound: which samples are structurally valid, where that is known already; others are not compared.
        tolerances: how much copies may differ.
        jobs: processes.

    Raises:
        UserError: a package is missing.
    """
    groups = _by_formula(samples, sound)
    alone = {places[0] for places in groups.values() if len(places) == 1}
    first_of = [place if place in alone else None for place in range(len(samples))]
    tasks = [
        ([(place, samples[place]) for place in places], tolerances) for places in groups.values() if len(places) > 1
    ]
    for found in _over_processes(_first_of_each, tasks, jobs):
        for place, first in found.items():
            first_of[place] = first
    compared = [formula for formula, places in groups.items() if any(first_of[place] is not None for place in places)]
    return Uniqueness(tuple(first_of), len(compared))


def novelty(
    samples: Sequence[Crystal | None],
    train: Sequence[Crystal],
    *,
    sound: Sequence[bool] | None = None,
    tolerances: Tolerances = Tolerances(),
    jobs: int = 1,
) -> Novelty:
    """Find the samples that no training crystal matches.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed, which is not compared.
        train: training crystals; those not structurally valid are like no sample.
        sound: which samples are structurally valid, where that is known already; others are not compared.
        tolerances: how much copies may differ.
        jobs: processes.

    Raises:
        UserError: a package is missing.
    """
    groups = _by_formula(samples, sound)
    known: dict[str, list[Crystal]] = defaultdict(list)
    for crystal in train:
        if crystal.formula in groups:
            known[crystal.formula].append(crystal)
    tasks = [
        ([(place, samples[place]) for place in places], known[formula], tolerances)
        for formula, places in groups.items()
        if formula in known
    ]
    novel: list[bool | None] = [None] * len(samples)
    new = [place for formula, places in groups.items() if formula not in known for place in places]
    for place in new:
        novel[place] = True
    for found in _over_processes(_novel_of_each, tasks, jobs):
        for place, is_novel in found.items():
            novel[place] = is_novel
    return Novelty(tuple(novel), len(train), len(new))


def match_pairs(
    samples: Sequence[Crystal | None],
    targets: Sequence[Crystal],
    *,
    valid: Sequence[bool] | None = None,
    tolerances: Tolerances = PAIR_TOLERANCES,
    jobs: int = 1,
) -> PairMatches:
    """Compare each sample with the crystal that it should be.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed. It does not match, nor does one that is not
            structurally valid.
        targets: as many crystals.
        valid: samples that may match; the protocol lets only valid ones. ``None`` for all.
        tolerances: how much matching crystals may differ.
        jobs: processes.

    Raises:
        UserError: a package is missing.
        ValueError: the numbers of samples, targets and flags differ.
    """
    allowed = [True] * len(samples) if valid is None else list(valid)
    pairs = list(zip(samples, targets, allowed, strict=True))
    tasks = [
        (place, sample, target, tolerances)
        for place, (sample, target, usable) in enumerate(pairs)
        if usable and sample is not None and sample.formula == target.formula and _sound(sample) and _sound(target)
    ]
    distances: list[float | None] = [None] * len(pairs)
    for place, distance in _over_processes(_pair_distance, tasks, jobs):
        distances[place] = distance
    return PairMatches(tuple(distances))


def _by_formula(samples: Sequence[Crystal | None], sound: Sequence[bool] | None) -> Mapping[str, list[int]]:
    """Return the places of the samples to compare, by reduced formula."""
    usable = [_sound(sample) for sample in samples] if sound is None else list(sound)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (crystal, wanted) in enumerate(zip(samples, usable, strict=True)):
        if crystal is not None and wanted:
            groups[crystal.formula].append(place)
    return dict(groups)


def _sound(crystal: Crystal | None) -> bool:
    return crystal is not None and is_structurally_valid(crystal)


def _over_processes(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int) -> Iterable[Any]:
    """Return the results of a function for each tuple of arguments; the order is that of the tasks."""
    if jobs == 1 or len(tasks) < _MIN_PARALLEL:
        return [function(*task) for task in tasks]
    try:
        from joblib import Parallel, delayed
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
        raise UserError(
            "comparing crystals over processes needs the package joblib",
            remedy="pip install joblib, or use one process",
        ) from error
    found: list[Any] = Parallel(n_jobs=jobs)(delayed(function)(*task) for task in tasks)
    return found


# --------------------------------------------------------------------------- in a worker


def _first_of_each(samples: Sequence[tuple[int, Crystal]], tolerances: Tolerances) -> dict[int, int | None]:
    """Return the first sample that each of one formula is the same as, ``None`` where it cannot be compared."""
    matcher = _matcher(tolerances)
    firsts: list[tuple[int, Structure]] = []
    found: dict[int, int | None] = {}
    for place, crystal in samples:
        reduced = _reduced(crystal)
        if reduced is None:
            found[place] = None
            continue
        same = (first for first, structure in firsts if _same(matcher, structure, reduced))
        found[place] = next(same, place)
        if found[place] == place:
            firsts.append((place, reduced))
    return found


def _novel_of_each(
    samples: Sequence[tuple[int, Crystal]], train: Sequence[Crystal], tolerances: Tolerances
) -> dict[int, bool | None]:
    """Say which of one formula's samples no training crystal matches, ``None`` where one cannot be compared."""
    matcher = _matcher(tolerances)
    known = [reduced for crystal in train if _sound(crystal) and (reduced := _reduced(crystal)) is not None]
    found: dict[int, bool | None] = {}
    for place, crystal in samples:
        reduced = _reduced(crystal)
        found[place] = None if reduced is None else not any(_same(matcher, other, reduced) for other in known)
    return found


def _pair_distance(place: int, sample: Crystal, target: Crystal, tolerances: Tolerances) -> tuple[int, float | None]:
    matcher: Any = _matcher(tolerances)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = matcher.get_rms_dist(as_structure(sample), as_structure(target))
        except _LIBRARY_ERRORS:
            return place, None
    return place, None if found is None else float(found[0])


def _matcher(tolerances: Tolerances) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=tolerances.length, stol=tolerances.site, angle_tol=tolerances.angle_degrees)


def _reduced(crystal: Crystal) -> Structure | None:
    """Return the primitive cell that the matcher makes before it compares; ``None`` where it cannot."""
    from pymatgen.core.structure import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cell = as_structure(crystal).get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
        except _LIBRARY_ERRORS:
            return None
    return Structure.from_sites(list(cell))


def _same(matcher: StructureMatcher, first: Structure, second: Structure) -> bool:
    """Say whether two reduced cells match."""
    if len(first) != len(second):
        return False
    try:
        return bool(matcher.fit(first, second, skip_structure_reduction=True))
    except _LIBRARY_ERRORS:
        return False
