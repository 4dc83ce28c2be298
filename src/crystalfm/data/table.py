"""``data=csv``: a user's own table of molecules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from crystalfm.chem.molecules import canonicalize
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data.dataset import Dataset, SharedSettings
from crystalfm.data.records import RecordTable, Rejection, group_numbers
from crystalfm.data.tabular import TextColumns, read_text, require_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


_MISSING_NUMBERS = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
"""Spellings of a missing number, in lower case."""

_NUM_IDS_SHOWN = 5
_NUMERIC_PART = 0.9


class MoleculeTable(Dataset):
    """Molecules with numeric targets from a CSV, TSV or Parquet file.

    Rows without a valid molecule, without any target, or with a target that is not a number are rejected with
    their reason. A row may lack some of its targets.

    Args:
        path: the file (``.csv``, ``.tsv``, optionally ``.gz``; ``.parquet``).
        smiles_column: column of the SMILES strings.
        id_column: column of unique identifiers, or ``None`` for row numbers from 0.
        description_column: column of texts about the molecules, or ``None``.
        targets: columns to learn.
        units: unit of each target column; dimensionless where not given.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset``.

    Raises:
        UserError: a setting is out of range, or ``units`` names a column that is no target.
    """

    def __init__(
        self,
        *,
        path: str,
        targets: list[str],
        smiles_column: str = "smiles",
        id_column: str | None = None,
        description_column: str | None = None,
        units: dict[str, str] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.path = Path(path).expanduser()
        self.columns = TableColumns(smiles_column, tuple(targets), id_column, description_column)
        self.units = dict(units or {})
        strangers = sorted(set(self.units) - set(targets))
        if strangers:
            raise UserError(
                f"data.units names {', '.join(strangers)}, which data.targets does not",
                remedy=f"targets: {', '.join(targets)}",
            )

    def spec(self) -> DataSpec:
        """Describe the table from its header.

        Raises:
            UserError: the file is missing or a column is not in it.
        """
        require_columns(self.path, self.columns.names)
        fields = ("smiles", "description") if self.columns.description else ("smiles",)
        targets = tuple(TargetSpec(name, self.units.get(name, "1")) for name in self.columns.targets)
        return DataSpec(
            name="csv",
            fields=fields,
            targets=targets,
            default_targets=self.columns.targets,
            citation=self.path.name,
        )

    def load(self) -> RecordTable:
        """Read the file; see ``Dataset.load``.

        Raises:
            UserError: the file is unreadable, a column is missing, ids are repeated, or no row is left.
        """
        spec = self.spec()
        cells = read_text(self.path, self.columns.names)
        rows = self.subset(len(cells[self.columns.smiles]))
        table = table_from_text(cells, self.columns, spec, rows=rows)
        if len(table) == 0:
            first = table.rejected[0]
            raise UserError(
                f"all {len(table.rejected)} rows of {self.path} were rejected; {first.id}: {first.reason}",
                remedy=f"see crystalfm data check {self.path}",
            )
        return table


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table mean what.

    Attributes:
        smiles: column of SMILES strings.
        targets: columns of numbers.
        id: column of identifiers, or ``None`` for row numbers.
        description: column of texts, or ``None``.
    """

    smiles: str
    targets: tuple[str, ...]
    id: str | None = None
    description: str | None = None

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        named = [self.id, self.smiles, self.description, *self.targets]
        return list(dict.fromkeys(name for name in named if name is not None))


