"""Robocrystallographer's texts: ours against the plain library, on the same crystals in one process.

Both sides get the same pymatgen structures and write a text each; the sides take turns from crystal to crystal, so that
other work on the machine slows both. What either builds once (the plain library reads its minerals, ours also reduces
their cells) is timed apart. The texts must be equal. The ratio comes last.

    python benchmarks/descriptions.py [--crystals 50] [--mirror FOLDER] [--skip 0]

Needs the extra: pip install 'crystalfm[describe]'. Crystals are those of Materials Project where a mirror has mp/.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.chem.robocrys_text import cleaned

if TYPE_CHECKING:
    from collections.abc import Callable

    Describe = Callable[[Crystal], str]


def real_crystals(mirror: Path | None, count: int, skip: int) -> tuple[list[Crystal], str]:
    """Return crystals of up to 20 atoms and where they are from."""
    path = (mirror or Path()) / "mp" / "train.csv.gz"
    if mirror is None or not path.is_file():
        return [rock_salt(4.0 + 0.2 * step) for step in range(count)], "made up: rock salt"
    from crystalfm.chem.crystal_io import crystal_from_text

    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = islice(csv.DictReader(stream), skip, skip + count)
        return [crystal_from_text(row["cif"], "cif") for row in rows], path.name


def rock_salt(edge: float) -> Crystal:
    """Return the primitive cell of rock salt."""
    cell = edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return make_crystal(cell, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])


def our_side() -> Describe:
    """Return our way of describing."""
    from crystalfm.chem.robocrys_library import FastDescriber

    return FastDescriber()


def plain_side() -> Describe:
    """Return the library's way, its objects kept from crystal to crystal."""
    from robocrys import StructureCondenser, StructureDescriber

    from crystalfm.chem.robocrys_library import as_structure

    condenser, describer = StructureCondenser(), StructureDescriber()
    return lambda crystal: str(describer.describe(condenser.condense_structure(as_structure(crystal))))


def timed(describe: Describe, crystal: Crystal) -> tuple[str, float, float]:
    """Return the text, or what was raised, and the seconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = describe(crystal)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
            text = f"{type(error).__name__}: {error}"
    return cleaned(text), time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=50)
    parser.add_argument("--skip", type=int, default=0, help="crystals of the file to pass over")
    parser.add_argument("--mirror", type=Path, default=os.environ.get("CRYSTALFM_MIRROR"), help="folder with mp/")
    options = parser.parse_args()
    mirror = None if options.mirror is None else Path(options.mirror)
    crystals, origin = real_crystals(mirror, options.crystals, options.skip)
    sizes = [crystal.num_atoms for crystal in crystals]
    print(f"{len(crystals)} crystals ({origin}), {np.mean(sizes):.1f} atoms on average, {max(sizes)} at most")
    start = time.process_time()
    ours = our_side()
    print(f"made ready, imports included: {time.process_time() - start:.1f} s of CPU")
    plain = plain_side()
    for side in (ours, plain):  # what is read at the first crystal
        timed(side, rock_salt(5.64))
    ours_seconds, plain_seconds, equal = [], [], 0
    for crystal in crystals:
        text, *seconds = timed(ours, crystal)
        ours_seconds.append(seconds)
        expected, *seconds = timed(plain, crystal)
        plain_seconds.append(seconds)
        equal += text == expected
    report(np.array(ours_seconds), np.array(plain_seconds))
    print(f"texts equal: {equal} of {len(crystals)}")
    wall, cpu = np.sum(plain_seconds, axis=0) / np.sum(ours_seconds, axis=0)
    print(f"\nratio: {wall:.1f} ({cpu:.1f} in CPU time)")


def report(ours: np.ndarray, plain: np.ndarray) -> None:
    """Print seconds a crystal (N, 2), wall and CPU, of both sides."""
    print(f"\n{'seconds a crystal':22s} {'wall':>8s} {'CPU':>8s} {'slowest':>8s}")
    for name, seconds in (("ours", ours), ("the plain library", plain)):
        wall, cpu = seconds.mean(axis=0)
        print(f"{name:22s} {wall:8.2f} {cpu:8.2f} {seconds[:, 1].max():8.2f}")


if __name__ == "__main__":
    main()
