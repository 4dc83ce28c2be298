"""``data=folder``: a user's own crystals: a folder with ``id_prop.csv``, a table, or JSON lines."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from crystalfm.chem.crystal_io import SUFFIXES, as_crystal, read_crystal_file
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data.crystal_dataset import CrystalDataset, CrystalSettings
from crystalfm.data.crystal_table import RawCrystal, crystal_records, crystal_spec, crystal_table
from crystalfm.data.json_records import read_records
from crystalfm.data.table import is_missing_number
from crystalfm.data.tabular import read_columns, read_text, require_columns
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from crystalfm.chem.crystals import Crystal
    from crystalfm.data.records import RecordTable

LIST_FILE = "id_prop.csv"
"""Names of the structure files and their targets, as CGCNN and ALIGNN read them."""

STRUCTURE_COLUMNS = ("structure", "cif", "poscar", "atoms")
"""Columns and fields that hold a structure, in the order in which they are looked for."""

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Suffixes of lists of records; ``.gz`` may follow."""

_CELL_LENGTH = 100_000_000


class CrystalFolder(CrystalDataset):
    """A user's own crystals.

    Rows whose structure cannot be read or worked with, or with a target that is not a number, are rejected with
    their reason; rows without any target are left out. A row may lack some of its targets.

    Args:
        path: a folder with ``id_prop.csv`` (file name, then the targets; with or without a header) and the CIF,
            POSCAR, extxyz or JSON files it names, with or without their suffix; or a CSV, TSV or Parquet file with a
            column of structures as text (CIF, POSCAR or JSON); or JSON objects, one a line or in a list, with a
            structure as text or as a dictionary of pymatgen or JARVIS.
        targets: columns to learn; for an ``id_prop.csv`` without a header the names of all its columns after the
            first.
        units: unit of each target; dimensionless where not given.
        id_column: column or field of unique identifiers; ``None`` for row numbers from 0. A folder's ids are the
            file names.
        structure_column: column or field of the structures; ``None`` for the first of ``STRUCTURE_COLUMNS``.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset`` and ``CrystalDataset``.

    Raises:
        UserError: a setting is out of range, or ``units`` names what is no target.
    """

    def __init__(
        self,
        *,
        path: str,
        targets: list[str],
        units: dict[str, str] | None = None,
        id_column: str | None = None,
        structure_column: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        **shared: Unpack[CrystalSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.path = Path(path).expanduser()
        self.names = tuple(targets)
        self.units = dict(units or {})
        self.id_column = id_column
        self.structure_column = structure_column
        strangers = sorted(set(self.units) - set(targets))
        if strangers:
            raise UserError(
                f"data.units names {', '.join(strangers)}, which data.targets does not",
                remedy=f"targets: {', '.join(targets)}",
            )

    def spec(self) -> DataSpec:
        """Describe the targets that were asked for.

        Raises:
            UserError: there is nothing at ``path``.
        """
        if not self.path.exists():
            raise UserError(
                f"data.path={self.path} does not exist",
                remedy=f"give a folder with {LIST_FILE}, or a CSV, TSV, Parquet or JSON-lines file",
            )
        targets = tuple(TargetSpec(name, self.units.get(name, "1")) for name in self.names)
        return self._with_description(crystal_spec("folder", targets, self.names, "", self.path.name))

    def load(self) -> RecordTable:
        """Read the crystals, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a file is unreadable, a column is missing, ids are repeated, or no row is left.
        """
        return crystal_records(self._parsed(), self, self.selected_targets(), None)

    def check(self) -> tuple[RecordTable, int]:
        """Read the crystals as ``load`` does, even where all are rejected; also return the number of rows there are.

        Raises:
            UserError: see ``load``.
        """
        parsed = self._parsed()
        return crystal_records(parsed, self, self.selected_targets(), None, may_be_empty=True), parsed.num_rows

    def _parsed(self) -> pa.Table:
        rows = list(
            _listed_rows(self.path, self.names)
            if self.path.is_dir()
            else _rows(self.path, self.names, self.id_column, self.structure_column)
        )
        files = {row.source for row in rows if isinstance(row.source, Path)}
        files |= {self.path / LIST_FILE if self.path.is_dir() else self.path}
        digests = {str(file.relative_to(self.path)): sha256_file(file) for file in files if file.is_file()}
        content = sha256_json([digests, self.id_column, self.structure_column])
        return crystal_table(self.store, content, "crystal folder", list(self.names), lambda: rows, read_crystal)


def _rows(
    path: Path, names: Sequence[str], id_column: str | None, structure_column: str | None
) -> Iterator[RawCrystal]:
    """Yield the rows of a table or of a list of JSON records, with the targets of ``names``."""
    suffix = Path(path.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix
    if suffix in JSON_SUFFIXES:
        return _json_rows(path, id_column, structure_column)
    return _table_rows(path, names, id_column, structure_column)


def _table_rows(
    path: Path, names: Sequence[str], id_column: str | None, structure_column: str | None
) -> Iterator[RawCrystal]:
    csv.field_size_limit(_CELL_LENGTH)
    structure = structure_column or _structure_name(path, read_columns(path))
    columns = [structure, *names, *([id_column] if id_column else [])]
    require_columns(path, columns)
    cells = read_text(path, columns)
    for row, source in enumerate(cells[structure]):
        name = cells[id_column][row] if id_column else str(row)
        yield RawCrystal(name or f"row {row}", source, {target: cells[target][row] for target in names})


def _json_rows(path: Path, id_column: str | None, structure_column: str | None) -> Iterator[RawCrystal]:
    candidates = STRUCTURE_COLUMNS if structure_column is None else (structure_column,)
    for row, record in enumerate(read_records(path)):
        name = record.get(id_column) if id_column else row
        found = next((key for key in candidates if record.get(key) is not None), None)
        source = None if found is None else record[found]
        yield RawCrystal(f"row {row}" if name is None else str(name), source, record)


def _structure_name(path: Path, there: Sequence[str]) -> str:
    found = next((name for name in STRUCTURE_COLUMNS if name in there), None)
    if found is None:
        raise UserError(
            f"{path}: no column is called {', '.join(STRUCTURE_COLUMNS)}",
            remedy=f"name it with data.structure_column; columns: {', '.join(there)}",
        )
    return found


def list_columns(folder: Path) -> list[str]:
    """Return the names of the targets in a folder's ``id_prop.csv``; ``target`` or ``target_1`` ... without a header.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    lines = _list_lines(folder)
    if _is_header(lines[0], _files_by_name(folder)):
        return lines[0][1:]
    count = len(lines[0]) - 1
    return ["target"] if count == 1 else [f"target_{number + 1}" for number in range(count)]


def _list_lines(folder: Path) -> list[list[str]]:
    path = folder / LIST_FILE
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream, skipinitialspace=True) if line]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {LIST_FILE}",
            remedy="write one line for each structure: file name, then its targets, between commas",
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty", remedy="expected: file name, then its targets, between commas")
    return lines


def _listed_rows(folder: Path, targets: Sequence[str]) -> Iterator[RawCrystal]:
    """Yield the rows of ``id_prop.csv`` with the paths of their files.

    Raises:
        UserError: there is no such file, it is no table, or its columns are not the targets.
    """
    path = folder / LIST_FILE
    lines = _list_lines(folder)
    files = _files_by_name(folder)
    header = lines.pop(0) if _is_header(lines[0], files) else ["file", *targets]
    missing = [name for name in targets if name not in header[1:]]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}", remedy=f"columns: {', '.join(header[1:])}")
    for number, cells in enumerate(lines):
        if len(cells) != len(header):
            raise UserError(
                f"{path}, row {number}: {len(cells) - 1} targets where {len(header) - 1} are expected",
                remedy=f"data.targets must name every column after the first; it names {', '.join(targets)}",
            )
        name = cells[0]
        yield RawCrystal(name, files.get(name, folder / name), dict(zip(header[1:], cells[1:], strict=True)))


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Return the structure files of a folder by their name and, where it is unambiguous, by name without suffix."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.name != LIST_FILE}
    by_stem: dict[str, list[Path]] = {}
    for path in files.values():
        if path.suffix.lower() in SUFFIXES:
            by_stem.setdefault(path.stem, []).append(path)
    return {stem: paths[0] for stem, paths in by_stem.items() if len(paths) == 1} | files


def _is_header(cells: Sequence[str], files: dict[str, Path]) -> bool:
    """Say whether the first line names columns: it names no file, and its other cells are no numbers."""
    return cells[0] not in files and not any(is_missing_number(cell) or _is_number(cell) for cell in cells[1:])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_crystal(source: Any) -> Crystal:
    """Return the crystal of a row's source: the path of a file, a text or a dictionary.

    Raises:
        CrystalError: there is none in it that can be worked with.
    """
    return read_crystal_file(source) if isinstance(source, Path) else as_crystal(source)


def structure_rows(path: Path, *, id_column: str | None = None) -> list[RawCrystal]:
    """Return one row a structure, without targets, of a path that exists.

    Args:
        path: a folder, of which every file but ``id_prop.csv`` and hidden ones is a row; a table or a list of JSON
            records as ``CrystalFolder`` reads it; or else one structure file.
        id_column: column or field of identifiers; ``None`` for row numbers from 0. Of files, their names.

    Raises:
        UserError: a table cannot be read, or has no column of structures.
    """
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
        return [RawCrystal(item.name, item, {}) for item in files if item.name != LIST_FILE]
    suffix = Path(path.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix
    if suffix in {".csv", ".tsv", ".parquet", *JSON_SUFFIXES}:
        return list(_rows(path, (), id_column, None))
    return [RawCrystal(path.name, path, {})]
