"""Molecular graphs: atoms with their features, and for every pair of atoms how they are related."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.molecules import parse_smiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rdkit.Chem import Atom, Mol

GRAPH_VERSION = 1
"""Raised when the same molecule would get other features; makes cached graphs and old checkpoints stale."""

_RING_SIZES = (3, 4, 5, 6, 7, 8)
_CHARGE_OFFSET, _LARGEST_CHARGE = 4, 4
_LARGEST_COUNT = 8
_HYBRIDISATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
_CHIRALITIES = ("CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")

ATOM_FEATURES: tuple[tuple[str, int], ...] = (
    ("atomic number", 119),
    ("neighbours, hydrogens included", _LARGEST_COUNT + 1),
    ("neighbours in the graph", _LARGEST_COUNT + 1),
    ("hydrogens", _LARGEST_COUNT + 1),
    ("formal charge", 2 * _LARGEST_CHARGE + 1),
    ("hybridisation", len(_HYBRIDISATIONS) + 1),
    ("aromatic", 2),
    ("chirality", len(_CHIRALITIES) + 1),
    ("in a ring", 2),
    *((f"in a ring of {size}", 2) for size in _RING_SIZES),
)
"""Name and number of values of each feature of an atom; values beyond the last count as the last."""

_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_OTHER_BOND = len(_BONDS)
_NUM_BONDS = 2 * (len(_BONDS) + 1)  # each kind outside of and in a ring
_LARGEST_DISTANCE = 10
SAME_ATOM = _NUM_BONDS
_FIRST_DISTANCE = SAME_ATOM + 1  # two bonds apart
DISCONNECTED = _FIRST_DISTANCE + _LARGEST_DISTANCE - 1
NUM_RELATIONS = DISCONNECTED + 1
"""Relations of two atoms: 10 kinds of bonds, the same atom, 2 to 10 (or more) bonds apart, not connected."""


@dataclass(frozen=True)
class MolecularGraph:
    """A molecule as arrays; hydrogens are counted on their neighbours unless the SMILES writes them as atoms.

    Attributes:
        atoms: (N, F) uint8, value of each of ``ATOM_FEATURES``.
        relations: (N, N) uint8 below ``NUM_RELATIONS``, symmetric; bonds come first.
    """

    atoms: NDArray[np.uint8]
    relations: NDArray[np.uint8]


def molecular_graph(smiles: str) -> MolecularGraph:
    """Return the graph of a SMILES string, atoms in the order in which it writes them.

    Pairs of atoms are told apart by their bond or else by the number of bonds between them, as Graphormer's spatial
    encoding does (Ying et al., arXiv 2106.05234, section 3.1).

    Raises:
        MoleculeError: see ``chem.molecules.parse_smiles``.
    """
    molecule = parse_smiles(smiles)
    atoms = np.array([_atom_features(atom) for atom in molecule.GetAtoms()], dtype=np.uint8)
    return MolecularGraph(atoms.reshape(-1, len(ATOM_FEATURES)), _relations(molecule))


def _atom_features(atom: Atom) -> list[int]:
    charge = max(-_LARGEST_CHARGE, min(_LARGEST_CHARGE, atom.GetFormalCharge()))
    return [
        atom.GetAtomicNum(),
        min(atom.GetTotalDegree(), _LARGEST_COUNT),
        min(atom.GetDegree(), _LARGEST_COUNT),
        min(atom.GetTotalNumHs(), _LARGEST_COUNT),
        charge + _CHARGE_OFFSET,
        _position(str(atom.GetHybridization()), _HYBRIDISATIONS),
        int(atom.GetIsAromatic()),
        _position(str(atom.GetChiralTag()), _CHIRALITIES),
        int(atom.IsInRing()),
        *(int(atom.IsInRingSize(size)) for size in _RING_SIZES),
    ]


def _position(name: str, names: Sequence[str]) -> int:
    """Return the place of ``name`` among ``names`` from 1, and 0 where it is not among them."""
    return names.index(name) + 1 if name in names else 0


def _relations(molecule: Mol) -> NDArray[np.uint8]:
    from rdkit import Chem

    distance = Chem.GetDistanceMatrix(molecule)
    relations = np.clip(distance, 2, _LARGEST_DISTANCE) - 2 + _FIRST_DISTANCE
    relations[distance >= len(distance)] = DISCONNECTED
    np.fill_diagonal(relations, SAME_ATOM)
    for bond in molecule.GetBonds():
        kind = str(bond.GetBondType())
        code = _BONDS.index(kind) if kind in _BONDS else _OTHER_BOND
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        relations[first, second] = relations[second, first] = 2 * code + int(bond.IsInRing())
    codes: NDArray[np.uint8] = relations.astype(np.uint8)
    return codes
