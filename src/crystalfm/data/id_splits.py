"""Splits that others published as lists of ids."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import SPLITS, UserError
from crystalfm.data.json_records import read_json_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)


def read_id_splits(path: Path) -> dict[str, list[str]]:
    """Return the ids of each part.

    Args:
        path: JSON, also zipped or gzip-compressed, with lists of ids under ``train``, ``val`` and ``test`` or under
            ``id_train``, ``id_val`` and ``id_test`` (ALIGNN's ``ids_train_val_test.json``); in place of a list there
            may be values by id (the JARVIS-Leaderboard's benchmarks).

    Raises:
        UserError: the file is missing or is none of these, or names an id twice.
    """
    try:
        content = json.loads(read_json_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    listed: dict[str, list[str]] = {}
    for part in SPLITS:
        ids = content.get(part, content.get(f"id_{part}")) if isinstance(content, dict) else None
        if not isinstance(ids, list | dict) and part != "val":
            raise UserError(
                f"{path} has no list of ids for {part}",
                remedy='expected {"train": [ids], "val": [ids], "test": [ids]}, or id_train, id_val, id_test',
            )
        listed[part] = [str(item) for item in ids or []]
    seen: dict[str, str] = {}
    for part, names in listed.items():
        for name in names:
            if (other := seen.setdefault(name, part)) != part:
                raise UserError(f"{path} names {name} in {other} and in {part}")
    return listed


def parts_of_ids(listed: Mapping[str, Sequence[str]], ids: Sequence[str], title: str) -> NDArray[np.str_]:
    """Return (N,) the part that a list gives each id, empty where it names it in none.

    Args:
        listed: ids by part.
        ids: the N ids of a table.
        title: name of the list in messages.

    Raises:
        UserError: the list names none of the ids.
    """
    part_of = {name: part for part, names in listed.items() for name in names}
    parts = np.array([part_of.get(name, "") for name in ids], dtype="<U5")
    found = int((parts != "").sum())
    if not found:
        first = next(iter(part_of), "nothing")
        raise UserError(f"{title} names none of the {len(ids)} ids", remedy=f"its first is {first}, theirs {ids[0]}")
    if found < len(part_of):
        _LOG.warning("%s names %d ids, of which the data have %d", title, len(part_of), found)
    return parts
