"""What a model is asked about: files and tables of the command line, or a list of Python objects, as rows of fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystal_io import as_crystal, read_crystal_file
from crystalfm.chem.crystals import CrystalError, Problem
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import MODALITIES, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.chem.crystals import Crystal

_LIST_SUFFIXES = {".smi", ".smiles", ".txt"}
_TABLE_SUFFIXES = {".csv", ".tsv"}
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Inputs:
    """Molecules or crystals to predict, in the order given.

    Attributes:
        ids: identifier of each row.
        fields: raw fields by name, one value a row.
        problems: rows that cannot be used.
    """

    ids: list[str]
    fields: dict[str, list[str | None]]
    problems: list[RowProblem] = field(default_factory=list)


def read_molecules(source: str, smiles_column: str, id_column: str | None, description_column: str | None) -> Inputs:
    """Read what ``input`` names: a file where there is one of that name, else a SMILES string.

    A ``.smi``, ``.smiles`` or ``.txt`` file has one SMILES a line and may have a name behind it; a ``.csv`` or ``.tsv``
    file has named columns.

    Raises:
        UserError: the file is missing, empty or has no such column.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix in _TABLE_SUFFIXES | _LIST_SUFFIXES and not path.is_file():
        raise UserError(f"input={source}: no such file", remedy="give a SMILES string or an existing file")
    if not path.is_file():
        return Inputs(["0"], {"smiles": [source]})
    if suffix not in _TABLE_SUFFIXES:
        return _read_list(path)
    return _read_table(path, smiles_column, id_column, description_column)


def _read_list(path: Path) -> Inputs:
    ids: list[str] = []
    smiles: list[str | None] = []
    for line in _text_of(path).splitlines():
        parts = line.split(maxsplit=1)
        if parts:
            ids.append(parts[1].strip() if len(parts) > 1 else str(len(ids)))
            smiles.append(parts[0])
    if not smiles:
        raise UserError(f"input={path} is empty")
    return Inputs(ids, {"smiles": smiles})


def _read_table(path: Path, smiles_column: str, id_column: str | None, description_column: str | None) -> Inputs:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_text_of(path)), delimiter=delimiter)
    columns = list(reader.fieldnames or [])
    if not columns:
        raise UserError(f"input={path} is empty")
    wanted = {
        "smiles_column": smiles_column,
        "id_column": id_column,
        "description_column": description_column,
    }
    for key, column in wanted.items():
        if column is not None and column not in columns:
            raise UserError(f"{key}={column}: {path} has no such column", remedy=f"its columns: {', '.join(columns)}")
    rows = list(reader)
    if not rows:
        raise UserError(f"input={path} has a header and no rows")
    ids = [str(number) if id_column is None else str(row[id_column]) for number, row in enumerate(rows)]
    fields: dict[str, list[str | None]] = {"smiles": [row[smiles_column] or "" for row in rows]}
    if description_column is not None:
        fields["description"] = [row[description_column] or None for row in rows]
    return Inputs(ids, fields)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"input={path} is not UTF-8 text: {error}", remedy="convert the file") from error


def molecules_of(objects: Sequence[object]) -> Inputs:
    """Return the rows of a list of molecules: SMILES strings, or dictionaries of fields (``smiles``, ``description``).

    What is neither becomes a problem of its row.
    """
    rows = [item if isinstance(item, Mapping) else {"smiles": item} for item in objects]
    fields, problems = _text_fields(rows, ("smiles", "description"))
    fields["smiles"] = ["" if value is None else value for value in fields["smiles"]]
    return Inputs([str(row) for row in range(len(rows))], fields, problems)


def crystals_of(objects: Sequence[object]) -> Inputs:
    """Return the rows of a list of crystals.

    Args:
        objects: pymatgen ``Structure``, ASE ``Atoms``, jarvis ``Atoms``, ``Crystal``, paths of files, CIF, POSCAR,
            extxyz or JSON texts, dictionaries of one of these libraries, or dictionaries with one of all these under
            ``structure`` and a text under ``description``. What cannot be used becomes a problem of its row.
    """
    has_fields = [isinstance(item, Mapping) and "structure" in item for item in objects]
    rows: list[Any] = [item if given else {} for item, given in zip(objects, has_fields, strict=True)]
    fields, problems = _text_fields(rows, ("description",))
    faulty = {problem.row for problem in problems}
    fields["structure"] = []
    for number, item in enumerate(objects):
        try:
            text = None if number in faulty else crystal_of(rows[number].get("structure", item)).to_json()
        except CrystalError as error:
            text = None
            problems.append(RowProblem(number, error.reason, error.value))
        fields["structure"].append(text)
    return Inputs([str(row) for row in range(len(rows))], fields, problems)


def crystal_of(value: object) -> Crystal:
    """Return the crystal that an object describes; a string without line breaks is the path of a file.

    Raises:
        CrystalError: there is none that can be worked with.
    """
    if isinstance(value, Path):
        return read_crystal_file(value)
    if isinstance(value, str) and "\n" not in value.strip() and not value.lstrip().startswith("{"):
        if not value.strip() or len(value) > _LONGEST_PATH:
            raise CrystalError(f"{Problem.UNREADABLE}: neither a file nor a structure", value)
        return read_crystal_file(Path(value).expanduser())
    return as_crystal(value)


def _text_fields(
    rows: Sequence[Mapping[Any, Any]], names: Sequence[str]
) -> tuple[dict[str, list[str | None]], list[RowProblem]]:
    """Return the named texts of each row; another type than a string is a problem, a field nobody has is left out."""
    fields: dict[str, list[str | None]] = {name: [] for name in names}
    problems: dict[int, RowProblem] = {}
    known = {"structure", *(spec.source_field for spec in MODALITIES.values())}
    for number, row in enumerate(rows):
        unknown = [str(key) for key in row if key not in known]
        if unknown:
            problems[number] = RowProblem(number, f"unknown field {', '.join(unknown)}", "")
        for name in names:
            value = row.get(name)
            if value is not None and not isinstance(value, str):
                problems[number] = RowProblem(number, f"{name} is a {type(value).__name__}, not a string", "")
            fields[name].append(value if isinstance(value, str) else None)
    used = {name: values for name, values in fields.items() if name == "smiles" or any(values)}
    return used, list(problems.values())
