"""Where the next atom of a crystal may lie so that it keeps its distance from the atoms before it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MARGIN = 1e-9
"""Part of the distance that is added to it, so that rounding never turns what is just far enough into too near."""

_MOST_IMAGES = 40_000
"""Cells with more images within reach are nearly flat or smaller than the distance: their atoms meet themselves."""


class SiteSpacing:
    """Finds the third coordinates with which a new atom keeps a distance from all others and their images.

    Its first two coordinates leave it a line along the third lattice vector. From there another atom's rows of images
    along that vector are looked at: how near a row comes to the line, and which part of the line is within reach. So
    images along the third vector are never too few, and those along the others are counted out of the plane spacings.
    The atom's own images lie where the cell puts them; no coordinate changes that.

    Args:
        lattice: (3, 3) lattice vectors as rows, in angstrom.
        min_distance_angstrom: smallest distance that is allowed.
        num_values: values of a coordinate; value k is k / ``num_values`` of the cell.
    """

    def __init__(self, lattice: NDArray[np.float64], min_distance_angstrom: float, num_values: int) -> None:
        third = lattice[2]
        self._num_values = num_values
        self._length = float(np.linalg.norm(third))
        # Of the first two vectors, what is along the third in units of it, and what is across it.
        self._along = lattice[:2] @ third / self._length**2
        self._across = lattice[:2] - np.outer(self._along, third)
        distance = min_distance_angstrom * (1 + _MARGIN)
        self._limit = distance**2
        spacings = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)[:2]
        # Differences of coordinates are within half a cell.
        steps = np.floor(distance / spacings + 0.5).tolist()
        few = (2 * steps[0] + 1) * (2 * steps[1] + 1) <= _MOST_IMAGES
        images = product(*(range(-int(step), int(step) + 1) for step in steps)) if few else ()
        self._images = np.array([*images], dtype=np.float64).reshape(-1, 2)

    def squared_distances(self, before: NDArray[np.int64], first: int, second: int) -> NDArray[np.float64] | None:
        """Return the squared distance in square angstrom to the nearest atom for each third coordinate.

        Args:
            before: (M, 3) values of the coordinates of the atoms that are there.
            first: value of the new atom's first coordinate.
            second: value of its second.

        Returns:
            (num_values,) squares, right where they are below the limit and larger than it elsewhere; None where no
            atom comes near the line.
        """
        difference = (np.array([first, second]) - before[:, :2]) / self._num_values
        difference -= np.round(difference)
        offsets = (difference[:, None] + self._images).reshape(-1, 2)
        across = offsets @ self._across
        squares = np.einsum("ij,ij->i", across, across)
        near = np.flatnonzero(squares < self._limit)
        if not len(near):
            return None
        # Third coordinates at which the line passes the images.
        passed = before[near // len(self._images), 2] / self._num_values - offsets[near] @ self._along
        along = np.arange(self._num_values) / self._num_values - passed[:, None]
        along -= np.round(along)
        found: NDArray[np.float64] = (squares[near, None] + (self._length * along) ** 2).min(axis=0)
        return found

    def allowed(self, before: Sequence[Sequence[int]], first: int, second: int) -> tuple[int, bool]:
        """Return bits of the allowed third coordinates, and whether there are any.

        Where there are none, the bit of the one with the largest distance is set, so that writing can go on.

        Args:
            before: values of the coordinates of the atoms that are there.
            first: value of the new atom's first coordinate.
            second: value of its second.
        """
        everything = (1 << self._num_values) - 1
        if not before:
            return everything, True
        squares = self.squared_distances(np.array(before, dtype=np.int64), first, second)
        if squares is None:
            return everything, True
        far = squares >= self._limit
        if not far.any():
            return 1 << int(squares.argmax()), False
        return int.from_bytes(np.packbits(far, bitorder="little").tobytes(), "little"), True
