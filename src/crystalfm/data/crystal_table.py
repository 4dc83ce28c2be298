"""What the data sets of crystals share: parsing with reasons, targets that may be missing, copies kept together."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib import metadata
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import CrystalError, group_key
from crystalfm.contracts import SPLITS, DataSpec, TargetSpec, UserError
from crystalfm.data.parsed_cache import cached_table
from crystalfm.data.records import RecordTable, Rejection, group_numbers
from crystalfm.data.splits import Splits, make_splits
from crystalfm.data.table import is_missing_number
from crystalfm.io.files import sha256_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from crystalfm.assets.store import AssetStore, FetchedAsset
    from crystalfm.chem.crystals import Crystal
    from crystalfm.data.dataset import Dataset

_LOG = logging.getLogger(__name__)

READER_VERSION = 1
"""Part of the key of every parsed table of crystals: raise it when reading changes."""

_NUM_SHOWN = 5
_TARGET = "target:"
"""Prefix of the target columns, which a source may call ``id`` or ``part`` as well."""


@dataclass(frozen=True)
class RawCrystal:
    """One row of a source.

    Attributes:
        id: identifier in the source.
        source: what the data set's reader makes a crystal of.
        targets: target values as they stand there, by name; what is absent is missing.
        part: part of the official split, empty where the source has none.
    """

    id: str
    source: Any
    targets: Mapping[str, object]
    part: str = ""


def crystal_table(
    store: AssetStore | None,
    content: str,
    title: str,
    names: Sequence[str],
    rows: Callable[[], Iterable[RawCrystal]],
    read: Callable[[Any], Crystal],
) -> pa.Table:
    """Return the parsed rows, from the cache where they have been read before.

    Args:
        store: holds the cache; without one nothing is cached.
        content: digest of the source's content.
        title: name of the data set in the log.
        names: targets to read.
        rows: the source, opened when it is needed.
        read: makes a crystal of a row's source, or raises ``CrystalError``.

    Returns:
        an Arrow table: id, part, structure (JSON), key (see ``crystals.group_key``), reason and value (null where
        accepted), unreadable (targets that are no number), and the targets.

    Raises:
        UserError: an id occurs twice, or the source cannot be read.
    """
    if store is None:
        return parse_crystals(rows(), names, read, title)
    versions = {name: metadata.version(name) for name in ("pymatgen", "ase") if _is_installed(name)}
    parts = {"crystals": title, "raw": content, "reader": READER_VERSION, "targets": list(names)} | versions
    return cached_table(
        Path(store.cache), sha256_json(parts), title, lambda: parse_crystals(rows(), names, read, title)
    )


def parse_crystals(
    rows: Iterable[RawCrystal],
    names: Sequence[str],
    read: Callable[[Any], Crystal],
    title: str,
    key_of: Callable[[Crystal], str | None] = group_key,
) -> pa.Table:
    """Read every row; see ``crystal_table``. ``key_of`` returns equal keys for copies of a crystal."""
    import pyarrow as pa

    texts: dict[str, list[str | None]] = defaultdict(list)
    numbers: dict[str, list[float]] = {name: [] for name in names}
    for row in rows:
        texts["id"].append(row.id)
        texts["part"].append(row.part)
        structure = key = reason = value = None
        try:
            crystal = read(row.source)
            structure, key = crystal.to_json(), key_of(crystal)
        except CrystalError as error:
            reason, value = error.reason, error.value
        unreadable = []
        for name, column in numbers.items():
            number = number_of(row.targets.get(name))
            unreadable += [name] if number is None else []
            column.append(np.nan if number is None else number)
        cells = (structure, key, reason, value, "\n".join(unreadable))
        for name, cell in zip(("structure", "key", "reason", "value", "unreadable"), cells, strict=True):
            texts[name].append(cell)
    if not texts:
        raise UserError(f"{title}: no rows", remedy="the source holds a header and nothing else")
    _require_unique([str(name) for name in texts["id"]], title)
    arrays = {name: pa.array(column, pa.string()) for name, column in texts.items()}
    return pa.table(arrays | {_TARGET + name: pa.array(column) for name, column in numbers.items()})


def number_of(value: object) -> float | None:
    """Return a target's number: NaN where it is missing (``na``, empty, null), ``None`` where it is no number."""
    if value is None or (isinstance(value, str) and is_missing_number(value.strip())):
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) or isnan(number) else None


def official_parts(parsed: pa.Table) -> NDArray[np.str_] | None:
    """Return (N,) official part of each parsed row, or ``None`` where the source has none."""
    parts = np.array(parsed["part"].to_pylist(), dtype=np.str_)
    return parts if np.isin(parts, SPLITS).any() else None


