"""Records: ids, raw fields and targets of a data set in memory, and the rows that could not be used."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.representations import modality_values
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from crystalfm.chem.molecules import RowProblem

_NUM_REJECTIONS_SHOWN = 5


@dataclass(frozen=True)
class Rejection:
    """A row that is not used.

    Attributes:
        id: identifier of the row in its source (row number from 0 where the source has no ids).
        reason: what is wrong with it.
        value: the offending value, as read.
    """

    id: str
    reason: str
    value: str = ""


@dataclass(frozen=True, eq=False)
class RecordTable:
    """Accepted rows of a data set, in the order of their source.

    Attributes:
        spec: what the data set provides.
        ids: (N,) unique identifiers, ``str``.
        fields: raw fields by name, N values each; ``None`` where a row lacks the field.
        targets: (N, T) float64 in physical units, NaN where unknown.
        target_specs: the T targets, in the order of the columns of ``targets``.
        groups: (N,) int64; rows of the same molecule carry the same number and stay on one side of a split.
        rejected: rows of the source that are not in the table.
        parts: (N,) part of the official split (``train``, ``val``, ``test``) to which the source assigns each row;
            ``None`` where it has none.
    """

    spec: DataSpec
    ids: NDArray[np.str_]
    fields: Mapping[str, list[str | None]]
    targets: NDArray[np.float64]
    target_specs: tuple[TargetSpec, ...]
    groups: NDArray[np.int64]
    rejected: list[Rejection] = field(default_factory=list)
    parts: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        lengths = {"targets": len(self.targets), "groups": len(self.groups)}
        lengths.update({name: len(values) for name, values in self.fields.items()})
        if self.parts is not None:
            lengths["parts"] = len(self.parts)
        wrong = {name: length for name, length in lengths.items() if length != len(self.ids)}
        if wrong:
            raise ValueError(f"{len(self.ids)} ids, but {wrong}")
        if self.targets.shape != (len(self.ids), len(self.target_specs)):
            raise ValueError(f"targets have shape {self.targets.shape} for {len(self.target_specs)} target specs")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over ids, fields and targets in order: equal for equal data, whatever file it came from."""
        digest = hashlib.sha256()
        columns: list[tuple[str, Sequence[str | None]]] = [("id", self.ids.tolist())]
        columns += sorted(self.fields.items())
        for name, values in columns:
            # Lengths before the text keep ("ab", "c") and ("a", "bc") apart; -1 is a missing value.
            lengths = [-1 if value is None else len(value) for value in values]
            digest.update(f"{name}\0{len(values)}\0".encode())
            digest.update(np.asarray(lengths, dtype="<i8").tobytes())
            digest.update("".join(value or "" for value in values).encode())
        for column, spec in enumerate(self.target_specs):
            digest.update(f"{spec.name}\0{spec.unit}\0".encode())
            values_ = self.targets[:, column]
            # One bit pattern for every NaN and for both zeros.
            canonical = np.where(np.isnan(values_), np.nan, values_ + 0.0)
            digest.update(canonical.astype("<f8").tobytes())
        return digest.hexdigest()

    def select(self, rows: ArrayLike) -> RecordTable:
        """Return a table of ``rows`` (positions in the order given, or a mask); ``rejected`` is kept."""
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        index = index.astype(np.int64, copy=False)
        positions = index.tolist()
        return replace(
            self,
            ids=self.ids[index],
            fields={name: [values[row] for row in positions] for name, values in self.fields.items()},
            targets=self.targets[index],
            groups=self.groups[index],
            rejected=list(self.rejected),
            parts=None if self.parts is None else self.parts[index],
        )

    def without(self, problems: Sequence[RowProblem]) -> RecordTable:
        """Return the table without the rows that have a problem, each of which becomes a rejection."""
        if not problems:
            return self
        keep = np.ones(len(self), dtype=bool)
        keep[[problem.row for problem in problems]] = False
        rejected = [Rejection(str(self.ids[p.row]), p.reason, p.value) for p in problems]
        return replace(self.select(keep), rejected=[*self.rejected, *rejected])


def represent(table: RecordTable, modalities: Sequence[str]) -> tuple[RecordTable, dict[str, list[str | None]]]:
    """Make the values of every modality and drop the rows for which one is impossible.

    A row that has none of the modalities is rejected too: nothing could be learned from it.

    Args:
        table: records.
        modalities: names from ``contracts.MODALITIES`` that the table's fields can provide.

    Returns:
        the table of the remaining rows, its ``rejected`` extended, and each modality's values of these rows.
    """
    from crystalfm.chem.molecules import RowProblem

    values: dict[str, list[str | None]] = {}
    problems: dict[int, RowProblem] = {}
    for modality in modalities:
        values[modality], found = modality_values(modality, table.fields)
        for problem in found:
            problems.setdefault(problem.row, problem)
    if modalities:
        for row, present in enumerate(zip(*values.values(), strict=True)):
            if row not in problems and all(value is None for value in present):
                problems[row] = RowProblem(row, f"has none of the modalities {', '.join(modalities)}", "")
    if not problems:
        return table, values
    kept = [row for row in range(len(table)) if row not in problems]
    remaining = {modality: [column[row] for row in kept] for modality, column in values.items()}
    return table.without([problems[row] for row in sorted(problems)]), remaining


def group_numbers(keys: Sequence[str | None]) -> NDArray[np.int64]:
    """Return (N,) numbers, equal where ``keys`` are equal; a row with the key ``None`` stands alone."""
    numbers: dict[str, int] = {}
    groups = np.empty(len(keys), dtype=np.int64)
    for row, key in enumerate(keys):
        # Rows that stand alone get negative numbers, which no key has.
        groups[row] = -row - 1 if key is None else numbers.setdefault(key, row)
    return groups


def write_rejected(path: Path | str, rejected: Sequence[Rejection]) -> None:
    """Write ``rejected.csv`` (columns id, reason, value) atomically, also when nothing was rejected."""
    with atomic_write(path, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "reason", "value"])
        writer.writerows([item.id, item.reason, item.value] for item in rejected)


def enforce_rejection_limit(rejected: Sequence[Rejection], total: int, limit: float) -> None:
    """Stop when too large a part of the data was rejected.

    Args:
        rejected: rows that are not used.
        total: rows of the source, the rejected ones included.
        limit: largest allowed fraction, ``max_rejected_fraction`` of the config.

    Raises:
        UserError: ``len(rejected) / total`` is above ``limit``; shows the first few rows.
    """
    if total == 0 or len(rejected) <= limit * total:
        return
    fraction = len(rejected) / total
    lines = [
        f"    {item.id}: {item.reason}" + (f" [{_shortened(item.value)}]" if item.value else "")
        for item in rejected[:_NUM_REJECTIONS_SHOWN]
    ]
    if len(rejected) > _NUM_REJECTIONS_SHOWN:
        lines.append(f"    … and {len(rejected) - _NUM_REJECTIONS_SHOWN} more")
    raise UserError(
        f"{len(rejected)} of {total} rows ({fraction:.1%}) were rejected; the limit is {limit:.1%}\n"
        + "\n".join(lines),
        remedy=f"mend the rows, or accept the loss with max_rejected_fraction={_rounded_up(fraction)}",
    )


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _rounded_up(fraction: float) -> float:
    return float(np.ceil(fraction * 100) / 100)
