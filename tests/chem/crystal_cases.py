"""Crystals for tests: by hand, at random, and what is done to them."""

from collections import Counter

import numpy as np

from crystalfm.chem.crystals import make_crystal

CUBIC = make_crystal(np.eye(3) * 3.0, [26], [[0, 0, 0]])
FCC = make_crystal([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], [29], [[0, 0, 0]])
ROCK_SALT = make_crystal([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])
HEXAGONAL = make_crystal(
    [[2.5, 0, 0], [-1.25, 1.25 * 3**0.5, 0], [0, 0, 6.7]], [6, 6], [[0, 0, 0.25], [2 / 3, 1 / 3, 0.25]]
)
SPARSE = make_crystal(np.eye(3) * 25.0, [8, 1, 1], [[0.5, 0.5, 0.5], [0.53, 0.52, 0.5], [0.47, 0.52, 0.5]])
CHAIN = make_crystal(np.diag([2.6, 19.0, 23.0]), [79], [[0.1, 0.9, 0.4]])
SKEWED = make_crystal([[3.0, 0, 0], [2.8 * 9, 3.1, 0], [1.5, 2.9 * 7, 3.3]], [22, 8], [[0, 0, 0], [0.4, 0.5, 0.6]])
BY_HAND = {
    "cubic": CUBIC,
    "fcc": FCC,
    "rock salt": ROCK_SALT,
    "hexagonal": HEXAGONAL,
    "sparse": SPARSE,
    "chain": CHAIN,
    "skewed": SKEWED,
}


def random_crystal(seed, max_atoms=8):
    """Return a crystal without symmetry, some cells flat or long."""
    rng = np.random.default_rng(seed)
    num_atoms = int(rng.integers(1, max_atoms + 1))
    lattice = rng.normal(size=(3, 3)) + np.eye(3) * 2
    lattice *= rng.uniform(0.6, 1.8, size=(3, 1))
    lattice *= np.cbrt(14.0 * num_atoms / abs(np.linalg.det(lattice)))
    return make_crystal(lattice, rng.integers(1, 90, num_atoms), rng.random((num_atoms, 3)))


def rotated(crystal, seed):
    """Return the crystal in another orientation, mirrored for odd seeds."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation)) * (-1) ** seed
    return make_crystal(crystal.lattice @ rotation, crystal.atomic_numbers, crystal.frac_coords)


def supercell(crystal, repeats):
    """Return the crystal in a larger cell, one copy of its atoms after another."""
    cells = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    coords = (crystal.frac_coords + cells) / np.array(repeats)
    lattice = crystal.lattice * np.array(repeats)[:, None]
    return make_crystal(lattice, np.tile(crystal.atomic_numbers, len(cells)), coords.reshape(-1, 3))


def edges_of(source, target, image):
    """Return edges as a multiset."""
    return Counter(map(tuple, np.column_stack([source, target, image]).astype(np.int64).tolist()))


def edge_multiset(graph):
    """Return a graph's edges as a multiset of (source, target, image)."""
    return edges_of(graph.source, graph.target, graph.image)


def lengths_by_atom(graph):
    """Return for each atom the sorted lengths of the edges that leave it, to a ten-thousandth of an angstrom."""
    lengths = np.linalg.norm(graph.vector, axis=1)
    return [np.sort(lengths[graph.source == atom]) for atom in range(graph.num_atoms)]
