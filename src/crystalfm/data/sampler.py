"""Batch samplers: an order that depends on seed and epoch alone, and one that sees every row once."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from crystalfm.data.budget import BudgetPlan, batches_within, never_exceeds, split_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_BUCKET_STEPS = 50
"""Steps whose rows are sorted by length together: long enough to cut padding, short enough to stay random."""


_VARIANT_STREAM = 1
"""Keeps the random numbers that choose variants apart from those that order the rows."""


class ResumableBatchSampler(Sampler[list[int]]):
    """Shuffled batches whose order depends on (seed, epoch) alone, so that training can resume in mid-epoch.

    With ``lengths``, rows of similar length share a batch: the shuffled rows are sorted by length within
    windows of fifty steps and the steps of the epoch are shuffled again. All ranks get the same number of
    batches and, at the same step, rows of similar length. Every row comes once an epoch; only when the rows
    of the last step are fewer than the ranks are some of them repeated.

    With ``costs`` and a ``budget``, a batch may have fewer rows, so that its cost keeps within the budget, and
    ``lengths`` do not count; see ``BudgetPlan``. Where no batch could exceed the budget, nothing changes.

    ``__iter__`` is lazy: the epoch and ``start_batch`` count when the first batch is asked for, not when the
    iterator is made. A loader with workers asks while its iterator is being made.

    Args:
        rows: (N,) rows of the table to draw.
        batch_size: rows a batch and rank; the last ones of an epoch may be smaller.
        seed: seed of the order.
        lengths: (N,) length of each of ``rows``, or ``None`` for a plain shuffle.
        costs: (N,) cost of each of ``rows``, 0 or more.
        budget: largest cost of a batch; a row beyond it gets a batch of its own. ``None`` for no limit.
        num_replicas: number of ranks that share the rows.
        rank: this process's rank.
        num_variants: ways to write a row, of which each epoch draws one; see ``FeatureStore.num_variants``.
        num_table_rows: rows of the table; a batch asks for a variant by ``row + num_table_rows * variant``.
        reshuffle: false for the order of epoch 0 in every epoch (to overfit on the same batches).
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        lengths: NDArray[np.int64] | None = None,
        costs: NDArray[np.int64] | None = None,
        budget: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        num_variants: int = 1,
        num_table_rows: int = 0,
        reshuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if lengths is not None and len(lengths) != len(rows):
            raise ValueError(f"{len(lengths)} lengths for {len(rows)} rows")
        self._rows = np.asarray(rows, dtype=np.int64)
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        bounded = costs is not None and budget is not None and not never_exceeds(costs, batch_size, budget)
        self._costs = costs if bounded else None
        self._budget = budget
        self._num_replicas = num_replicas
        self._rank = rank
        self._plan = self._planned()
        self._num_variants = num_variants
        self._num_table_rows = num_table_rows
        self.reshuffle = reshuffle
        self._epoch = 0
        self._start_batch = 0

    @property
    def sampler(self) -> ResumableBatchSampler:
        """This object: at each epoch Lightning calls ``set_epoch`` on a batch sampler's ``sampler``."""
        return self

    @property
    def epoch(self) -> int:
        """Epoch whose order the next iterator follows."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; a ``start_batch`` set for another epoch is forgotten."""
        if epoch != self._epoch:
            self._start_batch = 0
        self._epoch = epoch

    @property
    def start_batch(self) -> int:
        """Batches of the current epoch that are skipped because they were seen before the interruption."""
        return self._start_batch

    @start_batch.setter
    def start_batch(self, value: int) -> None:
        if not 0 <= value <= len(self):
            raise ValueError(f"start_batch={value} is not in [0, {len(self)}]")
        self._start_batch = value

    def shard(self, num_replicas: int, rank: int) -> None:
        """Share the rows among ``num_replicas`` ranks, of which this process is ``rank``."""
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is not in [0, {num_replicas})")
        if num_replicas != self._num_replicas:
            self._num_replicas = num_replicas
            self._plan = self._planned()
        self._rank = rank

    def _planned(self) -> BudgetPlan | None:
        if self._costs is None or self._budget is None:
            return None
        return BudgetPlan.of(
            self._costs,
            batch_size=self._batch_size,
            budget=self._budget,
            num_replicas=self._num_replicas,
            seed=self._seed,
        )

    def __len__(self) -> int:
        """Batches a whole epoch has on each rank, wherever iteration starts."""
        if self._plan is not None:
            return len(self._plan.steps)
        return ceil(len(self._rows) / (self._batch_size * self._num_replicas))

    def __iter__(self) -> Iterator[list[int]]:
        steps = self._steps()
        offsets = self._variant_offsets()
        for step in steps[self._start_batch :]:
            rows = step[self._rank]
            yield (rows if offsets is None else rows + offsets[rows]).tolist()

    def _variant_offsets(self) -> NDArray[np.int64] | None:
        """Return what is added to each row of the table in this epoch to ask for one of its variants."""
        if self._num_variants == 1 or not len(self._rows):
            return None
        epoch = self._epoch if self.reshuffle else 0
        generator = np.random.default_rng([self._seed, epoch, _VARIANT_STREAM])
        variants = generator.integers(self._num_variants, size=int(self._rows.max()) + 1, dtype=np.int64)
        return variants * self._num_table_rows

    def _steps(self) -> list[list[NDArray[np.int64]]]:
        """Return the batches of all ranks for each step of the current epoch."""
        epoch = self._epoch if self.reshuffle else 0
        generator = np.random.default_rng([self._seed, epoch])
        if self._plan is not None:
            return [[self._rows[places] for places in step] for step in self._plan.draw(generator)]
        order = generator.permutation(len(self._rows))
        if self._lengths is None:
            return self._cut(order)
        window = _BUCKET_STEPS * self._batch_size * self._num_replicas
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(self._lengths[part], kind="stable")]
        steps = self._cut(order)
        return [steps[step] for step in generator.permutation(len(steps))]

    def _cut(self, order: NDArray[np.int64]) -> list[list[NDArray[np.int64]]]:
        """Cut an order into steps of ``num_replicas`` batches; the last step is shared out evenly."""
        rows = self._rows[order]
        size, ranks = self._batch_size, self._num_replicas
        num_full = len(rows) // (size * ranks)
        full = rows[: num_full * size * ranks].reshape(num_full, ranks, size)
        steps = [list(step) for step in full]
        rest = rows[num_full * size * ranks :]
        if len(rest):
            steps.append(np.array_split(np.resize(rest, max(len(rest), ranks)), ranks))
        return steps


