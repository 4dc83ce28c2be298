"""Splits: which rows train, validate and test a model, as files that other runs can reuse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import SPLITS, UserError
from crystalfm.io.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.data.records import RecordTable

FILE_VERSION = 1
"""Version of the split file's format."""

_NUM_IDS_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of each part of a record table, ascending; rows in no part are left out of the run.

    Attributes:
        train: (N_train,) int64.
        val: (N_val,) int64.
        test: (N_test,) int64.
        num_unused: rows of the table in no part (a split file that does not name them).
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    num_unused: int = 0

    def __getitem__(self, part: str) -> NDArray[np.int64]:
        """Return the rows of ``train``, ``val`` or ``test``."""
        return self.parts[part]

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Rows by the name of the part, in the order of ``contracts.SPLITS``."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each part."""
        return {name: len(rows) for name, rows in self.parts.items()}


def split_sizes(num_rows: int, test_fraction: float, val_fraction: float) -> tuple[int, int, int]:
    """Return (train, val, test) sizes of the LLM-Fusion paper's rule.

    ``ceil(test_fraction N)`` rows for the test, then ``ceil(val_fraction (N - test))`` of the rest for the
    validation: 108,446 / 12,050 / 13,389 of QM9's 133,885 rows at 10 % each (arXiv 2503.01022).

    Raises:
        UserError: a fraction is outside [0, 1), or no row would be left to train on.
    """
    for name, fraction in (("test_fraction", test_fraction), ("val_fraction", val_fraction)):
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"data.{name}={fraction} is not in [0, 1)")
    # The products are rounded first: 0.07 * 100 is 7.000000000000001 in floating point and means 7 rows.
    num_test = ceil(round(test_fraction * num_rows, 9))
    num_val = ceil(round(val_fraction * (num_rows - num_test), 9))
    num_train = num_rows - num_test - num_val
    if num_train < 1:
        raise UserError(
            f"{num_rows} rows leave none to train on ({num_test} test, {num_val} validation)",
            remedy="use more rows, or lower data.test_fraction and data.val_fraction",
        )
    return num_train, num_val, num_test


