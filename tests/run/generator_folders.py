"""What generators leave in their folders, made up for the tests of their pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.run.folder import RunFolder

PROMPT = "A solid that could be made."


def salt(edge: float = 4.0, number: int = 17) -> Crystal:
    return make_crystal(np.eye(3) * edge, [11, number], [[0, 0, 0], [0.5, 0.5, 0.5]])


def share(count: int, total: int) -> dict[str, Any]:
    return {"count": count, "total": total, "fraction": count / total if total else None}


def sample(index: int, crystal: Crystal | None = None, *, valid: bool = True, **changes: Any) -> dict[str, Any]:
    """Return a row of the table that ``generate.py`` leaves."""
    row = {
        "index": index,
        "prompt": PROMPT,
        "parsed": crystal is not None,
        "problem": None if crystal is not None and valid else "no line of cell lengths",
        "formula": None if crystal is None else crystal.formula,
        "num_atoms": None if crystal is None else crystal.num_atoms,
        "structural_valid": crystal is not None and valid,
        "compositional_valid": crystal is not None,
        "valid": crystal is not None and valid,
        "num_tokens": 20,
        "log_probability": -1.5 * index,
        "structure": None if crystal is None else crystal.to_json(),
    }
    return row | changes


def write_generation(root: Path, rows: list[dict[str, Any]], **changes: Any) -> RunFolder:
    """Write what ``generate.py`` leaves; keywords replace parts of the report."""
    total, valid = len(rows), sum(row["valid"] for row in rows)
    report = {
        "num_samples": total,
        "checkpoint": {"location": "runs/writer", "sha256": "a" * 64},
        **{name: share(valid, total) for name in ("parsed", "structural_valid", "compositional_valid", "valid")},
        "finished": share(total, total),
        "valid_unique": share(1, total),
        "unique_among_valid": share(1, valid),
        "formulas_among_valid": share(1, valid),
        "problems": {"no line of cell lengths": total - valid},
        "tokens": {"written": 1234, "without_choice": share(10, 1234)},
        "mean_log_probability": -3.25,
        "sampling": {
            "task": "generate",
            "constraint": {"kind": "parse"},
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": None,
            "seed": 42,
            "engine": "transformers",
            "precision": "fp32",
        },
        "speed": {"seconds": 61.0, "samples_per_second": 16.35, "samples": total},
    }
    return _write(root, rows, report | changes)


def judged(name: str, crystal: Crystal | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of the table that judging leaves: not drawn for relaxation, unless changed."""
    there = crystal is not None
    row = {
        "id": name,
        "parsed": there,
        "problem": "" if there else "unreadable structure",
        "formula": None if crystal is None else crystal.formula,
        "num_atoms": None if crystal is None else crystal.num_atoms,
        "structural_valid": there,
        "valid": there,
        "space_group": 221 if there else None,
        "unique": True if there else None,
        "same_as": name if there else None,
        "novel": True if there else None,
        "relaxation": "not drawn",
        "energy_above_hull": None,
        "stable": None,
        "metastable": None,
        "relaxed_unique": None,
        "relaxed_novel": None,
        "structure": None if crystal is None else crystal.to_json(),
        "relaxed_structure": None,
    }
    return row | changes


def relaxed(name: str, energy: float, crystal: Crystal, **changes: Any) -> dict[str, Any]:
    """Return a row of a sample that was relaxed."""
    found = {
        "relaxation": "relaxed",
        "energy_above_hull": energy,
        "stable": energy <= 0,
        "metastable": energy < 0.1,
        "relaxed_unique": True,
        "relaxed_novel": True,
        "relaxed_structure": salt(5.0).to_json(),
    }
    return judged(name, crystal, **(found | changes))


def write_judged(root: Path, rows: list[dict[str, Any]], *, stability: bool = True, **changes: Any) -> RunFolder:
    """Write what judging leaves; keywords replace parts of the report."""
    total = len(rows)
    names = ("parsed", "structurally_valid", "compositionally_valid", "valid", "unique", "unique_of_all", "novel")
    names += ("novel_of_all", "distinct_formulas", "valid_and_unique", "valid_unique_and_novel", "space_group_p1")
    distance = {"value": 0.25, "num_samples": 3, "num_references": 7}
    systems = {"cubic": 3, "trigonal": 1}
    counts = {"relaxed": 2, "stable": 1, "stable_unique": 1, "metastable": 2, "metastable_unique": 2, "sun": 1}
    counts |= {"metastable_sun": 2, "unique": 2, "converged": 2, "undefined": 0, "implausible": 0}
    found = {
        "asked": total,
        "judged": total,
        **{name: share(count, total) for name, count in counts.items()},
        "failures": {"not relaxed": 1},
        "median_energy_above_hull": 0.05,
        "mean_relaxation_energy": 0.5,
        "implausible_below": -0.5,
        "hull": {"source": "15 crystals of mp", "elements_fitted": 4},
    }
    settings = {"symprec_angstrom": 0.1, "tolerances": {"site": 0.3, "length": 0.2, "angle_degrees": 5.0}}
    report = {
        "samples": {"source": "5 files of cifs", "count": total, "unreadable": 1},
        "reference": {"name": "mp", "content_hash": "b" * 64, "train": 6, "test": 9, "test_compared": 7},
        "crystals": {
            **{name: share(2, total) for name in names},
            "density_wasserstein": distance,
            "num_elements_wasserstein": distance,
            "structure_diversity": {"value": 0.5, "total": 3},
            "oxidation_states": "smact14",
            "settings": settings,
            "symmetry": {"systems": {"cubic": 1, "trigonal": 3}, "symprec_angstrom": 0.1},
            "reference_symmetry": {"systems": systems, "symprec_angstrom": 0.1},
        },
        "distributions": {
            "density": {"edges": [0.0, 1.0, 2.0], "samples": [1, 3], "reference": [2, 2]},
            "num_elements": {"edges": [0.5, 1.5, 2.5], "samples": [1, 3], "reference": [0, 4]},
        },
        "stability": found if stability else None,
        "relaxation": {"steps": 500, "max_force": 0.05, "time_limit_seconds": 120} if stability else None,
        "conditions": None,
    }
    if not stability:
        kept = [name for name in judged("x") if name not in _RELAXATION]
        rows = [{name: row[name] for name in kept} for row in rows]
    return _write(root, rows, report | changes)


_RELAXATION = ("relaxation", "energy_above_hull", "stable", "metastable", "relaxed_unique", "relaxed_novel")
_RELAXATION += ("relaxed_structure",)


def _write(root: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> RunFolder:
    folder = RunFolder(root).create()
    pq.write_table(pa.Table.from_pylist(rows), root / "samples.parquet")
    (root / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder
