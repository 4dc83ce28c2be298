"""Users' tables: CSV, TSV and Parquet files, read as text with errors a user can act on."""

from __future__ import annotations

import csv
import difflib
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

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
    header = _first_line(path)
    columns = [name.strip() for name in next(csv.reader([header], delimiter=_delimiter(path, header)))]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has several columns called {', '.join(repeated)}", remedy="rename them")
    return columns


def read_text(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a table; cells are text without blanks around it, or ``None`` where empty.

    Numeric columns of a Parquet file become text as well, with all their digits.

    Args:
        path: CSV (comma, semicolon or tab), TSV or Parquet file; CSV and TSV may be gzip-compressed.
        columns: names of the columns to read.

    Returns:
        a frame with these columns in this order.

    Raises:
        UserError: the file is missing, empty, malformed or not UTF-8, or has no such column.
    """
    require_columns(path, columns)
    wanted = list(dict.fromkeys(columns))
    frame = _read_parquet(path, wanted) if _kind(path) == "parquet" else _read_delimited(path, wanted)
    if frame.empty:
        raise UserError(f"{path} has a header and no rows")
    return frame


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


def _first_line(path: Path) -> str:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=None) as stream:
            for line in stream:
                if line.strip():
                    return line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    raise UserError(f"{path} is empty", remedy="the first line must hold the column names")


def _delimiter(path: Path, header: str) -> str:
    """Return the delimiter: by suffix, but a ``.csv`` without any comma may use semicolons or tabs."""
    usual = _DELIMITERS[_text_suffix(path)]
    return usual if usual in header else next((other for other in ";\t" if other in header), usual)


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    return UserError(
        f"{path} is not UTF-8 text (byte {error.start})",
        remedy=f"convert it: iconv -f latin1 -t utf-8 {path.name} > utf8.csv",
    )


def _read_delimited(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(
            path,
            sep=_delimiter(path, _first_line(path)),
            dtype=str,
            encoding="utf-8-sig",
            keep_default_na=False,
            skipinitialspace=True,
            # A ragged row would otherwise shift the columns by one without a word.
            index_col=False,
            on_bad_lines="error",
            usecols=lambda name: name.strip() in columns,
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    frame.columns = frame.columns.str.strip()
    return _clean(frame[columns])


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    frame = table.to_pandas(types_mapper=None, integer_object_nulls=True)
    text = frame.apply(lambda column: column.map(lambda value: repr(value) if isinstance(value, float) else str(value)))
    return _clean(text.where(frame.notna(), ""))


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Strip blanks and turn empty cells into ``None``."""
    stripped = frame.apply(lambda column: column.str.strip())
    cleaned: pd.DataFrame = stripped.astype(object).where(stripped != "", None)
    return cleaned
