"""What the tests of judging share: small reference sets and samples of rock salts."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, make_crystal

CUTS = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 15)}
PAIRS = [(11, 17), (19, 17), (37, 17), (11, 35), (19, 35), (37, 35), (3, 17), (3, 35), (3, 53)]
PAIRS += [(55, 17), (55, 35), (11, 9), (19, 9), (12, 8), (20, 8)]


def rock_salt(edge: float, pair: tuple[int, int] = (11, 17)) -> Crystal:
    """Return the primitive cell of rock salt with an edge of the cubic cell in angstrom."""
    lattice = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]) * edge
    return make_crystal(lattice, list(pair), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


def cif(crystal: Crystal) -> str:
    """Return a crystal as CIF."""
    from pymatgen.io.cif import CifWriter

    from crystalfm.metrics.crystals.structures import as_structure

    return str(CifWriter(as_structure(crystal), significant_figures=8))


def write_reference(folder: Path) -> Path:
    """Write a release in the layout of MP-20: rock salts of many elements."""
    folder.mkdir()
    for part, cut in CUTS.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["material_id", "cif", "formation_energy_per_atom"])
            for pair in PAIRS[cut]:
                name = "".join(SYMBOLS[number - 1] for number in pair)
                writer.writerow([f"mp-{name}", cif(rock_salt(6.0, pair)), -1.0])
    return folder


def write_samples(folder: Path) -> Path:
    """Write six files: two copies of a training crystal, a new one, overlapping atoms, no CIF, and no sample."""
    folder.mkdir()
    (folder / "a.cif").write_text(cif(rock_salt(6.0)))
    (folder / "b.cif").write_text(cif(rock_salt(6.1)))
    (folder / "c.cif").write_text(cif(rock_salt(5.5, (29, 17))))
    overlapping = make_crystal(np.eye(3) * 4, [11, 17], [[0.0, 0.0, 0.0], [0.05, 0.0, 0.0]])
    (folder / "d.cif").write_text(cif(overlapping))
    (folder / "e.cif").write_text("data_nothing\n")
    (folder / "README.md").write_text("how these were made\n")
    return folder
