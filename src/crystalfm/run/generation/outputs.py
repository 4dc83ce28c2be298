"""What a generation leaves behind: crystals, a table of all samples, those rejected with reasons, a report."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from crystalfm.data.records import Rejection, write_rejected
from crystalfm.io.files import atomic_write, write_text
from crystalfm.metrics.crystals.conditions import FORMULA, SPACE_GROUP, condition_scores
from crystalfm.metrics.crystals.counts import Share, plain
from crystalfm.metrics.crystals.matching import uniqueness
from crystalfm.metrics.crystals.structures import as_structure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from crystalfm.run.generation.plan import JudgedSample, Plan

CRYSTALS = "crystals"
"""Folder of the CIF files."""

TABLE = "samples.parquet"
REPORT = "report.json"

_PIECES = 200
"""Longest value shown in ``rejected.csv``."""


def write_crystals(folder: Path, samples: Sequence[JudgedSample]) -> int:
    """Write a CIF for each structurally valid crystal, named by index and formula; return how many there are."""
    from pymatgen.io.cif import CifWriter

    there = {path.name for path in folder.glob("*.cif")} if folder.is_dir() else set()
    written = 0
    for item in samples:
        if item.crystal is None or not item.validity.structural:
            continue
        written += 1
        name = f"{item.sample.index:06d}_{item.crystal.formula}.cif"
        if name not in there:
            with warnings.catch_warnings():
                # pymatgen orders elements by electronegativity, and warns of those that have none.
                warnings.filterwarnings("ignore", message="No Pauling electronegativity")
                text = str(CifWriter(as_structure(item.crystal)))
            write_text(folder / name, text)
    return written


def write_tables(folder: Path, plan: Plan, samples: Sequence[JudgedSample]) -> list[Path]:
    """Write every sample as ``samples.parquet`` and ``samples.csv``, and those without a CIF as ``rejected.csv``."""
    from pyarrow import csv, parquet

    table = sample_table(plan, samples)
    files = [folder / TABLE, folder / "samples.csv"]
    with atomic_write(files[0]) as stream:
        parquet.write_table(table, stream)
    with atomic_write(files[1]) as stream:
        csv.write_csv(table, stream)
    rejected = [
        Rejection(str(item.sample.index), item.detail, " ".join(item.sample.text[:_PIECES].split()))
        for item in samples
        if item.problem
    ]
    write_rejected(folder / "rejected.csv", rejected)
    return files


def sample_table(plan: Plan, samples: Sequence[JudgedSample]) -> pa.Table:
    """Return one row a sample; ``structure`` is the crystal as JSON with all digits."""
    import pyarrow as pa

    columns: dict[str, tuple[Any, list[Any]]] = {
        "index": (pa.int64(), [item.sample.index for item in samples]),
        "task": (pa.string(), [plan.task] * len(samples)),
        "prompt": (pa.string(), [plan.prompt] * len(samples)),
        "text": (pa.string(), [item.sample.text for item in samples]),
        "parsed": (pa.bool_(), [item.crystal is not None for item in samples]),
        "problem": (pa.string(), [item.problem or None for item in samples]),
        "formula": (pa.string(), [None if item.crystal is None else item.crystal.formula for item in samples]),
        "num_atoms": (pa.int64(), [None if item.crystal is None else item.crystal.num_atoms for item in samples]),
        "structural_valid": (pa.bool_(), [item.validity.structural for item in samples]),
        "compositional_valid": (pa.bool_(), [item.validity.compositional for item in samples]),
        "valid": (pa.bool_(), [item.validity.valid for item in samples]),
        "num_tokens": (pa.int64(), [item.sample.num_tokens for item in samples]),
        "num_forced": (pa.int64(), [item.sample.num_forced for item in samples]),
        "log_probability": (pa.float64(), [item.sample.log_probability for item in samples]),
        "finished": (pa.bool_(), [item.sample.finished for item in samples]),
        "structure": (pa.string(), [None if item.crystal is None else item.crystal.to_json() for item in samples]),
    }
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


def report_of(plan: Plan, samples: Sequence[JudgedSample]) -> dict[str, Any]:
    """Return the figures of a generation, each share with what it is a share of.

    ``unique`` counts different crystals among the valid ones (pymatgen's ``StructureMatcher``), over all samples: a
    model that repeats itself has few.
    """
    crystals = [item.crystal for item in samples]
    total = len(samples)
    valid = [item.validity.valid for item in samples]
    copies = uniqueness(crystals, sound=valid)
    problems = Counter(item.problem for item in samples if item.problem)
    found: dict[str, Any] = {
        "num_samples": total,
        "parsed": Share(sum(crystal is not None for crystal in crystals), total).as_dict(),
        "structural_valid": Share(sum(item.validity.structural for item in samples), total).as_dict(),
        "compositional_valid": Share(sum(item.validity.compositional for item in samples), total).as_dict(),
        "valid": Share(sum(valid), total).as_dict(),
        "valid_unique": copies.among_all.as_dict(),
        "unique_among_valid": copies.among_compared.as_dict(),
        "formulas_among_valid": copies.formulas.as_dict(),
        "finished": Share(sum(item.sample.finished for item in samples), total).as_dict(),
        "problems": dict(problems.most_common()),
        "tokens": _tokens(samples),
        "mean_log_probability": plain(
            sum(item.sample.log_probability for item in samples) / total if total else math.nan
        ),
    }
    if plan.conditions:
        found["conditions"] = _conditions(plan, crystals)
    if plan.gap is not None:
        answers = Counter(item.sample.text for item in samples if item.crystal is not None)
        found["answers"] = dict(answers.most_common())
    return found


def _tokens(samples: Sequence[JudgedSample]) -> dict[str, Any]:
    written = sum(item.sample.num_tokens for item in samples)
    forced = sum(item.sample.num_forced for item in samples)
    return {"written": written, "without_choice": Share(forced, written).as_dict()}


def _conditions(plan: Plan, crystals: Sequence[Any]) -> dict[str, Any]:
    scores = condition_scores(crystals, [plan.conditions] * len(crystals))
    found: dict[str, Any] = {"asked": dict(plan.conditions)}
    if FORMULA in plan.conditions:
        found["formula"] = scores.formula.as_dict()
    if SPACE_GROUP in plan.conditions:
        found["spacegroup"] = scores.space_group.as_dict() | {"symprec_angstrom": scores.symprec_angstrom}
    return found
