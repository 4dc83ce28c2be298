"""Crystals to predict: a structure file, a folder of them, or a table or JSON list with structures in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.chem.crystals import CrystalError
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import MODALITIES, UserError
from crystalfm.data.crystal_folder import LIST_FILE, read_crystal, structure_rows

if TYPE_CHECKING:
    from collections.abc import Sequence


def need_structures(modalities: Sequence[str]) -> bool:
    """Say whether a model of these modalities looks at crystals."""
    return any(MODALITIES[name].source_field == "structure" for name in modalities)


def read_crystal_inputs(source: str, id_column: str | None) -> tuple[list[str], list[str | None], list[RowProblem]]:
    """Read the crystals that ``input`` names.

    Args:
        source: a structure file; a folder, of which every file but ``id_prop.csv`` counts as one; or a CSV, TSV,
            Parquet, JSON or JSON-lines file as ``data=folder`` reads it.
        id_column: column or field of the identifiers; row numbers without. Of files, their names are the identifiers.

    Returns:
        identifiers, structures as JSON (``None`` where there is none), and the rows for which there is none.

    Raises:
        UserError: there is nothing at ``source``, or nothing in it.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"input={source}: no such file or folder",
            remedy="the model predicts crystals: give a CIF, POSCAR or extxyz file, a folder of them, or a table",
        )
    rows = structure_rows(path, id_column=id_column)
    if not rows:
        raise UserError(f"input={source} holds no structure file", remedy=f"files other than {LIST_FILE} are read")
    structures: list[str | None] = []
    problems: list[RowProblem] = []
    for number, row in enumerate(rows):
        try:
            structures.append(read_crystal(row.source).to_json())
        except CrystalError as error:
            structures.append(None)
            problems.append(RowProblem(number, error.reason, error.value))
    return [row.id for row in rows], structures, problems
