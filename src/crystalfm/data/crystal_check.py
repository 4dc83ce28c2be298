"""Crystals for ``crystalfm data check``: whether a path holds some, and what training would make of them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.defects.records import DefectRecord
from crystalfm.contracts import UserError
from crystalfm.data.crystal_folder import JSON_SUFFIXES, LIST_FILE, STRUCTURE_COLUMNS, CrystalFolder, list_columns
from crystalfm.data.json_records import read_records
from crystalfm.data.table import is_numeric
from crystalfm.data.tabular import read_columns, read_text
from crystalfm.data.twodmd import TwoDMD
from crystalfm.data.twodmd_files import is_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.data.records import RecordTable

_NUM_TYPES_SHOWN = 5
_NUM_GUESS_ROWS = 200
"""Rows looked at when targets are guessed."""


@dataclass(frozen=True)
class CheckedCrystals:
    """What training would use of a user's crystals.

    Attributes:
        table: accepted crystals; the others are among its rejected rows.
        contents: where the structures were found, and how many rows have no target.
        data: option of the group ``data`` that reads them.
    """

    table: RecordTable
    contents: str
    data: str = "folder"


def holds_crystals(path: Path) -> bool:
    """Say whether a path is for ``data=folder``: a folder, JSON, or a table with structures and without SMILES.

    Raises:
        UserError: it is a table that cannot be read.
    """
    if path.is_dir() or _is_json(path):
        return True
    names = read_columns(path)
    return any(name in STRUCTURE_COLUMNS for name in names) and not any("smiles" in name.lower() for name in names)


def read_crystals(path: Path, targets: Sequence[str] | None, id_column: str | None) -> CheckedCrystals:
    """Read crystals as ``data=folder`` would, or a release of 2DMD as ``data=2dmd`` would.

    Args:
        path: see ``holds_crystals``.
        targets: quantities to learn; every numeric one when ``None``.
        id_column: column or field of identifiers, or ``None``.

    Raises:
        UserError: a file is unreadable, ids are repeated, or there is no number to learn.
    """
    if is_release(path):
        return _read_release(path, targets)
    names = _numeric_names(path, id_column) if targets is None else list(targets)
    if not names:
        raise UserError(f"{path}: there is no number to learn", remedy="name the targets with --targets")
    dataset = CrystalFolder(path=str(path), targets=names, id_column=id_column)
    table, num_rows = dataset.check()
    where = f"structures listed in {LIST_FILE}" if path.is_dir() else "a structure in each row"
    without = num_rows - len(table) - len(table.rejected)
    return CheckedCrystals(table, f"{where}; {without} rows without any target are left out" if without else where)


def _read_release(path: Path, targets: Sequence[str] | None) -> CheckedCrystals:
    """Read all of 2DMD's targets that the release has, or those asked for."""
    dataset = TwoDMD(path=str(path), targets=None if targets is None else list(targets))
    if targets is None:
        dataset.targets = [target.name for target in dataset.spec().targets]
    table = dataset.load()
    known = np.flatnonzero(~np.isnan(table.targets).all(axis=0))
    table = replace(
        table, targets=table.targets[:, known], target_specs=tuple(table.target_specs[column] for column in known)
    )
    types = Counter(DefectRecord.from_json(text).type_name for text in table.fields["defects"] if text)
    shown = ", ".join(f"{name} ({count})" for name, count in types.most_common(_NUM_TYPES_SHOWN))
    more = f" and {len(types) - _NUM_TYPES_SHOWN} more" if len(types) > _NUM_TYPES_SHOWN else ""
    return CheckedCrystals(table, f"a release of 2DMD; {len(types)} types of defects: {shown}{more}", "2dmd")


def _is_json(path: Path) -> bool:
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix in JSON_SUFFIXES


def _numeric_names(path: Path, id_column: str | None) -> list[str]:
    """Return the columns or fields of numbers in the first rows."""
    if path.is_dir():
        return list_columns(path)
    if _is_json(path):
        records = list(itertools.islice(read_records(path), _NUM_GUESS_ROWS))
        names = dict.fromkeys(name for record in records for name in record)
        texts = {name: [_text(record.get(name)) for record in records] for name in names}
    else:
        columns = [name for name in read_columns(path) if name not in STRUCTURE_COLUMNS]
        texts = {name: cells[:_NUM_GUESS_ROWS] for name, cells in read_text(path, columns).items()} if columns else {}
    return [name for name, cells in texts.items() if name != id_column and is_numeric(cells)]


def _text(value: object) -> str | None:
    """Return a JSON value as a cell of a table: dictionaries, lists and truth values are no numbers."""
    return None if value is None else str(value)
