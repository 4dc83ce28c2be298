"""Symmetry of a supercell of a layer as permutations of its sites."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.chem.defects.hosts import Supercell

SYMPREC_ANGSTROM = 0.01

_SAME_SITE_ANGSTROM = 0.1


@lru_cache(maxsize=32)
def site_permutations(supercell: Supercell) -> NDArray[np.int64]:
    """Return every symmetry operation of the pristine supercell as a permutation of its sites.

    They are the operations of the layer's unit cell (spglib) that map the supercell's lattice onto itself, each with
    all translations by whole unit cells in the plane: 12 times 64 for MoS2 [8, 8, 1].

    Args:
        supercell: the supercell.

    Returns:
        (G, N) int64, row g holds the site that operation g moves each site to; the first row is the identity.
    """
    import spglib

    cell = supercell.host.cell
    plain = (cell.lattice.tolist(), cell.frac_coords.tolist(), cell.atomic_numbers.tolist())
    found = spglib.get_symmetry(plain, symprec=SYMPREC_ANGSTROM)
    size = np.array(supercell.size, dtype=np.float64)
    columns, rows = (np.arange(number) for number in supercell.size[:2])
    shifts = np.stack(
        [*map(np.ravel, np.meshgrid(columns, rows, indexing="ij")), np.zeros(columns.size * rows.size)], 1
    )
    if found is None:
        raise RuntimeError(f"spglib finds no symmetry of {supercell.host.name}")
    permutations: list[NDArray[np.int64]] = []
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        # In fractions of the supercell; whole only if it maps the supercell's lattice onto itself.
        scaled = rotation * size[None] / size[:, None]
        if not np.allclose(scaled, np.round(scaled)):
            continue
        moved = supercell.frac_coords @ scaled.T + translation / size
        permutations.extend(_sites(supercell, moved + shift / size) for shift in shifts)
    unique = np.unique(np.stack(permutations), axis=0)
    return unique[np.lexsort(unique.T[::-1])]


def _sites(supercell: Supercell, coords: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (N,) the site at each of these fractional coordinates."""
    difference = coords[:, None] - supercell.frac_coords[None]
    difference -= np.round(difference)
    squares = np.einsum("ijk,ijk->ij", lengths := difference @ supercell.lattice, lengths)
    nearest: NDArray[np.int64] = squares.argmin(axis=1)
    if squares[np.arange(len(nearest)), nearest].max() > _SAME_SITE_ANGSTROM**2:
        raise RuntimeError(f"an operation moves a site of {supercell.host.name} to where there is none")
    return nearest
