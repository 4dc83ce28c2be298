"""Crystals to judge: a folder of files, a table, or a run of ``generate.py``; unreadable ones stay in the count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.contracts import UserError
from crystalfm.data.crystal_folder import read_crystal, structure_rows
from crystalfm.data.records import Rejection
from crystalfm.data.tabular import read_columns, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_TABLES = ("samples.parquet", "samples.csv")
"""Tables that a run of ``generate.py`` leaves in its folder."""

_GENERATED_COLUMNS = ("index", "text", "structure", "problem")
_VALUE_LENGTH = 80
_NOT_STRUCTURES = (".txt", ".md", ".png", ".log", ".yaml", ".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class Samples:
    """Crystals to judge.

    Attributes:
        ids: file names, or row numbers or indices.
        crystals: crystal of each, ``None`` where there is none that can be read.
        rejected: those with ``None``, and why.
        source: where they come from, for reports.
    """

    ids: list[str]
    crystals: list[Crystal | None]
    rejected: list[Rejection]
    source: str

    @property
    def reasons(self) -> dict[str, str]:
        """Why there is no crystal, by id."""
        return {item.id: item.reason for item in self.rejected}


def read_samples(path: Path) -> Samples:
    """Read crystals, keeping the place of those that cannot be read.

    A folder with ``samples.parquet`` is a run of ``generate.py``: its table is read, as the folder's CIF files lack
    what could not be parsed. Of another folder every file is a sample, but for texts, tables and pictures. Of files
    and other tables, structures with overlapping atoms count as unreadable: those who read them cannot hold them.

    Args:
        path: folder, structure file, or table with a column of structures.

    Raises:
        UserError: there is nothing to judge at ``path``.
    """
    if not path.exists():
        raise UserError(f"structures={path}: no such file or folder")
    table = _sample_table(path)
    if table is not None:
        return _generated(table)
    rows = [row for row in structure_rows(path) if not _is_other(path, row.source)]
    if not rows:
        raise UserError(
            f"structures={path} holds no structure",
            remedy="give a folder of CIF or POSCAR files, a table with a column cif, poscar or structure, or a run",
        )
    found = [_read(row.id, row.source) for row in rows]
    ids = [row.id for row in rows]
    return _samples(ids, found, f"{len(rows)} {'files' if path.is_dir() else 'rows'} of {path}")


def _is_other(path: Path, source: object) -> bool:
    return path.is_dir() and isinstance(source, Path) and source.suffix.lower() in _NOT_STRUCTURES


def _read(name: str, source: object) -> Crystal | Rejection:
    try:
        return read_crystal(source)
    except CrystalError as error:
        return Rejection(name, error.reason, error.value)


def _samples(ids: Sequence[str], found: Sequence[Crystal | Rejection], source: str) -> Samples:
    rejected = [one for one in found if isinstance(one, Rejection)]
    return Samples(list(ids), [None if isinstance(one, Rejection) else one for one in found], rejected, source)


def _sample_table(path: Path) -> Path | None:
    """Return the table of generated samples that a path is or holds."""
    if path.is_dir():
        return next((file for name in SAMPLE_TABLES if (file := path / name).is_file()), None)
    if path.suffix.lower() not in {".csv", ".parquet"}:
        return None
    return path if set(_GENERATED_COLUMNS) <= set(read_columns(path)) else None


def _generated(table: Path) -> Samples:
    """Read a table that ``generate.py`` wrote, whose crystals may overlap and are judged all the same."""
    cells = read_text(table, _GENERATED_COLUMNS)
    rows = zip(*(cells[name] for name in _GENERATED_COLUMNS), strict=True)
    ids, found = [], []
    for number, (index, text, structure, problem) in enumerate(rows):
        ids.append(index or str(number))
        found.append(_written(ids[-1], text or "", structure, problem))
    return _samples(ids, found, f"{len(ids)} generated samples of {table}")


def _written(name: str, text: str, structure: str | None, problem: str | None) -> Crystal | Rejection:
    shown = " ".join(text.split())[:_VALUE_LENGTH]
    if structure is None:
        return Rejection(name, problem or "not parsed", shown)
    try:
        return Crystal.from_json(structure)
    except CrystalError as error:
        return Rejection(name, error.reason, shown)
