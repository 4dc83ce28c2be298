"""Periodic neighbours of the atoms of one crystal or of several at once.

The search itself is pymatgen's compiled cell list, whose cost grows linearly with the atoms. What follows it is done
for all crystals together: for a cell of ten atoms the search takes less time than twenty calls of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

_SEARCH_MARGIN_ANGSTROM = 1e-6
_FIRST_SEARCH_NEIGHBORS = 1.7
_SEARCH_GROWTH = 1.35
_FAR_CELLS = 2
_PERIODIC = np.ones(3, dtype=np.int64)


@dataclass(frozen=True)
class Pairs:
    """Pairs of an atom and an image of an atom, sorted by the first; atoms are counted on over the crystals.

    Attributes:
        center: (P,) int64, atom in the home cell.
        point: (P,) int64, atom whose image it is.
        image: (P, 3) int64, cell of the image in lattice vectors.
        vector: (P, 3) float64, from the center to the image, in angstrom.
        distance: (P,) float64, its length.
    """

    center: Integers
    point: Integers
    image: Integers
    vector: Floats
    distance: Floats

    def take(self, places: Integers) -> Pairs:
        """Return some of the pairs, in the order asked for."""
        return Pairs(
            self.center[places],
            self.point[places],
            self.image.take(places, axis=0),
            self.vector.take(places, axis=0),
            self.distance[places],
        )


def starts_of(counts: Integers) -> Integers:
    """Return where each of consecutive ranges of these lengths starts."""
    starts: Integers = np.cumsum(counts) - counts
    return starts


def pairs_within(
    crystals: Sequence[Crystal], bases: Sequence[Floats], radii: Floats, min_distance_angstrom: float
) -> Pairs:
    """Return all pairs no farther apart than their crystal's radius, but farther than a minimum.

    The distance is summed up as jarvis-tools does it, for results that are the same to the last bit.

    Args:
        crystals: K crystals.
        bases: lattice of each crystal (3, 3) that gives the positions of its atoms; translations use its own lattice.
        radii: (K,) in angstrom.
        min_distance_angstrom: nearer than this are an atom and itself.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    found = []
    some_far = _is_far(np.concatenate([crystal.frac_coords for crystal in crystals]))
    for crystal, basis, radius in zip(crystals, bases, radii.tolist(), strict=True):
        lattice = np.ascontiguousarray(crystal.lattice)
        coords = crystal.frac_coords
        # The search visits all cells between atoms. Coordinates near home stay as they are, to the last bit.
        cells = np.floor(coords) if some_far and _is_far(coords) else None
        positions = (coords if cells is None else coords - cells) @ basis
        center, point, image, _ = find_points_in_spheres(
            positions,
            positions,
            r=radius + _SEARCH_MARGIN_ANGSTROM,
            pbc=_PERIODIC,
            lattice=lattice,
            tol=_SEARCH_MARGIN_ANGSTROM,
        )
        shift = image @ lattice
        if cells is not None:
            image += cells[center] - cells[point]
        found.append((center, point, image, shift, positions))
    centers, points, images, shifts, places = zip(*found, strict=True)
    num_pairs = np.array([len(center) for center in centers])
    first_atoms = starts_of(np.array([len(positions) for positions in places]))
    offsets = np.repeat(first_atoms, num_pairs)
    center, point, position = (
        np.concatenate(centers) + offsets,
        np.concatenate(points) + offsets,
        np.concatenate(places),
    )
    vector = np.concatenate(shifts) + position.take(point, axis=0) - position.take(center, axis=0)
    squared = vector**2
    distance = np.sqrt(squared[:, 0] + squared[:, 1] + squared[:, 2])
    kept = np.flatnonzero((distance <= np.repeat(radii, num_pairs)) & (distance > min_distance_angstrom))
    cell: Integers = np.concatenate(images).astype(np.int64)
    return Pairs(center, point, cell, vector, distance).take(kept)


def _is_far(coords: Floats) -> bool:
    return bool(coords.min() < -_FAR_CELLS or coords.max() > _FAR_CELLS)


def nearest_pairs(
    crystals: Sequence[Crystal],
    bases: Sequence[Floats],
    num_neighbors: int,
    tolerance_angstrom: float,
    min_distance_angstrom: float,
) -> list[Pairs]:
    """Return every atom's nearest neighbours, with all that are no farther than the last of them.

    Each crystal is searched within a radius guessed from its density; it grows until all atoms have their neighbours.

    Args:
        crystals: K crystals.
        bases: see ``pairs_within``.
        num_neighbors: neighbours of each atom.
        tolerance_angstrom: what is farther than the last by no more than this counts as no farther.
        min_distance_angstrom: nearer than this are an atom and itself.

    Returns:
        pairs of some crystals each, atoms counted over all.
    """
    num_atoms = np.array([crystal.num_atoms for crystal in crystals])
    first_atoms = starts_of(num_atoms)
    volumes = np.abs(np.linalg.det(np.stack([crystal.lattice for crystal in crystals])))
    radii = np.cbrt(_FIRST_SEARCH_NEIGHBORS * (num_neighbors + 1) * volumes / (4 / 3 * np.pi * num_atoms))
    pending, done = np.arange(len(crystals)), []
    while len(pending):
        sizes = num_atoms[pending]
        chosen = pending.tolist()
        pairs = pairs_within(
            [crystals[i] for i in chosen], [bases[i] for i in chosen], radii[pending], min_distance_angstrom
        )
        last = _last_neighbors(pairs, int(sizes.sum()), num_neighbors) + tolerance_angstrom
        complete = np.maximum.reduceat(last, starts_of(sizes)) <= radii[pending]
        atom_complete = np.repeat(complete, sizes)
        kept = pairs.take(np.flatnonzero(atom_complete[pairs.center] & (pairs.distance <= last[pairs.center])))
        to_all = np.repeat(first_atoms[pending] - starts_of(sizes), sizes)
        done.append(
            Pairs(
                kept.center + to_all[kept.center],
                kept.point + to_all[kept.point],
                kept.image,
                kept.vector,
                kept.distance,
            )
        )
        pending = pending[~complete]
        radii[pending] *= _SEARCH_GROWTH
    return done


def _last_neighbors(pairs: Pairs, num_atoms: int, num_neighbors: int) -> Floats:
    """Return the distance of each atom's last neighbour (N,), infinite where it has too few."""
    counts = np.bincount(pairs.center, minlength=num_atoms)
    ranks = np.arange(len(pairs.center)) - np.repeat(starts_of(counts), counts)
    by_atom = np.full((num_atoms, max(int(counts.max()), num_neighbors)), np.inf)
    by_atom[pairs.center, ranks] = pairs.distance
    last: Floats = np.partition(by_atom, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
    return last
