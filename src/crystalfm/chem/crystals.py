"""Crystal structures: lattice, elements and fractional coordinates; what makes one usable, and which are the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product
from math import ceil, gcd, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# fmt: off
SYMBOLS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc",
    "Lv", "Ts", "Og",
)
# fmt: on
"""Symbols of the elements 1 to 118."""

_NUMBER_OF = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)} | {"D": 1, "T": 1}
"""Atomic numbers by symbol; deuterium and tritium are hydrogen, whose electronic structure they share."""

MIN_DISTANCE_ANGSTROM = 0.5
"""Atoms nearer than this overlap; the shortest bond there is, H-H, has 0.74."""

MIN_VOLUME_CUBIC_ANGSTROM = 0.1
_MIN_PLANE_SPACING_ANGSTROM = 0.05
_CHUNK_DISTANCES = 1_000_000
_MAX_ATOMS_COMPARED = 200
"""Larger cells are compared as they are written."""

_NUM_NEIGHBOURS = 16
_VALUE_LENGTH = 80


class Problem(StrEnum):
    """What can be wrong with a crystal; every ``CrystalError``'s reason begins with one of these."""

    UNREADABLE = "unreadable structure"
    NO_ATOMS = "no atoms"
    NOT_FINITE = "coordinates that are not numbers"
    NO_VOLUME = "cell without a positive volume"
    DISORDERED = "disordered sites"
    UNKNOWN_ELEMENT = "unknown element"
    OVERLAP = "overlapping atoms"


class CrystalError(ValueError):
    """Something that is not the crystal it should be.

    Args:
        reason: what is wrong with it, fit for a table of rejected rows: a ``Problem``, then a colon and details.
        value: what was given; shortened to one line.
    """

    def __init__(self, reason: str, value: str = "") -> None:
        line = " ".join(value.split())
        self.reason = " ".join(reason.split())
        self.value = line if len(line) <= _VALUE_LENGTH else line[: _VALUE_LENGTH - 1] + "…"
        super().__init__(f"{self.reason} ({self.value!r})" if self.value else self.reason)

    @property
    def problem(self) -> Problem:
        """Kind of what is wrong."""
        kind = self.reason.partition(":")[0]
        return Problem(kind) if kind in set(Problem) else Problem.UNREADABLE


