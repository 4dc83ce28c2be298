"""``crystalfm data check``: what training would make of a table, before anything is trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.molecules import canonicalize
from crystalfm.chem.representations import modality_values
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data.crystal_check import holds_crystals, read_crystals
from crystalfm.data.table import TableColumns, is_numeric, table_from_text
from crystalfm.data.tabular import read_columns, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from crystalfm.data.records import RecordTable, Rejection

_NUM_GUESS_ROWS = 200
"""Rows looked at when a column's meaning is guessed."""

_NUM_EXAMPLES = 3

_HYDRA_WORDS = frozenset({"null", "true", "false", "inf", "nan"})
"""Words that Hydra's grammar does not read as text."""


@dataclass(frozen=True)
class TargetSummary:
    """One target over the accepted rows.

    Attributes:
        name: column.
        known: rows with a number.
        missing: rows without.
        lowest: smallest value (NaN where none is known), in the column's own unit.
        mean: mean value.
        highest: largest value.
    """

    name: str
    known: int
    missing: int
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True)
class ModalitySummary:
    """For how many accepted rows a modality can be made.

    Attributes:
        name: modality.
        available: rows that have it.
        impossible: rows that would be rejected when it is chosen, with the reason.
    """

    name: str
    available: int
    impossible: tuple[Rejection, ...]


@dataclass(frozen=True)
class CheckReport:
    """What training would use and reject.

    Attributes:
        path: the table or folder.
        columns: meaning of a table's columns, given or guessed; ``None`` for crystals.
        num_rows: rows of the file; of crystals those with a target.
        table: the accepted rows.
        targets: summary of each target.
        modalities: summary of each modality the fields can provide.
        num_molecules: different molecules or crystals among the accepted rows.
        command: command that trains on this table.
        contents: where the molecules or structures were found.
    """

    path: Path
    columns: TableColumns | None
    num_rows: int
    table: RecordTable
    targets: tuple[TargetSummary, ...]
    modalities: tuple[ModalitySummary, ...]
    num_molecules: int
    command: str
    contents: str

    @property
    def rejected(self) -> list[Rejection]:
        """Rows that training would reject, whatever the modalities."""
        return self.table.rejected

    @property
    def rejected_fraction(self) -> float:
        """Rejected part of all rows; training stops above ``max_rejected_fraction``."""
        return len(self.rejected) / self.num_rows

    @property
    def reasons(self) -> dict[str, list[Rejection]]:
        """Rejected rows by the kind of reason, the most frequent first."""
        kinds: dict[str, list[Rejection]] = {}
        for item in self.rejected:
            kinds.setdefault(item.reason.split(":")[0], []).append(item)
        return dict(sorted(kinds.items(), key=lambda pair: -len(pair[1])))


def check_table(
    path: Path | str,
    *,
    smiles_column: str | None = None,
    targets: Sequence[str] | None = None,
    id_column: str | None = None,
    description_column: str | None = None,
) -> CheckReport:
    """Read a table as ``data=csv`` would, or crystals as ``data=folder`` would, and report on all of it.

    Args:
        path: CSV, TSV or Parquet file; or crystals, see ``crystal_check.holds_crystals``.
        smiles_column: column of SMILES strings; guessed from names and content when ``None``.
        targets: columns to learn; every numeric column when ``None``.
        id_column: column of identifiers, or ``None`` for row numbers.
        description_column: column of texts, or ``None``.

    Raises:
        UserError: the file is unreadable, a column is missing or cannot be guessed, or ids are repeated.
    """
    path = Path(path).expanduser()
    if smiles_column is None and holds_crystals(path):
        return _crystal_report(path, targets, id_column)
    columns = _columns(path, smiles_column, targets, id_column, description_column)
    cells = read_text(path, columns.names)
    fields = ("smiles", "description") if columns.description else ("smiles",)
    specs = tuple(TargetSpec(name, "1") for name in columns.targets)
    spec = DataSpec("csv", fields, specs, columns.targets)
    table = table_from_text(cells, columns, spec)
    return CheckReport(
        path=path,
        columns=columns,
        num_rows=len(cells[columns.smiles]),
        table=table,
        targets=tuple(_target_summary(table, index) for index in range(len(specs))),
        modalities=tuple(_modality_summary(table, name) for name in spec.modalities),
        num_molecules=len(np.unique(table.groups)),
        command=_command(path, columns),
        contents=f"SMILES in column '{columns.smiles}'",
    )


def _crystal_report(path: Path, targets: Sequence[str] | None, id_column: str | None) -> CheckReport:
    found = read_crystals(path, targets, id_column)
    names = [spec.name for spec in found.table.target_specs]
    settings = ["model=alignn", f"data={found.data}", f"data.path={_override_value(str(path))}"]
    settings.append(f"data.targets=[{','.join(map(_override_value, names))}]")
    settings += [f"data.id_column={_override_value(id_column)}"] if id_column is not None else []
    return CheckReport(
        path=path,
        columns=None,
        num_rows=len(found.table) + len(found.table.rejected),
        table=found.table,
        targets=tuple(_target_summary(found.table, index) for index in range(len(names))),
        modalities=tuple(_modality_summary(found.table, name) for name in found.table.spec.modalities),
        num_molecules=len(np.unique(found.table.groups)),
        command=_command_line(settings),
        contents=found.contents,
    )


