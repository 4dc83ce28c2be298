"""Lists of JSON records: read one at a time, whatever they are packed in."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLANKS = " \t\r\n"


def read_json_text(path: Path) -> str:
    """Return the text of a JSON file, of a gzip-compressed one, or of the only JSON file in a zip archive.

    Raises:
        UserError: the file is missing or unreadable, or the archive holds no or several JSON files.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(".json")]
                if len(names) != 1:
                    raise UserError(f"{path} holds {len(names)} JSON files", remedy="give an archive with one of them")
                raw = archive.read(names[0])
        else:
            raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        return raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", remedy="give a JSON file, also as .json.zip or .json.gz") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list, or of a file with one object a line, without holding all of them.

    A release of 76,000 crystals is some gigabytes of Python objects, and a tenth of it as text.

    Raises:
        UserError: the file is missing or is no list of objects.
    """
    text = read_json_text(path)
    decoder = json.JSONDecoder()
    position = _skip(text, 0, _BLANKS)
    is_list = text.startswith("[", position)
    position = _skip(text, position + is_list, _BLANKS)
    end = "]" if is_list else ""
    while position < len(text) and text[position] != end:
        try:
            record, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            line = text.count("\n", 0, position) + 1
            raise UserError(f"{path}, record from line {line}: no JSON: {error}") from error
        if not isinstance(record, dict):
            raise UserError(f"{path} holds a {type(record).__name__} where a record is expected", remedy=_EXPECTED)
        yield record
        position = _skip(text, position, _BLANKS + ",")
    if is_list and position >= len(text):
        raise UserError(f"{path} ends in the middle of its list", remedy="fetch or copy it again")


_EXPECTED = 'expected a list of objects: [{"jid": ..., "atoms": {...}}, ...]'


def _skip(text: str, position: int, blanks: str) -> int:
    while position < len(text) and text[position] in blanks:
        position += 1
    return position
