"""A made-up generator's page for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from page_helpers import DIAMOND, SALT

from crystalfm.chem.crystals import make_crystal
from crystalfm.report.page.content import (
    Card,
    Distribution,
    Figure,
    FigureGroup,
    Gallery,
    GalleryRow,
    PageContent,
)
from crystalfm.report.page.structures import crystal_structure

POTASSIUM = make_crystal(np.eye(3) * 6.3, [19, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])
NUM_ROWS = 24


def gallery() -> Gallery:
    """Salt, diamond with a relaxed structure, and what could not be read, in turn; energies of the first two."""
    rows = []
    for number in range(NUM_ROWS):
        kind = number % 3
        formula = ("ClNa", "C", "")[kind]
        energy = (0.01 * number, -0.01 * number, None)[kind]
        cells = [number, formula, energy, ("yes", "no", "no")[kind]]
        groups = (("valid", "new"), ("valid",), ("unread",))[kind]
        rows.append(GalleryRow(str(number), cells, f"sample {number}", groups, "it could not be read"))
    return Gallery(
        title="Crystals",
        headings=("id", "formula", "energy", "valid"),
        rows=rows,
        groups={"new": "valid and new", "valid": "valid", "unread": "not read"},
        cards=[Card("0", "8 atoms"), Card("1", "2 atoms"), Card("2", "has no structure")],
        note="The first ones.",
    )


def generator_content(**changes: Any) -> PageContent:
    """Return a generator's page; keywords replace parts of it."""
    salt, diamond = crystal_structure(SALT), crystal_structure(DIAMOND, relaxed=POTASSIUM)
    structures = {str(n): (salt, diamond)[n % 3] for n in range(NUM_ROWS) if n % 3 < 2}
    settings: dict[str, Any] = {
        "title": "24 crystals",
        "kind": "sampling",
        "facts": {"checkpoint": "runs/somewhere"},
        "command": "python generate.py n=24",
        "prompt": "A solid that could be made.",
        "headline": [Figure("valid", "66.7%", "16 of 24 samples", 16 / 24)],
        "figures": [
            FigureGroup("Validity", [Figure("valid", "66.7%", "16 of 24 samples", 16 / 24), Figure("nats", "1.5")])
        ],
        "gallery": gallery(),
        "distributions": [
            Distribution(
                "Density", {"samples": [0.5, 0.0, 0.5], "reference": [0.25, 0.5, 0.25]}, edges=(0, 1, 2, 3), x_label="g"
            ),
            Distribution(
                "System", {"samples": [0.05, 0.95], "reference": [1.0, 0.0]}, kinds=("cubic", "trigonal"), note="of 24"
            ),
            Distribution("Energy", {"stable": [4, 0], "metastable": [0, 1], "unstable": [0, 2]}, edges=(-1, 0, 1)),
        ],
        "structures": structures,
        "environment": {"torch": "2"},
    }
    return PageContent(**settings | changes)
