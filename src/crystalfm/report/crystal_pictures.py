"""A picture of a few crystals: cell, atoms by element, formula."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

    from crystalfm.chem.crystals import Crystal

_COLUMNS = 4
_PANEL_INCHES = (2.5, 2.8)
_DOTS_PER_INCH = 200
_ROTATION = "-80x,12y,4z"
"""A view along the second lattice vector, a little from above and from the side."""

_RADIUS_SCALE = 0.5
_EDGE = 0.02
"""Atoms nearer than this (in fractional coordinates) to a face of the cell are drawn on the opposite one too."""


def draw_crystals(crystals: Sequence[Crystal], path: Path, *, titles: Sequence[str] | None = None) -> Path:
    """Draw crystals in a grid and write it as PNG.

    Args:
        crystals: at least one.
        path: file to write.
        titles: line above each; its formula by default.
    """
    from ase.visualize.plot import plot_atoms

    headings = [_subscripted(crystal.formula) for crystal in crystals] if titles is None else list(titles)
    columns = min(_COLUMNS, len(crystals))
    rows = math.ceil(len(crystals) / columns)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9.0}):
        size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows)
        figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for axes in panels:
            axes.set_axis_off()
        for axes, crystal, heading in zip(panels, crystals, headings, strict=False):
            atoms = _shown_atoms(crystal)
            plot_atoms(atoms, axes, radii=_radii(atoms), colors=_colours(atoms), rotation=_ROTATION, show_unit_cell=2)
            axes.set_title(heading, fontsize=9.5)
            axes.legend(handles=_legend(crystal), loc="upper center", bbox_to_anchor=(0.5, 0.0), **_LEGEND)
        FigureCanvasAgg(figure)  # attaches itself to the figure
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    return path


_LEGEND: dict[str, Any] = {
    "ncol": 5,
    "frameon": False,
    "fontsize": 7.5,
    "handletextpad": 0.1,
    "columnspacing": 0.7,
    "borderaxespad": 0.2,
}


def _subscripted(formula: str) -> str:
    """Return a formula with its numbers as Matplotlib's subscripts."""
    return re.sub(r"([0-9]+)", r"$_{\1}$", formula)


def _shown_atoms(crystal: Crystal) -> Atoms:
    """Return the atoms of the cell, and of its corners, edges and faces also the images on the other side."""
    from ase import Atoms

    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    wrapped[wrapped > 1.0 - _EDGE] -= 1.0
    numbers, coords = [], []
    for number, place in zip(crystal.atomic_numbers.tolist(), wrapped, strict=True):
        for shift in product(*((0.0, 1.0) if abs(value) < _EDGE else (0.0,) for value in place)):
            numbers.append(number)
            coords.append(place + np.array(shift))
    return Atoms(numbers=numbers, scaled_positions=np.array(coords), cell=crystal.lattice, pbc=False)


def _radii(atoms: Atoms) -> Any:
    from ase.data import covalent_radii

    return _RADIUS_SCALE * covalent_radii[atoms.numbers]


def _colours(atoms: Atoms) -> Any:
    from ase.data.colors import jmol_colors

    return [tuple(jmol_colors[number].tolist()) for number in atoms.numbers]


def _legend(crystal: Crystal) -> list[Line2D]:
    from ase.data.colors import jmol_colors

    return [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markersize=6,
            markerfacecolor=tuple(jmol_colors[number].tolist()),
            markeredgecolor="black",
            markeredgewidth=0.5,
            label=SYMBOLS[number - 1],
        )
        for number in sorted(set(crystal.atomic_numbers.tolist()))
    ]
