"""Modalities from raw fields: what each encoder is given for every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.chem.molecules import MoleculeError, RowProblem, to_selfies
from crystalfm.contracts import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def modality_values(
    modality: str, fields: Mapping[str, Sequence[str | None]]
) -> tuple[list[str | None], list[RowProblem]]:
    """Return one value a row for ``modality``, and the rows whose value cannot be made.

    ``smiles`` and ``description`` are the raw fields; ``fingerprint`` and ``molecular_graph`` are the SMILES from
    which their encoders make bits and graphs; ``selfies`` is translated here. A row whose raw field is missing has
    the value ``None`` and is no problem: it takes part without that modality.

    Args:
        modality: name in ``contracts.MODALITIES``.
        fields: raw fields by name, one value a row.

    Returns:
        values of all rows (``None`` where absent or impossible) and the problems in row order.

    Raises:
        KeyError: ``modality`` is not registered or its raw field is not in ``fields``.
    """
    values = fields[MODALITIES[modality].source_field]
    if modality == "selfies":
        return _selfies_values(values)
    return list(values), []


def _selfies_values(values: Sequence[str | None]) -> tuple[list[str | None], list[RowProblem]]:
    encoded: list[str | None] = []
    problems: list[RowProblem] = []
    for row, value in enumerate(values):
        if value is None:
            encoded.append(None)
            continue
        try:
            encoded.append(to_selfies(value))
        except MoleculeError as error:
            encoded.append(None)
            problems.append(RowProblem(row, error.reason, value))
    return encoded, problems
