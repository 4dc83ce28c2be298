"""Crystals and molecules for the page: what its 3D view reads, and drawings in the page's own colours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal

ROOM_CHARACTERS = 2_500_000
"""Room for structures on a page: what is beyond is left out, and the page says so."""

_FACE = 1e-3
"""Fractional distance to a face of the cell below which an atom is drawn on the opposite face too."""

_MAX_ATOMS = 400
_WIDTH, _HEIGHT = 360, 260
_COLOURS = {"#000000": "currentColor", "#0000FF": "var(--nitrogen)", "#FF0000": "var(--oxygen)"}
"""What RDKit draws in, and the page's colours for it, which follow light and dark."""


@dataclass(frozen=True)
class Structure:
    """A crystal or a molecule to show.

    Attributes:
        label: formula or SMILES.
        crystal: atoms as a text in the XYZ format, ``cell`` (3, 3) in angstrom, the number of ``atoms`` and, where
            places are set off, ``marks`` (M, 3) in angstrom; ``None`` for a molecule.
        svg: drawing of a molecule; empty for a crystal.
        relaxed: the crystal after its relaxation, as ``crystal``; ``None`` where it was not relaxed.
    """

    label: str
    crystal: dict[str, Any] | None = None
    svg: str = ""
    relaxed: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Characters that it takes, about."""
        atoms = sum(len(shown["xyz"]) for shown in (self.crystal, self.relaxed) if shown)
        return len(self.svg) + atoms + len(self.label)


def structures_within(structures: Mapping[str, Structure]) -> tuple[dict[str, Structure], int]:
    """Return the structures that there is room for, by id, and how many there is none for."""
    found: dict[str, Structure] = {}
    room = ROOM_CHARACTERS
    for name, structure in structures.items():
        if structure.size <= room:
            room -= structure.size
            found[name] = structure
    return found, len(structures) - len(found)


def crystal_structure(
    crystal: Crystal, relaxed: Crystal | None = None, marks: NDArray[np.float64] | None = None
) -> Structure:
    """Return a crystal for the 3D view: its cell, with the atoms on faces and edges drawn on all of them.

    A cell of more than a few hundred atoms is shown without these copies.

    Args:
        crystal: the crystal.
        relaxed: the same after a relaxation, to be shown in its place on demand.
        marks: (M, 3) places in angstrom that are set off, such as those of vacancies.
    """
    marked = {} if marks is None else {"marks": np.round(marks, 3).tolist()}
    return Structure(
        label=crystal.formula,
        crystal=_shown(crystal) | marked,
        relaxed=None if relaxed is None else _shown(relaxed),
    )


def _shown(crystal: Crystal) -> dict[str, Any]:
    from crystalfm.chem.crystals import SYMBOLS

    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    wrapped[wrapped > 1 - _FACE] = 0.0
    atoms: list[tuple[str, list[float]]] = []
    for number, place in zip(crystal.atomic_numbers.tolist(), wrapped, strict=True):
        shifts: Iterable[tuple[int, ...]] = [(0, 0, 0)]
        if crystal.num_atoms <= _MAX_ATOMS:
            shifts = itertools.product(*[(0, 1) if value < _FACE else (0,) for value in place.tolist()])
        for shift in shifts:
            position = (place + np.array(shift)) @ crystal.lattice
            atoms.append((SYMBOLS[number - 1], position.tolist()))
    lines = [f"{symbol} {x:.3f} {y:.3f} {z:.3f}" for symbol, (x, y, z) in atoms]
    return {
        "xyz": "\n".join([str(len(lines)), "", *lines]),
        "cell": np.round(crystal.lattice, 4).tolist(),
        "atoms": crystal.num_atoms,
    }


def molecule_structure(smiles: str) -> Structure:
    """Return a molecule with its drawing by RDKit; without one where RDKit cannot read the SMILES."""
    from rdkit.Chem.Draw import rdMolDraw2D

    from crystalfm.chem.molecules import MoleculeError, parse_smiles

    try:
        molecule = parse_smiles(smiles)
    except MoleculeError:
        return Structure(label=smiles)
    drawer = rdMolDraw2D.MolDraw2DSVG(_WIDTH, _HEIGHT)
    options: Any = drawer.drawOptions()  # whose types in RDKit's stubs are not those of its fields
    options.clearBackground = False
    options.maxFontSize = 22
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
    drawer.FinishDrawing()
    svg = drawer.GetDrawingText()
    svg = svg[svg.index("<svg") :].replace(f"width='{_WIDTH}px' height='{_HEIGHT}px'", "role='img'")
    for theirs, ours in _COLOURS.items():
        svg = svg.replace(theirs, ours)
    return Structure(label=smiles, svg=svg.strip())