class EvalBatchSampler(Sampler[list[int]]):
    """Every row exactly once over all ranks, in a fixed order.

    The ranks get equally many batches whenever there are at least as many rows as batches of all ranks
    together; with fewer rows some ranks get fewer, and nothing is repeated.

    Args:
        rows: (N,) rows of the table.
        batch_size: largest number of rows of a batch.
        lengths: (N,) length of each of ``rows``: sorts them, longest first, to cut padding; or ``None``.
        costs: (N,) cost of each of ``rows``: sorts them, dearest first, where ``lengths`` do not.
        budget: largest cost of a batch; a row beyond it gets a batch of its own. ``None`` for no limit.
        num_replicas: number of ranks that share the rows.
        rank: this process's rank.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        lengths: NDArray[np.int64] | None = None,
        costs: NDArray[np.int64] | None = None,
        budget: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is not in [0, {num_replicas})")
        ordered = np.asarray(rows, dtype=np.int64)
        key = costs if lengths is None and budget is not None else lengths
        if key is not None:
            places = np.argsort(-key, kind="stable")
            ordered, costs = ordered[places], None if costs is None else costs[places]
        if costs is not None and budget is not None and not never_exceeds(costs, batch_size, budget):
            batches = split_for(batches_within(ordered, costs, budget, batch_size), num_replicas)
        elif num_replicas == 1:
            batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        else:
            num_steps = ceil(len(ordered) / (batch_size * num_replicas))
            batches = np.array_split(ordered, num_steps * num_replicas) if num_steps else []
        self._batches = [batch.tolist() for batch in batches[rank::num_replicas] if len(batch)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)