def crystal_records(
    parsed: pa.Table,
    dataset: Dataset,
    specs: tuple[TargetSpec, ...],
    parts: NDArray[np.str_] | None,
    *,
    may_be_empty: bool = False,
) -> RecordTable:
    """Turn parsed rows into records with the chosen targets.

    Rows without any of the chosen targets are left out, which the log says: most quantities are known for a part of
    a release only. ``limit`` draws among the others.

    Args:
        parsed: table of ``crystal_table``.
        dataset: the data set's settings.
        specs: chosen targets.
        parts: (N,) part of a prescribed split of each row (rows with another word are left out), or ``None`` where
            the split is drawn. Then copies of a crystal form a group, which no drawn split separates; in a
            prescribed split rows stand alone, since its authors decided.
        may_be_empty: whether all rows may be rejected.

    Raises:
        UserError: no row has a target, or all were rejected.
    """
    spec = dataset.spec()
    targets = np.stack([parsed[_TARGET + target.name].to_numpy() for target in specs], axis=1).astype(np.float64)
    rows = _usable_rows(parsed, targets, specs, spec.name)
    if parts is not None:
        rows = _named_rows(rows, parts, spec.name)
    rows = rows[dataset.subset(len(rows), None if parts is None else parts[rows])]
    columns = {name: parsed[name].to_pylist() for name in ("id", "structure", "key", "reason", "value")}
    wrong = _wrong_targets(parsed, specs)
    reasons = {
        row: columns["reason"][row] or (f"target '{wrong[row][0]}' is not a number" if wrong[row] else None)
        for row in rows.tolist()
    }
    rejected = [
        Rejection(columns["id"][row], reason, columns["value"][row] or "")
        for row, reason in reasons.items()
        if reason is not None
    ]
    kept = [row for row, reason in reasons.items() if reason is None]
    if not kept and not may_be_empty:
        first = rejected[0]
        raise UserError(f"all {len(rejected)} crystals of '{spec.name}' were rejected; {first.id}: {first.reason}")
    whole = RecordTable(
        spec=spec,
        ids=np.array(columns["id"], dtype=np.str_),
        fields={"structure": columns["structure"]},
        targets=targets,
        target_specs=specs,
        groups=group_numbers(columns["key"] if parts is None else [None] * len(targets)),
        rejected=rejected,
        parts=parts,
    )
    if parts is not None:
        _say_copies(columns["key"], parts, kept, spec.name)
    return whole.select(kept)


def _usable_rows(
    parsed: pa.Table, targets: NDArray[np.float64], specs: Sequence[TargetSpec], name: str
) -> NDArray[np.int64]:
    """Return the rows that have one of the targets at least, or something unreadable in its place."""
    usable = ~np.isnan(targets).all(axis=1) | np.array([bool(names) for names in _wrong_targets(parsed, specs)])
    names = ", ".join(target.name for target in specs)
    if not usable.any():
        raise UserError(f"data set '{name}': none of its {len(usable)} crystals has a value of {names}")
    if not usable.all():
        _LOG.info("%s: %d of %d crystals have a value of %s", name, usable.sum(), len(usable), names)
    return np.flatnonzero(usable).astype(np.int64)


def _named_rows(rows: NDArray[np.int64], parts: NDArray[np.str_], name: str) -> NDArray[np.int64]:
    """Return the rows that are in a part of a prescribed split."""
    named = rows[np.isin(parts[rows], SPLITS)]
    if not len(named):
        raise UserError(f"data set '{name}': the prescribed split names none of the {len(rows)} crystals with targets")
    if len(named) < len(rows):
        _LOG.info("%s: %d crystals are in no part of the prescribed split", name, len(rows) - len(named))
    return named


def _wrong_targets(parsed: pa.Table, specs: Sequence[TargetSpec]) -> list[list[str]]:
    """Return for each row the chosen targets that are no number."""
    chosen = {target.name for target in specs}
    return [sorted(chosen & set(names.split("\n"))) for names in parsed["unreadable"].to_pylist()]


def extended_splits(table: RecordTable, *, val_fraction: float, seed: int) -> Splits:
    """Return the official test part; the validation part is divided, so that ``val_fraction`` of it validates.

    Raises:
        UserError: the table has no official parts, or nothing is left to train on.
    """
    if table.parts is None:
        raise UserError(f"the data set '{table.spec.name}' has no official split", remedy="data.split=random")
    rows = {name: np.flatnonzero(table.parts == name).astype(np.int64) for name in SPLITS}
    drawn = make_splits(table.select(rows["val"]), test_fraction=0.0, val_fraction=val_fraction, seed=seed)
    train = np.sort(np.concatenate([rows["train"], rows["val"][drawn.train]]))
    return Splits(train=train, val=rows["val"][drawn.val], test=rows["test"])


def first_at_hand(store: AssetStore, names: Sequence[str]) -> FetchedAsset:
    """Return the first of several assets that is at hand without network, else fetch the first.

    Args:
        store: the asset store.
        names: the whole release first, then what may stand in for it; a stand-in is named in the log.
    """
    for name in names:
        if store.is_cached(name):
            if name != names[0]:
                _LOG.warning("%s is not at hand; in its place: %s", names[0], store.asset(name).title)
            return store.fetch(name)
    return store.fetch(names[0])


def target_specs(table: Mapping[str, tuple[str, str]]) -> tuple[TargetSpec, ...]:
    """Return target specifications from (unit, description) by name."""
    return tuple(TargetSpec(name, unit, description) for name, (unit, description) in table.items())


def crystal_spec(
    name: str, targets: tuple[TargetSpec, ...], default: tuple[str, ...], licence: str, citation: str
) -> DataSpec:
    """Return the specification of a data set whose only raw field is the structure."""
    return DataSpec(
        name=name,
        fields=("structure",),
        targets=targets,
        default_targets=default,
        licence=licence,
        citation=citation,
    )


def _say_copies(keys: Sequence[str | None], parts: NDArray[np.str_], rows: Sequence[int], name: str) -> None:
    """Say how many training crystals a prescribed split has in another part as well."""
    elsewhere = {keys[row] for row in rows if parts[row] != "train"}
    copies = sum(parts[row] == "train" and keys[row] in elsewhere for row in rows)
    if copies:
        _LOG.warning(
            "%s: %d training crystals have a copy in validation or test; the split is kept as published "
            "(data.split=random keeps copies together)",
            name,
            copies,
        )


def _require_unique(ids: Sequence[str], title: str) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repeated[:_NUM_SHOWN]) + (", …" if len(repeated) > _NUM_SHOWN else "")
        raise UserError(f"{title}: {len(repeated)} ids occur more than once: {shown}", remedy="ids must be unique")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
