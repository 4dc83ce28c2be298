"""Crystals whose properties are known, other settings of them, and fingerprints that take no time."""

import json
import time

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, make_crystal


def numbers(symbols):
    """Atomic numbers of symbols."""
    return [SYMBOLS.index(symbol) + 1 for symbol in symbols]


def rock_salt(cation="Na", anion="Cl", edge=5.64) -> Crystal:
    """The primitive cell of rock salt, two atoms; space group 225."""
    half = edge / 2
    cell = [[0, half, half], [half, 0, half], [half, half, 0]]
    return make_crystal(cell, numbers([cation, anion]), [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(cation="Cs", anion="Cl", edge=4.12) -> Crystal:
    """Caesium chloride; space group 221."""
    return make_crystal(np.eye(3) * edge, numbers([cation, anion]), [[0, 0, 0], [0.5, 0.5, 0.5]])


def bcc(symbol="Fe", edge=2.87) -> Crystal:
    """A body-centred element, two atoms; space group 229."""
    return caesium_chloride(symbol, symbol, edge)


def fcc(symbol="Cu", edge=3.61) -> Crystal:
    """A face-centred element, one atom; space group 225."""
    half = edge / 2
    return make_crystal([[0, half, half], [half, 0, half], [half, half, 0]], numbers([symbol]), [[0, 0, 0]])


def perovskite(a="Ba", b="Ti", edge=4.0) -> Crystal:
    """A cubic perovskite oxide, five atoms; space group 221."""
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return make_crystal(np.eye(3) * edge, numbers([a, b, "O", "O", "O"]), coords)


def overlapping() -> Crystal:
    """Two atoms 0.3 angstrom apart, across the border of the cell."""
    return make_crystal(np.eye(3) * 4.0, numbers(["Na", "Cl"]), [[0, 0, 0.04], [0, 0, 0.965]])


def flat() -> Crystal:
    """A cell without a volume."""
    return make_crystal([[4, 0, 0], [0, 4, 0], [4, 4, 1e-5]], numbers(["Na", "Cl"]), [[0, 0, 0], [0.5, 0.5, 0.5]])


def moved(crystal, shift=(0.31, 0.77, 0.13)) -> Crystal:
    """The same crystal with another origin."""
    return Crystal(crystal.lattice, crystal.atomic_numbers, (crystal.frac_coords + shift) % 1.0)


def permuted(crystal, seed=0) -> Crystal:
    """The same crystal with its atoms in another order."""
    order = np.random.default_rng(seed).permutation(crystal.num_atoms)
    return Crystal(crystal.lattice, crystal.atomic_numbers[order], crystal.frac_coords[order])


def repeated(crystal, times=2) -> Crystal:
    """The same crystal in a cell that is longer along its first vector."""
    lattice = crystal.lattice * np.array([[times], [1], [1]])
    coords = [(crystal.frac_coords + np.array([k, 0, 0])) / np.array([times, 1, 1]) for k in range(times)]
    return Crystal(lattice, np.tile(crystal.atomic_numbers, times), np.concatenate(coords))


def sheared(crystal, multiple=1) -> Crystal:
    """The same crystal in another cell of the same volume."""
    change = np.array([[1, 0, 0], [0, 1, 0], [multiple, 0, 1]])
    return Crystal(change @ crystal.lattice, crystal.atomic_numbers, crystal.frac_coords @ np.linalg.inv(change))


def turned(crystal) -> Crystal:
    """The same crystal, turned in space."""
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return Crystal(crystal.lattice @ turn, crystal.atomic_numbers, crystal.frac_coords)


SETTINGS = (moved, permuted, repeated, sheared, turned)
"""Every way of writing the same crystal otherwise."""


def fake_fingerprint(crystal) -> str:
    """Fingerprints that tell crystals apart; what the child of a test calls as ``known_crystals:fake_fingerprint``."""
    if crystal.formula == "ClK":
        raise ValueError("no potassium")
    if crystal.formula == "ClRb":
        time.sleep(60)
    structure = np.zeros(61)
    structure[0] = crystal.volume / crystal.num_atoms
    composition = np.bincount(crystal.atomic_numbers, minlength=132)[:132] / crystal.num_atoms
    return json.dumps({"structure": structure.tolist(), "composition": composition.tolist()})