def table_from_text(
    cells: TextColumns, columns: TableColumns, spec: DataSpec, *, rows: NDArray[np.int64] | None = None
) -> RecordTable:
    """Check each row of a table read as text and keep the good ones.

    Args:
        cells: the columns named by ``columns``, from ``tabular.read_text``.
        columns: which columns mean what.
        spec: specification of the table.
        rows: rows to look at, or ``None`` for all.

    Returns:
        accepted rows in order, and every other one in ``rejected``.

    Raises:
        UserError: an id occurs twice.
    """
    ids = _ids(cells, columns)
    if rows is not None and len(rows) < len(ids):
        chosen = rows.tolist()
        cells = {name: [column[row] for row in chosen] for name, column in cells.items()}
        ids = [ids[row] for row in chosen]
    smiles = cells[columns.smiles]
    description = cells[columns.description] if columns.description else None
    problems: dict[int, tuple[str, str]] = {row: ("no id", "") for row, name in enumerate(ids) if name is None}
    for row, text in enumerate(smiles):
        if text is None and (description is None or description[row] is None):
            problems.setdefault(row, ("no SMILES" if description is None else "no SMILES and no description", ""))
    canonical, bad_molecules = canonicalize(smiles)
    for problem in bad_molecules:
        problems.setdefault(problem.row, (problem.reason, problem.value))
    targets = _numbers({name: cells[name] for name in columns.targets}, problems)
    rejected = [Rejection(_shown_id(ids, rows, row), *problems[row]) for row in sorted(problems)]
    keep = [row for row in range(len(ids)) if row not in problems]
    fields = {"smiles": [smiles[row] for row in keep]}
    if description is not None:
        fields["description"] = [description[row] for row in keep]
    # Materials without a structure are told apart by their text.
    keys = canonical if description is None else [c or d for c, d in zip(canonical, description, strict=True)]
    return RecordTable(
        spec=spec,
        ids=np.array([ids[row] for row in keep], dtype=np.str_),
        fields=fields,
        targets=targets[keep],
        target_specs=spec.select_targets(columns.targets),
        groups=group_numbers([keys[row] for row in keep]),
        rejected=rejected,
    )


def is_missing_number(text: str | None) -> bool:
    """Say whether a cell means that the number is not known."""
    return text is None or text.lower() in _MISSING_NUMBERS


def is_numeric(values: Sequence[str | None]) -> bool:
    """Say whether a column holds numbers, a tenth of other things allowed."""
    known = [text for text in values if text is not None and not is_missing_number(text)]
    numbers = [number for text in known if (number := _number(text)) is not None and isfinite(number)]
    return bool(known) and len(numbers) >= _NUMERIC_PART * len(known)


def _ids(cells: TextColumns, columns: TableColumns) -> list[str | None]:
    """Return the id of each row of the whole file.

    Raises:
        UserError: an id occurs twice.
    """
    if columns.id is None:
        return [str(row) for row in range(len(cells[columns.smiles]))]
    ids = cells[columns.id]
    repeated = [name for name, count in Counter(ids).items() if name is not None and count > 1]
    if repeated:
        shown = ", ".join(repeated[:_NUM_IDS_SHOWN]) + (", …" if len(repeated) > _NUM_IDS_SHOWN else "")
        raise UserError(
            f"column '{columns.id}' has {len(repeated)} ids more than once: {shown}",
            remedy="ids must be unique; leave data.id_column out to use row numbers",
        )
    return ids


def _shown_id(ids: Sequence[str | None], rows: NDArray[np.int64] | None, row: int) -> str:
    """Return a row's id, or its number in the file where it has none."""
    return ids[row] or f"row {row if rows is None else int(rows[row])}"


def _numbers(columns: Mapping[str, Sequence[str | None]], problems: dict[int, tuple[str, str]]) -> NDArray[np.float64]:
    """Return the targets (N, T), NaN where missing; rows with a bad or no number join ``problems``."""
    parsed = []
    for name, texts in columns.items():
        values = np.full(len(texts), np.nan)
        for row, text in enumerate(texts):
            if text is None or is_missing_number(text):
                continue
            number = _number(text)
            if number is None or not isfinite(number):
                what = "not a number" if number is None else "not finite"
                problems.setdefault(row, (f"target '{name}' is {what}", text))
            else:
                values[row] = number
        parsed.append(values)
    targets = np.stack(parsed, axis=1)
    for row in np.flatnonzero(np.isnan(targets).all(axis=1)).tolist():
        problems.setdefault(row, ("no target", ""))
    return targets


def _number(text: str) -> float | None:
    """Return the number a text spells, or ``None``; Python's underscores between digits are not accepted."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