def render(report: CheckReport) -> RenderableType:
    """Return the report for a rich console."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    accepted = len(report.table)
    kind = "crystals" if report.columns is None else "molecules"
    head = (
        f"[bold]{escape(str(report.path))}[/bold]: {report.num_rows} rows, {accepted} accepted, "
        f"{len(report.rejected)} rejected ({report.rejected_fraction:.2%})\n"
        f"{escape(report.contents)}; {report.num_molecules} different {kind}"
        + (f" ({accepted - report.num_molecules} repeated rows)" if accepted > report.num_molecules else "")
    )
    rejected = Table("rows", "reason", "for example", title="Rejected", title_justify="left")
    for kind, items in report.reasons.items():
        rejected.add_row(str(len(items)), escape(kind), escape(_examples(items)))
    targets = Table("target", "known", "missing", "lowest", "mean", "highest", title="Targets", title_justify="left")
    for t in report.targets:
        numbers = (f"{value:.6g}" for value in (t.lowest, t.mean, t.highest))
        targets.add_row(escape(t.name), str(t.known), str(t.missing), *numbers)
    modalities = Table("modality", "rows", "cannot be made", title="Modalities", title_justify="left")
    for m in report.modalities:
        modalities.add_row(m.name, str(m.available), escape(_examples(m.impossible)) or "-")
    parts: list[RenderableType] = [head]
    parts += [rejected] if report.rejected else []
    parts += [targets, modalities, f"Train on it with\n  {escape(report.command)}"]
    return Group(*parts)


def _columns(
    path: Path,
    smiles: str | None,
    targets: Sequence[str] | None,
    id_: str | None,
    description: str | None,
) -> TableColumns:
    """Return the meaning of the columns, guessing what was not given."""
    there = read_columns(path)
    given = [name for name in (smiles, id_, description, *(targets or ())) if name is not None]
    texts = {name: cells[:_NUM_GUESS_ROWS] for name, cells in read_text(path, [*there, *given]).items()}
    if smiles is None:
        smiles = _guess_smiles({name: column for name, column in texts.items() if name not in given})
    if targets is None:
        others = {name: column for name, column in texts.items() if name not in {smiles, id_, description}}
        targets = [name for name, column in others.items() if is_numeric(column)]
    if smiles is None or not targets:
        what, key = ("SMILES", "smiles-column") if smiles is None else ("numbers", "targets")
        raise UserError(
            f"{path}: no column looks like {what}",
            remedy=f"name it with --{key}; columns: {', '.join(there)}",
        )
    return TableColumns(smiles, tuple(targets), id_, description)


def _guess_smiles(columns: dict[str, list[str | None]]) -> str | None:
    """Return the column called SMILES in any case, else the first whose text is mostly molecules with carbon."""
    named = [name for name in columns if "smiles" in name.lower()]
    if named:
        return min(named, key=len)
    for name, values in columns.items():
        texts = [text for text in values if text is not None and "c" in text.lower()]
        bad = canonicalize(texts)[1]
        if texts and len(texts) >= len(values) / 2 and len(bad) < len(texts) / 10:
            return name
    return None


def _target_summary(table: RecordTable, index: int) -> TargetSummary:
    values = table.targets[:, index]
    known = values[~np.isnan(values)]
    lowest, mean, highest = (known.min(), known.mean(), known.max()) if len(known) else (np.nan,) * 3
    return TargetSummary(
        name=table.target_specs[index].name,
        known=len(known),
        missing=len(values) - len(known),
        lowest=float(lowest),
        mean=float(mean),
        highest=float(highest),
    )


def _modality_summary(table: RecordTable, modality: str) -> ModalitySummary:
    values, problems = modality_values(modality, table.fields)
    available = sum(value is not None for value in values)
    return ModalitySummary(modality, available, tuple(table.without(problems).rejected[len(table.rejected) :]))


def _examples(items: Sequence[Rejection]) -> str:
    """Return the first few rows and how many more there are, on one line."""
    shown = "; ".join(f"{item.id}: {item.value or item.reason}" for item in items[:_NUM_EXAMPLES])
    more = len(items) - _NUM_EXAMPLES
    return f"{shown}; and {more} more" if more > 0 else shown


def _command(path: Path, columns: TableColumns) -> str:
    """Return a command line, quoted for a shell, that trains on the table."""
    settings = ["data=csv", f"data.path={_override_value(str(path))}"]
    if columns.smiles != "smiles":
        settings.append(f"data.smiles_column={_override_value(columns.smiles)}")
    settings.append(f"data.targets=[{','.join(map(_override_value, columns.targets))}]")
    for key, name in (("id_column", columns.id), ("description_column", columns.description)):
        settings += [f"data.{key}={_override_value(name)}"] if name is not None else []
    return _command_line(settings)


def _command_line(settings: Sequence[str]) -> str:
    import shlex

    return shlex.join(["crystalfm", "train", *settings])


def _override_value(text: str) -> str:
    """Quote a text for Hydra where it would be read as something else (a list, a number, an interpolation)."""
    plain = re.fullmatch(r"[A-Za-z_./~][\w./~+-]*", text) and text.lower() not in _HYDRA_WORDS
    if plain:
        return text
    escaped = text.replace("\\", "\\\\") if text.endswith("\\") else text
    return "'" + escaped.replace("'", "\\'") + "'"