def make_splits(table: RecordTable, *, test_fraction: float = 0.1, val_fraction: float = 0.1, seed: int = 42) -> Splits:
    """Split a table at random by the rule of ``split_sizes``, all rows of a molecule on one side.

    Molecules (``table.groups``) are taken in the order of ``numpy.random.default_rng(seed).permutation`` and
    each goes to the test while there is room for all its rows, then to the validation, else to training. The
    sizes are those of the rule as long as the last places can be filled by molecules with a single row;
    otherwise test and validation are smaller by fewer rows than the largest molecule has.

    Raises:
        UserError: no row would be left to train on, or all rows are one molecule.
    """
    _, num_val, num_test = split_sizes(len(table), test_fraction, val_fraction)
    _, inverse, counts = np.unique(table.groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    part_of_group = np.zeros(len(counts), dtype=np.int8)
    room_test, room_val = num_test, num_val
    for group, count in zip(order.tolist(), counts[order].tolist(), strict=True):
        if count <= room_test:
            part_of_group[group], room_test = 2, room_test - count
        elif count <= room_val:
            part_of_group[group], room_val = 1, room_val - count
        elif room_test == 0 and room_val == 0:
            break
    part = part_of_group[inverse.reshape(-1)]
    train, val, test = (np.flatnonzero(part == number).astype(np.int64) for number in range(3))
    splits = Splits(train, val, test)
    wanted = {"train": 1, "val": min(num_val, 1), "test": min(num_test, 1)}
    empty = [name for name, least in wanted.items() if len(splits[name]) < least]
    if empty:
        raise UserError(
            f"no molecule is left for {', '.join(empty)}: {len(table)} rows hold {len(counts)} molecules",
            remedy="rows of the same molecule are never separated; use data with more molecules",
        )
    return splits


def official_splits(table: RecordTable) -> Splits:
    """Return the split that the source of the data prescribes (``table.parts``).

    Raises:
        UserError: the source prescribes none, or assigns no row to training.
    """
    if table.parts is None:
        raise UserError(f"the data set '{table.spec.name}' has no official split", remedy="draw one: data.split=random")
    train, val, test = (np.flatnonzero(table.parts == name).astype(np.int64) for name in SPLITS)
    splits = Splits(train, val, test, num_unused=len(table) - len(train) - len(val) - len(test))
    if not len(splits.train):
        sizes = ", ".join(f"{len(rows)} {name}" for name, rows in splits.parts.items())
        raise UserError(
            f"the official split of '{table.spec.name}' leaves no row to train on here ({sizes})",
            remedy="add the training file, or choose another split",
        )
    return splits


def carry_over(splits: Splits, table: RecordTable, remaining: RecordTable) -> Splits:
    """Return ``splits`` of ``table`` as rows of ``remaining``, a table with some of its rows dropped.

    Splitting first and dropping afterwards keeps the test rows of runs with different modalities comparable.
    """
    new_row = {name: row for row, name in enumerate(remaining.ids.tolist())}
    parts = {
        name: np.array([new_row[i] for i in table.ids[rows].tolist() if i in new_row], dtype=np.int64)
        for name, rows in splits.parts.items()
    }
    return Splits(**parts, num_unused=len(remaining) - sum(len(rows) for rows in parts.values()))


def write_splits(path: Path | str, table: RecordTable, splits: Splits, *, seed: int | None = None) -> None:
    """Write the ids of each part as JSON, atomically; ``data.split_file`` reads it back.

    Args:
        path: file to write.
        table: records that ``splits`` refers to.
        splits: rows of each part.
        seed: seed the split was drawn with, for the reader's information.
    """
    ids = {name: table.ids[rows].tolist() for name, rows in splits.parts.items()}
    write_json(path, {"version": FILE_VERSION, "split_seed": seed, "content_hash": table.content_hash, **ids})


def read_splits(path: Path | str, table: RecordTable, *, allow_absent: bool = False) -> Splits:
    """Read a split file and find its ids in ``table``.

    Args:
        path: JSON written by ``write_splits``, or by hand: lists of ids under ``train``, ``val``, ``test``.
        table: records to split; rows that the file does not name are left out and counted.
        allow_absent: accept ids that are not in the table (rejected rows, or a table cut by ``data.limit``).

    Raises:
        UserError: the file is missing or malformed, an id is listed twice or is not in the table, the same
            molecule is on two sides, or the file names none of the rows.
    """
    listed = _read_ids(Path(path))
    row_of_id = {name: row for row, name in enumerate(table.ids.tolist())}
    _check_ids(path, listed, row_of_id, {item.id for item in table.rejected}, allow_absent=allow_absent)
    parts = {
        name: np.sort(np.array([row_of_id[i] for i in ids if i in row_of_id], dtype=np.int64))
        for name, ids in listed.items()
    }
    unused = len(table) - sum(len(rows) for rows in parts.values())
    splits = Splits(**parts, num_unused=unused)
    check_leakage(table, splits, where=f"split file {path}")
    if not any(len(rows) for rows in parts.values()):
        raise UserError(
            f"split file {path} names none of the {len(table)} rows",
            remedy="a split file holds ids of the same data set; without data.split_file a new one is drawn",
        )
    return splits


def check_leakage(table: RecordTable, splits: Splits, *, where: str = "the split") -> None:
    """Check that no molecule is on two sides.

    Raises:
        UserError: rows of one molecule are in different parts; names them.
    """
    first_seen: dict[int, tuple[str, int]] = {}
    for name, rows in splits.parts.items():
        for row, group in zip(rows.tolist(), table.groups[rows].tolist(), strict=True):
            other, other_row = first_seen.setdefault(group, (name, row))
            if other != name:
                raise UserError(
                    f"{where} has the same molecule on two sides: {table.ids[other_row]} in {other} and "
                    f"{table.ids[row]} in {name}",
                    remedy="rows with the same canonical SMILES belong in the same part",
                )


def _read_ids(path: Path) -> dict[str, list[str]]:
    """Return the ids of each part from a split file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"data.split_file={path}: no such file", remedy="give the split.json of a run") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"data.split_file={path} cannot be read as JSON: {error}") from error
    remedy = 'it must hold {"train": [ids], "val": [ids], "test": [ids]}'
    if not isinstance(content, dict):
        raise UserError(f"data.split_file={path} is not a split file", remedy=remedy)
    version = content.get("version", FILE_VERSION)
    if version != FILE_VERSION:
        raise UserError(f"data.split_file={path} has version {version}; version {FILE_VERSION} can be read")
    missing = [name for name in SPLITS if not isinstance(content.get(name), list)]
    if missing:
        raise UserError(f"data.split_file={path} has no list of ids for {', '.join(missing)}", remedy=remedy)
    return {name: [str(item) for item in content[name]] for name in SPLITS}


def _check_ids(
    path: Path | str,
    listed: Mapping[str, Sequence[str]],
    known: Mapping[str, int],
    rejected: set[str],
    *,
    allow_absent: bool,
) -> None:
    """Check that each id is listed once and, unless allowed otherwise, that the data have it."""
    part_of: dict[str, str] = {}
    absent: list[str] = []
    for name, ids in listed.items():
        for item in ids:
            if item in part_of:
                raise UserError(f"split file {path} lists id {item} twice (in {part_of[item]} and in {name})")
            part_of[item] = name
            if item not in known and item not in rejected:
                absent.append(item)
    if absent and not allow_absent:
        shown = ", ".join(absent[:_NUM_IDS_SHOWN]) + (", …" if len(absent) > _NUM_IDS_SHOWN else "")
        raise UserError(
            f"split file {path} has {len(absent)} ids that the data do not have: {shown}",
            remedy="use the split file of a run on the same data (data.limit allows absent ids)",
        )
