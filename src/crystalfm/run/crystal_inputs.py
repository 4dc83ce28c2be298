"""Crystals to predict: a structure file, a folder of them, or a table or JSON list with structures in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import MODALITIES, UserError
from crystalfm.data.crystal_folder import LIST_FILE, read_crystal, structure_rows
from crystalfm.encoders.defect_states import KnownDefects
from crystalfm.run.build import construct
from crystalfm.run.descriptions import asks_for_descriptions, description_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


def need_structures(modalities: Sequence[str], cfg: DictConfig) -> bool:
    """Say whether a model of these modalities and this configuration looks at crystals, or at texts made of them.

    A model that looks at nothing, as ``model=mean``, is given what its data set holds.
    """
    if not modalities:
        return "structure" in construct(cfg.data).spec().fields
    direct = any(MODALITIES[name].source_field in {"structure", "defects"} for name in modalities)
    return direct or asks_for_descriptions(cfg, modalities)


def crystal_fields(
    structures: Sequence[str | None],
    descriptions: Sequence[str | None] | None,
    modalities: Sequence[str],
    cfg: DictConfig,
    known: KnownDefects | None = None,
) -> tuple[dict[str, list[str | None]], list[RowProblem]]:
    """Return the fields of a table of crystals to predict, and the rows for which a field cannot be made.

    Args:
        structures: crystals as JSON, one a row.
        descriptions: texts given with them; ``None`` where no row has one.
        modalities: modalities of the model.
        cfg: configuration of the model, with ``data`` and ``paths``.
        known: hosts and rules of a model that looks at defects.
    """
    texts: list[str | None] = [None] * len(structures) if descriptions is None else list(descriptions)
    problems: list[RowProblem] = []
    if asks_for_descriptions(cfg, modalities):
        undescribed = [one if text is None else None for one, text in zip(structures, texts, strict=True)]
        made, problems = description_column(cfg, undescribed)
        texts = [given or own for given, own in zip(texts, made, strict=True)]
    fields = {"structure": list(structures), "description": texts}
    if any(MODALITIES[name].source_field == "defects" for name in modalities):
        fields["defects"], faulty = _defect_column(structures, known or KnownDefects())
        rejected = {problem.row for problem in problems}
        problems = [*problems, *(problem for problem in faulty if problem.row not in rejected)]
    return fields, problems


def _defect_column(structures: Sequence[str | None], known: KnownDefects) -> tuple[list[str | None], list[RowProblem]]:
    """Return the defects of each structure that is there, and the rows whose host or rules a model does not know."""
    records: list[str | None] = [None] * len(structures)
    problems = []
    for row, structure in enumerate(structures):
        if structure is not None:
            try:
                records[row] = known.record_of(Crystal.from_json(structure)).to_json()
            except UserError as error:
                problems.append(RowProblem(row, error.message, ""))
    return records, problems


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