@dataclass(frozen=True, eq=False)
class Crystal:
    """One ordered crystal.

    Attributes:
        lattice: (3, 3) float64, lattice vectors as rows, in angstrom.
        atomic_numbers: (N,) int64, 1 to 118.
        frac_coords: (N, 3) float64, fractional coordinates; any real numbers, wrapped or not.
    """

    lattice: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]

    @property
    def num_atoms(self) -> int:
        """Atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell in cubic angstrom."""
        return abs(float(np.linalg.det(self.lattice)))

    @cached_property
    def formula(self) -> str:
        """Reduced formula in Hill's order: carbon, then hydrogen, then by the alphabet; without carbon all by it."""
        counts = Counter(SYMBOLS[number - 1] for number in self.atomic_numbers.tolist())
        divisor = gcd(*counts.values()) or 1
        first = ("C", "H") if "C" in counts else ()
        ordered = [*(name for name in first if name in counts), *sorted(set(counts) - set(first))]
        return "".join(name + (str(n) if (n := counts[name] // divisor) > 1 else "") for name in ordered)

    def to_json(self) -> str:
        """Return compact JSON with every digit of every number: ``from_json`` gives the same arrays back."""
        content = {
            "lattice": self.lattice.tolist(),
            "numbers": self.atomic_numbers.tolist(),
            "coords": self.frac_coords.tolist(),
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Crystal:
        """Read what ``to_json`` wrote; see ``checked`` for whether it makes sense as a crystal.

        Raises:
            CrystalError: the text is no such JSON, or its arrays do not fit together.
        """
        try:
            content = json.loads(text)
            lattice, numbers, coords = (content[name] for name in ("lattice", "numbers", "coords"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CrystalError(f"{Problem.UNREADABLE}: not a crystal's JSON", text) from error
        return make_crystal(lattice, numbers, coords)


def make_crystal(lattice: object, atomic_numbers: object, frac_coords: object) -> Crystal:
    """Return a crystal of anything that NumPy can make arrays of the right shapes of.

    Raises:
        CrystalError: a value is no number, or the shapes do not fit together.
    """
    try:
        cell = np.asarray(lattice, dtype=np.float64)
        numbers = np.asarray(atomic_numbers, dtype=np.int64).reshape(-1)
        coords = np.asarray(frac_coords, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise CrystalError(f"{Problem.UNREADABLE}: lattice, elements or coordinates: {error}") from error
    coords = coords.reshape(0, 3) if coords.size == 0 else coords
    if cell.shape != (3, 3) or coords.shape != (len(numbers), 3):
        detail = f"lattice {cell.shape}, {len(numbers)} elements, coordinates {coords.shape}"
        raise CrystalError(f"{Problem.UNREADABLE}: {detail}")
    return Crystal(cell, numbers, coords)


def atomic_number(symbol: str) -> int:
    """Return the atomic number of an element's symbol; ``D`` and ``T`` are hydrogen.

    Raises:
        CrystalError: no element has this symbol (``X`` and other dummies included).
    """
    number = _NUMBER_OF.get(symbol.strip())
    if number is None:
        raise CrystalError(f"{Problem.UNKNOWN_ELEMENT}: {symbol!r}", symbol)
    return number


def checked(crystal: Crystal) -> Crystal:
    """Return the crystal after making sure that it can be worked with.

    Raises:
        CrystalError: it has no atoms, coordinates that are not finite, a cell without a positive volume, an unknown
            element, or atoms nearer than ``MIN_DISTANCE_ANGSTROM`` to each other or to their own image.
    """
    if crystal.num_atoms == 0:
        raise CrystalError(Problem.NO_ATOMS)
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        raise CrystalError(Problem.NOT_FINITE)
    wrong = crystal.atomic_numbers[(crystal.atomic_numbers < 1) | (crystal.atomic_numbers > len(SYMBOLS))]
    if len(wrong):
        raise CrystalError(f"{Problem.UNKNOWN_ELEMENT}: atomic number {int(wrong[0])}")
    _check_cell(crystal)
    distance, first, second = closest_pair(crystal, MIN_DISTANCE_ANGSTROM)
    if distance < MIN_DISTANCE_ANGSTROM:
        names = [f"{SYMBOLS[crystal.atomic_numbers[atom] - 1]} {atom + 1}" for atom in (first, second)]
        who = f"{names[0]} and {names[1]}" if first != second else f"{names[0]} and its image"
        raise CrystalError(f"{Problem.OVERLAP}: {who}, {distance:.2f} angstrom apart", crystal.formula)
    return crystal


def _check_cell(crystal: Crystal) -> None:
    """Refuse cells that are flat, or left-handed as no program that computes with them accepts them."""
    signed = float(np.linalg.det(crystal.lattice))
    if crystal.volume < MIN_VOLUME_CUBIC_ANGSTROM or _plane_spacings(crystal).min() < _MIN_PLANE_SPACING_ANGSTROM:
        raise CrystalError(f"{Problem.NO_VOLUME}: {crystal.volume:.3g} cubic angstrom", crystal.formula)
    if signed < 0:
        detail = f"{signed:.4g} cubic angstrom, its vectors are left-handed: exchange two of them"
        raise CrystalError(f"{Problem.NO_VOLUME}: {detail}", crystal.formula)


def closest_pair(crystal: Crystal, cutoff_angstrom: float) -> tuple[float, int, int]:
    """Return the smallest distance between atoms, images included, where it is below a cut-off.

    Args:
        crystal: crystal with a volume.
        cutoff_angstrom: distances above this are not looked for.

    Returns:
        the distance in angstrom (infinite where none is below the cut-off) and the two atoms, which are the same
        where an atom meets its own image.
    """
    from scipy.spatial import cKDTree

    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    images, atoms = wrapped, np.arange(crystal.num_atoms)
    for axis, margin in enumerate((cutoff_angstrom / _plane_spacings(crystal)).tolist()):
        steps = np.arange(-ceil(margin), ceil(margin) + 1)
        images, atoms = np.tile(images, (len(steps), 1)), np.tile(atoms, len(steps))
        images[:, axis] += np.repeat(steps, len(images) // len(steps))
        near = (images[:, axis] >= -margin) & (images[:, axis] <= 1.0 + margin)
        images, atoms = images[near], atoms[near]
    tree = cKDTree(images @ crystal.lattice)
    # The first neighbour of each atom is the atom itself.
    distances, found = tree.query(wrapped @ crystal.lattice, k=2, distance_upper_bound=cutoff_angstrom)
    first = int(distances[:, 1].argmin())
    distance = float(distances[first, 1])
    if not isfinite(distance):
        return inf, 0, 0
    second = next((atom for atom in atoms[found[first]].tolist() if atom != first), first)
    return distance, first, second


def group_key(crystal: Crystal) -> str:
    """Return a text that is equal for the same crystal in another setting, and almost never for different ones.

    Made of the reduced formula, the volume an atom, and for each kind of site its element, the distance of the
    nearest atom and the mean distance of the sixteen nearest, to 0.01. It does not change when atoms are moved
    together, reordered or repeated, or the cell is turned. Cells of more than 200 atoms are compared as written.

    Use it to keep copies on one side of a split; a rounding limit between two copies hides them from each other.
    """
    if crystal.num_atoms > _MAX_ATOMS_COMPARED:
        return f"{crystal.formula}|{hashlib.sha256(crystal.to_json().encode()).hexdigest()}"
    rows = []
    for distances in _distances(crystal):
        flat = distances.reshape(len(distances), -1)
        count = min(_NUM_NEIGHBOURS, flat.shape[1] - 1)
        nearest = np.partition(flat, count - 1, axis=1)[:, :count]
        rows.append(np.stack([nearest.min(axis=1), nearest.mean(axis=1)], axis=1))
    sites = {
        f"{number}:{near:.2f}:{mean:.2f}"
        for number, (near, mean) in zip(crystal.atomic_numbers.tolist(), np.concatenate(rows).tolist(), strict=True)
    }
    return f"{crystal.formula}|{crystal.volume / crystal.num_atoms:.2f}|{' '.join(sorted(sites))}"


def _plane_spacings(crystal: Crystal) -> NDArray[np.float64]:
    """Return (3,) distances in angstrom between the lattice planes that bound the cell."""
    spacings: NDArray[np.float64] = 1.0 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    return spacings


def _distances(crystal: Crystal) -> Iterator[NDArray[np.float64]]:
    """Yield distances (rows, N, 27) in angstrom a few atoms at a time, so that memory is bounded.

    The differences are wrapped to the nearest cell; the images are that cell and those around it. An atom's distance
    to itself is infinite.
    """
    images = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)
    shifts = images @ crystal.lattice
    coords = crystal.frac_coords
    rows = max(1, _CHUNK_DISTANCES // (crystal.num_atoms * len(images)))
    for start in range(0, crystal.num_atoms, rows):
        difference = coords[None] - coords[start : start + rows, None]
        difference -= np.round(difference)
        vectors = (difference @ crystal.lattice)[:, :, None] + shifts
        distances = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
        own = np.arange(len(difference))
        distances[own, start + own, len(images) // 2] = inf
        yield distances
