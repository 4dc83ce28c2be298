"""``explain=groups``: what kinds of crystals and molecules the rows of a table are, and the errors of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.config.extras import is_installed
from crystalfm.explain.groups import group_errors, value_ranges
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system, space_group
from crystalfm.report.group_errors import group_figure, group_table
from crystalfm.run.explaining.tables import write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.data.records import RecordTable

RANGES = "range of the true value"

_UNKNOWN = "unknown"


def explain_groups(
    table: RecordTable, predicted: NDArray[np.float64], folder: Path, console: Console
) -> dict[str, float]:
    """Write and show the errors of each kind of row.

    Args:
        table: (N,) rows, with their true values.
        predicted: (N, T) predictions of them.
        folder: where ``groups.json``, ``groups.csv`` and a picture a target go.
        console: where the table is shown.

    Returns:
        nothing: the errors of a group are no figure of a run.
    """
    groups, order = row_groups(table)
    found = []
    for column, target in enumerate(table.target_specs):
        errors = np.abs(predicted[:, column] - table.targets[:, column])
        ranges, names = value_ranges(table.targets[:, column])
        own = {**groups, RANGES: ranges}
        found += group_errors(errors, own, target.label, order={**order, RANGES: names})
    rows = [asdict(item) for item in found]
    write_json(folder / "groups.json", {"rows": len(table), "groups": rows})
    flat = [row | {"mae": row["mae"]["value"], "low": row["mae"]["low"], "high": row["mae"]["high"]} for row in rows]
    write_rows(folder / "groups.csv", flat)
    console.print(group_table(found, table.target_specs))
    for target in table.target_specs:
        chosen = [item for item in found if item.target == target.label]
        group_figure(chosen, target, folder / f"groups_{target.name}.png")
    return {}


def row_groups(table: RecordTable) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return by kind the group of each row, and the order of the groups of kinds that have one of their own.

    Crystals are grouped by crystal system (spglib, where it is installed), composition prototype (``AB3``) and number
    of elements; molecules by number of heavy atoms.
    """
    if "structure" in table.fields:
        return _crystal_groups([Crystal.from_json(text or "") for text in table.fields["structure"]])
    return _molecule_groups([text or "" for text in table.fields["smiles"]])


def _crystal_groups(crystals: list[Crystal]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    counts = [str(len(set(crystal.atomic_numbers.tolist()))) for crystal in crystals]
    groups = {"composition prototype": [prototype(crystal) for crystal in crystals], "number of elements": counts}
    order = {"number of elements": sorted(set(counts), key=int)}
    systems = _crystal_systems(crystals)
    if systems is not None:
        groups = {"crystal system": systems, **groups}
        order["crystal system"] = [*CRYSTAL_SYSTEMS, _UNKNOWN]
    return groups, order


def prototype(crystal: Crystal) -> str:
    """Return the reduced formula with letters for the elements, the rarest first: ``AB2C4`` for MgAl2O4."""
    from pymatgen.core.composition import Composition

    return str(Composition(crystal.formula).anonymized_formula)


def _crystal_systems(crystals: list[Crystal]) -> list[str] | None:
    """Return the crystal system of each, or None without spglib."""
    if not is_installed("spglib"):
        return None
    groups = [space_group(crystal) for crystal in crystals]
    return [_UNKNOWN if group is None else crystal_system(group) for group in groups]


def _molecule_groups(smiles: list[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    from rdkit import Chem

    molecules = [Chem.MolFromSmiles(text) for text in smiles]
    heavy = [_UNKNOWN if molecule is None else str(molecule.GetNumHeavyAtoms()) for molecule in molecules]
    numbers = sorted({name for name in heavy if name != _UNKNOWN}, key=int)
    return {"heavy atoms": heavy}, {"heavy atoms": [*numbers, _UNKNOWN]}
