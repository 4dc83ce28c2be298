"""Users' tables: CSV, TSV and Parquet files, read as text with errors a user can act on."""

from __future__ import annotations

import csv
import difflib
import gzip
import zlib
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TextColumns = dict[str, list[str | None]]
"""Cells of a table by column."""

_PARQUET_SUFFIXES = (".parquet", ".pq")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_columns(path: Path) -> list[str]:
    """Return the column names of a table without reading its rows.

    Raises:
        UserError: the file is missing, empty, of another kind, or not UTF-8.
    """
    if _kind(path) == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return [str(name) for name in pq.read_schema(path).names]
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    with _opened(path) as stream:
        return _split_header(path, _header_line(path, stream)[0])


def read_text(path: Path, columns: Iterable[str]) -> TextColumns:
    """Read columns of a table as text without blanks around it, ``None`` where a cell is empty.

    Numeric columns of a Parquet file become text as well, with all their digits.

    Args:
        path: CSV (comma, semicolon or tab), TSV or Parquet file; CSV and TSV may be gzip-compressed.
        columns: names of the columns to read.

    Returns:
        one list a column, all of the same length, at least one row long.

    Raises:
        UserError: the file is missing, empty, malformed or not UTF-8, or has no such column.
    """
    wanted = list(dict.fromkeys(columns))
    require_columns(path, wanted)
    values = _read_parquet(path, wanted) if _kind(path) == "parquet" else _read_delimited(path, wanted)
    if not any(values.values()):
        raise UserError(f"{path} has a header and no rows")
    return values


def require_columns(path: Path, columns: Iterable[str]) -> list[str]:
    """Return the columns of a table after checking that those asked for are there.

    Raises:
        UserError: a column is missing; names the nearest one and all there are.
    """
    there = read_columns(path)
    missing = [name for name in columns if name not in there]
    if missing:
        hints = [f"did you mean '{near}'?" for name in missing for near in _nearest(name, there)]
        hints.append(f"columns: {', '.join(there)}")
        raise UserError(f"{path} has no column {', '.join(missing)}", remedy=" ".join(hints))
    return there


def _nearest(name: str, names: Sequence[str]) -> list[str]:
    """Return the name most like ``name``, if any is alike, whatever the case."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    return [by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, n=1)]


def _kind(path: Path) -> str:
    """Return ``parquet`` or ``text`` after checking that the file is there and has a known suffix."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"data.path={path} {what}", remedy="give a CSV, TSV or Parquet file")
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        return "parquet"
    if _text_suffix(path) in _DELIMITERS:
        return "text"
    raise UserError(
        f"{path}: files of this kind cannot be read",
        remedy=f"known suffixes: {', '.join([*_DELIMITERS, *_PARQUET_SUFFIXES])}; text may end in .gz",
    )


def _text_suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _delimiter(path: Path, header: str) -> str:
    """Return the delimiter: by suffix, but a ``.csv`` without any comma may use semicolons or tabs."""
    usual = _DELIMITERS[_text_suffix(path)]
    return usual if usual in header else next((other for other in ";\t" if other in header), usual)


def _read_delimited(path: Path, columns: Sequence[str]) -> TextColumns:
    values: TextColumns = {name: [] for name in columns}
    with _opened(path) as stream:
        header, line = _header_line(path, stream)
        reader = csv.reader(stream, delimiter=_delimiter(path, header), skipinitialspace=True, strict=True)
        there = _split_header(path, header)
        wanted = [(values[name].append, there.index(name)) for name in columns]
        for cells in reader:
            if len(cells) != len(there):
                if not cells:
                    continue
                raise UserError(
                    f"{path}, line {line + reader.line_num}: {len(cells)} cells where the header has {len(there)}",
                    remedy="put texts that hold the delimiter into double quotes",
                )
            for append, position in wanted:
                append(cells[position].strip() or None)
    return values


def _read_parquet(path: Path, columns: Sequence[str]) -> TextColumns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    return {name: [_cell_text(value) for value in table[name].to_pylist()] for name in columns}


def _cell_text(value: object) -> str | None:
    """Return a Parquet cell as text: every digit of a number, ``None`` for null, NaN and empty text."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    return str(value).strip() or None


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a text table; what goes wrong while it is read becomes the user's error."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield cast("TextIO", stream)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason}",
            remedy=f"convert it: iconv -f latin1 -t utf-8 {path.name} > utf8.csv",
        ) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error


def _header_line(path: Path, stream: TextIO) -> tuple[str, int]:
    """Read up to and including the first line that is not blank; return it and its number from 1."""
    for number, line in enumerate(stream, start=1):
        if line.strip():
            return line.rstrip("\r\n"), number
    raise UserError(f"{path} is empty", remedy="the first line must hold the column names")


def _split_header(path: Path, header: str) -> list[str]:
    cells = next(csv.reader([header], delimiter=_delimiter(path, header), skipinitialspace=True))
    columns = [name.strip() for name in cells]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has several columns called {', '.join(repeated)}", remedy="rename them")
    return columns
