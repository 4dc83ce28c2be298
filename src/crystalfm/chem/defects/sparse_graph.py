"""The sparse graph of a configuration: nodes at the defects alone, in the manner of the 2DMD authors.

Kazeev et al., "Sparse representation for machine learning the properties of defects in 2D materials", npj Comput.
Mater. 9, 113 (2023): a cell of 192 sites with three defects becomes a graph of three nodes, each of which knows what
was taken from its site and what came there; the pristine sites between are the same for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.chem.defects.records import DefectRecord

ADDED_CODES = 128
"""A node's number is that of the element taken times this, plus that of the element that came, 0 for a vacancy."""

NUM_CODES = (len(SYMBOLS) + 1) * ADDED_CODES
"""One more than the largest number of a node."""

_HEIGHT_ANGSTROM = 300.0
"""Images across the vacuum are this far away, so that none is among a defect's nearest neighbours."""


def sparse_crystal(record: DefectRecord) -> Crystal:
    """Return the defects of a configuration as a crystal of their own, of which graphs can be made.

    Its cell has the supercell's two vectors in the plane; its "atomic numbers" are the nodes' numbers; its atoms are in
    the order of the sites, where these are in the pristine host.
    """
    supercell = record.supercell
    sites = np.array([site for site, _ in record.configuration.defects], dtype=np.int64)
    added = np.array([number for _, number in record.configuration.defects], dtype=np.int64)
    plane = supercell.lattice[:2]
    normal = np.cross(plane[0], plane[1])
    lattice = np.vstack([plane, normal / np.linalg.norm(normal) * _HEIGHT_ANGSTROM])
    coords = supercell.frac_coords[sites]
    # Relative to the first site, so that a layer across the cell's border stays whole.
    depth = coords[:, 2] - supercell.frac_coords[0, 2]
    positions = np.column_stack([coords[:, :2], depth - np.round(depth)])
    cartesian = positions @ np.vstack([plane, supercell.lattice[2]])
    numbers = supercell.numbers[sites] * ADDED_CODES + added
    return Crystal(lattice, numbers, cartesian @ np.linalg.inv(lattice))


def elements_of_codes() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for every number of a node (``NUM_CODES``,) the element taken and the one that came, 0 for a vacancy."""
    codes = np.arange(NUM_CODES)
    added = codes % ADDED_CODES
    return codes // ADDED_CODES, np.where(added <= len(SYMBOLS), added, 0)
