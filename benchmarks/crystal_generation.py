"""Floors for generators of crystals: what figures training crystals reach, and ones with their elements exchanged.

usage: python benchmarks/crystal_generation.py OUT [--kind train substitution] [--count 1000] [--seed 42]
           [--path FOLDER] [--scale-volume]

Writes a folder of CIF files for each kind, to be judged like the samples of any generator:

  train         crystals of the training part of MP-20 themselves, without replacement: valid and unique, none new
  substitution  training crystals in which every element is exchanged for another one, drawn by how often it occurs
                among the training crystals; different elements stay different. Cells and coordinates stay as they are
                or, with --scale-volume, every length is scaled by the ratio of the mean atomic radii.

  python evaluate.py structures=OUT/substitution reference=mp stability=true relaxation.limit=100
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, make_crystal
from crystalfm.data.materials_project import MaterialsProject
from crystalfm.io.files import write_text
from crystalfm.metrics.crystals.structures import as_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KINDS = ("train", "substitution")


def training_crystals(path: str | None) -> list[Crystal]:
    """Return the crystals of the training part, from a folder or from the asset store that the variables name."""
    from crystalfm.config.preflight import check_config
    from crystalfm.run.build import asset_store

    store = None if path is not None else asset_store(check_config("evaluate", ["structures=.", "reference=mp"]))
    table = MaterialsProject(path=path, store=store).load()
    if table.parts is None:
        raise SystemExit(f"{path} has no parts")
    rows = np.flatnonzero(table.parts == "train").tolist()
    return [Crystal.from_json(text) for row in rows if (text := table.fields["structure"][row]) is not None]


def element_shares(crystals: Sequence[Crystal]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the atomic numbers that occur, and the share of each among the elements of all crystals."""
    counts = Counter(number for crystal in crystals for number in set(crystal.atomic_numbers.tolist()))
    numbers = np.array(sorted(counts), dtype=np.int64)
    weights = np.array([counts[number] for number in numbers.tolist()], dtype=np.float64)
    return numbers, weights / weights.sum()


def substituted(
    crystal: Crystal,
    numbers: NDArray[np.int64],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    scale_volume: bool = False,
) -> Crystal:
    """Return a crystal with each of its elements exchanged for another one, different ones for different ones.

    Args:
        crystal: crystal to start from.
        numbers: (E,) atomic numbers to draw from.
        shares: (E,) their probabilities.
        rng: source of the draw.
        scale_volume: whether to scale all lengths by the ratio of the mean atomic radii.
    """
    old = np.unique(crystal.atomic_numbers)
    allowed = ~np.isin(numbers, old)
    new = rng.choice(numbers[allowed], size=len(old), replace=False, p=shares[allowed] / shares[allowed].sum())
    exchanged = new[np.searchsorted(old, crystal.atomic_numbers)]
    factor = mean_radius(exchanged) / mean_radius(crystal.atomic_numbers) if scale_volume else 1.0
    return make_crystal(crystal.lattice * factor, exchanged, crystal.frac_coords)


def mean_radius(numbers: NDArray[np.int64]) -> float:
    """Return the mean of the atoms' radii in angstrom: Slater's, calculated ones for elements he left out."""
    from pymatgen.core.periodic_table import Element

    elements = [Element(SYMBOLS[number - 1]) for number in numbers.tolist()]
    return float(np.mean([float(one.atomic_radius or one.atomic_radius_calculated or 1.5) for one in elements]))


def floor_set(crystals: Sequence[Crystal], kind: str, count: int, seed: int, *, scale_volume: bool) -> list[Crystal]:
    """Return the crystals of one kind; the same crystals are the start of both kinds."""
    rng = np.random.default_rng(seed)
    drawn = [crystals[row] for row in rng.permutation(len(crystals))[:count].tolist()]
    if kind == "train":
        return drawn
    numbers, shares = element_shares(crystals)
    return [substituted(crystal, numbers, shares, rng, scale_volume=scale_volume) for crystal in drawn]


def write_cifs(crystals: Sequence[Crystal], folder: Path) -> None:
    """Write each crystal as a CIF file named by its place."""
    from pymatgen.io.cif import CifWriter

    width = len(str(len(crystals) - 1))
    for place, crystal in enumerate(crystals):
        write_text(folder / f"{place:0{width}d}.cif", str(CifWriter(as_structure(crystal), significant_figures=8)))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folders and say how to judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--path", help="folder with train.csv, val.csv and test.csv; the asset store if not given")
    parser.add_argument("--scale-volume", action="store_true")
    options = parser.parse_args(argv)
    crystals = training_crystals(options.path)
    for kind in options.kind:
        found = floor_set(crystals, kind, options.count, options.seed, scale_volume=options.scale_volume)
        folder = options.output / kind
        if folder.exists():
            parser.error(f"{folder} exists")
        write_cifs(found, folder)
        print(f"{folder}: {len(found)} crystals out of {len(crystals):,}")
        print(f"  python evaluate.py structures={folder} reference=mp stability=true relaxation.limit=100")
    return 0


if __name__ == "__main__":
    sys.exit(main())
