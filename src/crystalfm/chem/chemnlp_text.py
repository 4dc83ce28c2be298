"""A text about a crystal in the manner of ChemNLP: a list of its chemistry, its structure and its bonds.

After Choudhary and Kelley, J. Phys. Chem. C 127, 17545 (2023), in the form in which Li et al., Digital Discovery 4,
376 (2025), gave it to a language model. X-ray peaks, space group and tabulated values are those of jarvis-tools. Three
things differ, so that a crystal has one text and the text is right:

- The molecular weight is that of the formula unit. The published texts give half of the cell's.
- Elements, pairs of elements and Wyckoff letters are in alphabetical order. The published ones follow the order of the
  atoms in the file, and the letters that of a set, which changes from process to process.
- The blocks are separated by spaces.

The five X-ray peaks are those of the lowest angles, here as there.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS, CrystalError
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from crystalfm.chem.crystals import Crystal

TEXT_VERSION = 2
"""Version of the text; a change makes cached texts new."""

BOND_CUTOFF_ANGSTROM = 4.0
NUM_PEAKS = 5
NUM_DISTANCES = 2
"""Distances named for each pair of elements."""

_SPARE_DIGITS = 4
"""Digits beyond those named that count; what follows them are errors of computing."""

_LENGTH_TOLERANCE_ANGSTROM = 0.01
_ANGLE_TOLERANCE_DEGREES = 5.0
"""Of the search for symmetry: jarvis-tools' own."""

_LIBRARIES = ("jarvis-tools", "spglib")
_UNKNOWN = 0.0
"""jarvis-tools has zero or NaN for electronegativities that are not known."""


def describe(crystal: Crystal) -> str:
    """Return the text of a crystal.

    Raises:
        UserError: jarvis-tools is not installed.
        CrystalError: no space group is found.
        Exception: whatever jarvis-tools raises for a crystal that it cannot analyse.
    """
    try:
        from jarvis.core.atoms import Atoms
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "jarvis":
            raise
        raise UserError(
            "data.description=chemnlp needs the package jarvis-tools", remedy="pip install 'crystalfm[describe]'"
        ) from error
    elements = [SYMBOLS[number - 1] for number in crystal.atomic_numbers.tolist()]
    atoms = Atoms(lattice_mat=crystal.lattice.tolist(), coords=crystal.frac_coords.tolist(), elements=elements)
    return f"{_chemistry(elements)} {_structure(atoms)} {_bonds(atoms)}"


def library_versions() -> dict[str, str]:
    """Return the versions of the packages on which a text depends."""
    return {name: version(name) for name in _LIBRARIES}


def _chemistry(elements: list[str]) -> str:
    from jarvis.core.composition import Composition
    from jarvis.core.specie import Specie

    counts = {name: elements.count(name) for name in sorted(set(elements))}
    composition = Composition(counts)
    _, num_units = composition.reduce()
    fractions = ", ".join(f"{name}: {_rounded(count / len(elements), 3)}" for name, count in counts.items())
    species = [Specie(name) for name in counts]
    electronegativities = ", ".join(str(one.X) if one.X > _UNKNOWN else "unknown" for one in species)
    numbers = ", ".join(str(one.Z) for one in species)
    return (
        f"The chemical information include: The chemical has an atomic formula of {composition.reduced_formula} with a "
        f"prototype of {composition.prototype}; Its molecular weight is {_rounded(composition.weight / num_units, 2)} "
        f"g/mol; The atomic fractions are {fractions}, and the atomic values X and Z are {electronegativities} and "
        f"{numbers}, respectively."
    )


def _structure(atoms: Any) -> str:
    from jarvis.analysis.diffraction.xrd import XRD
    from jarvis.analysis.structure.spacegroup import Spacegroup3D
    from spglib import get_symmetry_dataset

    cell = (atoms.lattice_mat, atoms.frac_coords, atoms.atomic_numbers)
    symmetry = get_symmetry_dataset(cell, symprec=_LENGTH_TOLERANCE_ANGSTROM, angle_tolerance=_ANGLE_TOLERANCE_DEGREES)
    if symmetry is None:
        raise CrystalError("not described: no space group found")
    group = Spacegroup3D(atoms, dataset=symmetry)
    angles, _, _ = XRD().simulate(atoms=atoms)
    peaks = sorted({round(float(angle), 1) for angle in angles})[:NUM_PEAKS]
    wyckoff = sorted(set(symmetry.wyckoffs))
    primitive, conventional = group.primitive_atoms.num_atoms, group.conventional_standard_structure.num_atoms
    return (
        f"The structure information include: The lattice parameters are {_listed(atoms.lattice.abc)} with angles "
        f"{_listed(atoms.lattice.angles)} degrees; The space group number is {group.space_group_number} with the "
        f"symbol {group.space_group_symbol}; The top {NUM_PEAKS} XRD peaks are found at "
        f"{', '.join(map(str, peaks)) or 'unknown'} degrees; The material has a density of "
        f"{_rounded(atoms.density, 3)} g/cm³, crystallizes in a {group.crystal_system} system, and has a point group "
        f"of {group.point_group_symbol}; "
        f"The Wyckoff positions are {', '.join(wyckoff)}; The number of atoms in the primitive and conventional cells "
        f"are {primitive} and {conventional}, respectively;"
    )


def _bonds(atoms: Any) -> str:
    found: dict[str, set[float]] = defaultdict(set)
    elements = atoms.elements
    for neighbours in atoms.get_all_neighbors(r=BOND_CUTOFF_ANGSTROM):
        for first, second, distance, *_ in neighbours:
            found["-".join(sorted((elements[first], elements[second])))].add(_rounded(distance, 2))
    pairs = [f"{pair}: {', '.join(map(str, sorted(found[pair])[:NUM_DISTANCES]))}" for pair in sorted(found)]
    listed = "; ".join(pairs) or f"none below {BOND_CUTOFF_ANGSTROM:g} Å"
    return f"The bond distances are as follows: {listed}."


def _listed(values: Any) -> str:
    return ", ".join(str(_rounded(value, 2)) for value in values)


def _rounded(value: float, digits: int) -> float:
    """Round to so many digits, the same for numbers that differ by errors of computing alone."""
    return round(round(float(value), digits + _SPARE_DIGITS), digits)
