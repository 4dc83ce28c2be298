"""What a data set is: settings in, records out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from crystalfm.contracts import DataSpec, TargetSpec, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits


class SharedSettings(TypedDict, total=False):
    """Settings that every data set takes and hands on to ``Dataset``, which describes them."""

    store: AssetStore | None
    seed: int
    limit: int | None
    split_file: str | None
    test_fraction: float
    val_fraction: float
    split_seed: int | None
    num_workers: int
    bucket_by_length: bool
    batch_budget: int | None


class Dataset(ABC):
    """Base of all data sets and the settings they share.

    A subclass lists targets and batch sizes, whose defaults differ, and its own settings among its keyword arguments,
    takes the others as ``**shared: Unpack[SharedSettings]``, and implements ``spec`` and ``load``. Splits and batches
    are made by others from the settings kept here.

    Args:
        store: where assets come from; ``None`` when only the specification is wanted.
        seed: the run's seed, which draws subset and split where ``split_seed`` is not set.
        targets: names of the targets to learn, or ``None`` for the specification's default.
        limit: use this many rows, drawn at random, or ``None`` for all.
        batch_size: training rows a batch.
        eval_batch_size: rows a batch in validation, test and prediction.
        split_file: split file of another run, or ``None`` to draw a split.
        test_fraction: part of the rows that is tested on.
        val_fraction: part of the remaining rows that is validated on.
        split_seed: seed of subset and split, or ``None`` for the run's seed.
        num_workers: loader processes.
        bucket_by_length: put rows of similar length into the same batch.
        batch_budget: most atoms, bonds and triplets of crystal graphs in a batch, or ``None`` for no limit.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None,
        batch_size: int,
        eval_batch_size: int,
        store: AssetStore | None = None,
        seed: int = 42,
        limit: int | None = None,
        split_file: str | None = None,
        test_fraction: float = 0.1,
        val_fraction: float = 0.1,
        split_seed: int | None = None,
        num_workers: int = 0,
        bucket_by_length: bool = True,
        batch_budget: int | None = None,
    ) -> None:
        at_least = {
            "limit": (limit, 1),
            "batch_size": (batch_size, 1),
            "eval_batch_size": (eval_batch_size, 1),
            "batch_budget": (batch_budget, 1),
        }
        at_least |= {"num_workers": (num_workers, 0), "split_seed": (split_seed, 0)}
        for key, (value, least) in at_least.items():
            if value is not None and value < least:
                raise UserError(f"data.{key}={value} is too small", remedy=f"it must be at least {least}")
        if targets is not None and (not targets or len(set(targets)) < len(targets)):
            problem = "names a target twice" if targets else "is empty"
            raise UserError(f"data.targets={targets} {problem}", remedy="list each target once")
        self.store = store
        self.seed = seed
        self.targets = targets
        self.limit = limit
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.split_file = split_file
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.bucket_by_length = bucket_by_length
        self.batch_budget = batch_budget

    @abstractmethod
    def spec(self) -> DataSpec:
        """Say what the data set provides, without reading its rows."""

    @abstractmethod
    def load(self) -> RecordTable:
        """Read the records.

        Raises:
            UserError: the data are missing or unreadable, or a target is unknown.
        """

    def selected_targets(self) -> tuple[TargetSpec, ...]:
        """Return the targets to learn.

        Raises:
            UserError: a name in ``targets`` is unknown.
        """
        spec = self.spec()
        return spec.select_targets(spec.default_targets if self.targets is None else self.targets)

    @property
    def drawing_seed(self) -> int:
        """Seed of subset and split."""
        return self.seed if self.split_seed is None else self.split_seed

    def splits_of(self, table: RecordTable) -> Splits | None:
        """Return the split that the source of the data prescribes, or ``None`` to draw one.

        Args:
            table: the records, as ``load`` returned them.

        Raises:
            UserError: the official split leaves no row to train on.
        """
        from crystalfm.data.splits import official_splits

        return None if table.parts is None else official_splits(table)

    def subset(self, num_rows: int, parts: NDArray[np.str_] | None = None) -> NDArray[np.int64]:
        """Return the rows that ``limit`` leaves, drawn at random, ascending.

        For the same seed a smaller limit gives a part of a larger limit's rows.

        Args:
            num_rows: rows there are.
            parts: (num_rows,) part of the official split of each row, where the subset is to hold each part in
                proportion, by at least one row.

        Raises:
            UserError: ``limit`` is smaller than the number of parts.
        """
        if self.limit is None or self.limit >= num_rows:
            return np.arange(num_rows, dtype=np.int64)
        order = np.random.default_rng([self.drawing_seed, num_rows]).permutation(num_rows)
        if parts is not None:
            order = order[np.argsort(_turns(parts[order], self.limit), kind="stable")]
        return np.sort(order[: self.limit]).astype(np.int64)


def _turns(parts: NDArray[np.str_], limit: int) -> NDArray[np.float64]:
    """Return (N,) keys; rows taken in ascending order of them keep the parts in proportion at every length.

    Sainte-Laguë's rule for seats in a parliament, whose seats are never lost when the house grows, after one row
    for each part.
    """
    names, sizes = np.unique(parts, return_counts=True)
    if limit < len(names):
        raise UserError(
            f"data.limit={limit} is too small", remedy=f"it must be at least {len(names)}, a row for each part"
        )
    keys = np.empty(len(parts))
    for name, size in zip(names, sizes, strict=True):
        rank = np.arange(size)
        keys[parts == name] = np.where(rank == 0, -1.0, (rank + 0.5) / size)
    return keys
