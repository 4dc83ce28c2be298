"""A made-up run's page for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import TargetSpec
from crystalfm.metrics.scores import score_model
from crystalfm.report.page.content import Explanation, PageContent, Predictions, RejectedRows
from crystalfm.report.page.structures import Structure, crystal_structure, molecule_structure

GAP, ENERGY = TargetSpec("gap", "eV"), TargetSpec("energy", "hartree")
SALT = make_crystal(np.eye(3) * 5.64, [11] * 4 + [17] * 4, [
    *([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]),
    *([0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]),
])  # fmt: skip
DIAMOND = make_crystal(np.eye(3) * 3.57, [6, 6], [[0.1, 0.1, 0.1], [0.35, 0.35, 0.35]])


def predictions(num_rows: int = 30, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(num_rows, 2))
    noise = rng.normal(size=(num_rows, 2)) * [0.1, 0.5]
    return Predictions("test", [f"row{n}" for n in range(num_rows)], (GAP, ENERGY), true, true + noise)


def content(**changes: Any) -> PageContent:
    """Return a page's content with crystals and molecules in turn; keywords replace parts of it."""
    found = predictions()
    baseline = np.zeros_like(found.true)
    structures: dict[str, Structure] = {}
    for number, name in enumerate(found.ids):
        kinds = (crystal_structure(SALT), crystal_structure(DIAMOND), molecule_structure("CC(=O)N"))
        structures[name] = kinds[number % 3]
    settings: dict[str, Any] = {
        "title": "a run",
        "kind": "training",
        "facts": {"model": "hybrid"},
        "command": "python train.py experiment=quickstart",
        "data": {"data set": "made up"},
        "rejected": RejectedRows({"no volume": 2}, [("x1", "no volume: flat", "0 0 0"), ("x2", "no volume", "")]),
        "metrics": [
            {"epoch": float(epoch), "train/loss": 2.0 / (epoch + 1), "val/loss": 1.0, "val/mae_gap_eV": 0.1}
            for epoch in range(5)
        ],
        "results": [
            score_model("hybrid", found.true, found.predicted, found.targets),
            score_model("mean", found.true, baseline, found.targets),
        ],
        "predictions": found,
        "structures": structures,
        "explanations": [Explanation("Words", "<p>words</p>")],
        "environment": {"torch": "2"},
    }
    return PageContent(**settings | changes)
