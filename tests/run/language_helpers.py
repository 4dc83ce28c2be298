"""Made-up salts and small generators, for tests of runs."""

from __future__ import annotations

import csv
from pathlib import Path

from pymatgen.core import Lattice, Structure

SIZES = {"train": 24, "val": 4, "test": 6}
PLAIN = (
    "model=crystal_llm", "data=mp", "llm=tiny", "scheduler=cosine", "trainer=cpu", "trainer.max_epochs=2",
    "data.batch_size=4", "callbacks.progress_bar=false", "trainer.num_threads=1", "data.eval_batch_size=3",
    "trainer.precision=32-true",
)  # fmt: skip
TINY_GENERATOR = (*PLAIN, "llm.width=16", "llm.num_layers=1", "llm.num_heads=2")


def write_salts(folder: Path) -> Path:
    """Write cubic salts in MP-20's columns."""
    folder.mkdir()
    number = 0
    for part, size in SIZES.items():
        with (folder / f"{part}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif"])
            for _ in range(size):
                cell = Lattice.cubic(4.0 + 0.03 * number)
                salt = Structure(cell, [("Na", "K", "Rb")[number % 3], "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
                writer.writerow([f"mp-{number}", -1.0 - 0.01 * number, 0.1 * number, 0.0, salt.to(fmt="cif")])
                number += 1
    return folder
