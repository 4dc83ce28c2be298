"""Parsed tables in the cache: reading and checking a data set's files is done once for their content."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crystalfm.io.files import atomic_write, file_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

_LOG = logging.getLogger(__name__)


def cached_table(cache: Path, key: str, title: str, parse: Callable[[], pa.Table]) -> pa.Table:
    """Return the table of an earlier run with the same key, or parse and keep it.

    Args:
        cache: root of the cache.
        key: digest of all that the table depends on: the files' content, the reader's version, libraries.
        title: name of the data set in the log.
        parse: reads the files.
    """
    import pyarrow.parquet as pq

    path = cache / "tables" / f"{key}.parquet"
    try:
        with file_lock(path):
            if (found := _read(path, title)) is not None:
                return found
            _LOG.info("%s: no parsed table for this content yet; reading its files", title)
            table = parse()
            with atomic_write(path) as stream:
                pq.write_table(table, stream, compression="zstd")
    except PermissionError:
        # A cache shared by a group may be read-only on compute nodes: use what is there, without a lock.
        _LOG.warning("%s: the cache %s cannot be written", title, path.parent)
        found = _read(path, title)
        return parse() if found is None else found
    return table


def _read(path: Path, title: str) -> pa.Table | None:
    """Return the parsed table of an earlier run, or ``None`` where there is none that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        _LOG.warning("%s: the parsed table %s is damaged and made again: %s", title, path, error)
        return None
    _LOG.info("%s: parsed table from the cache (%s)", title, path.name[:12])
    return table
