"""Loaders over the parts of a record table, for Lightning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from crystalfm.data.batches import RecordDataset, finished_batch
from crystalfm.data.sampler import EvalBatchSampler, ResumableBatchSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from crystalfm.data.batches import Batch
    from crystalfm.data.features import FeatureStore
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits

    Collate = Callable[[list[Any]], Any]

_log = logging.getLogger(__name__)


class RecordDataModule(LightningDataModule):
    """Loaders over the splits of a record table.

    ``train_sampler`` holds the position in the training data: the loader's order follows its epoch and
    ``start_batch``, and no global random state is drawn from. Use it with
    ``Trainer(use_distributed_sampler=False)``: the samplers share rows among ranks themselves.

    Args:
        table: records.
        splits: rows of each part.
        stores: features of each modality for every row of ``table``.
        batch_size: training rows a batch and rank.
        eval_batch_size: rows a batch in validation, test and prediction.
        seed: seed of the training order.
        num_workers: loader processes; 0 loads in the training process.
        bucket_by_length: put rows of similar length into the same batch.
        batch_budget: largest cost of a batch, see ``FeatureStore.costs``, or ``None`` for no limit.
    """

    def __init__(
        self,
        *,
        table: RecordTable,
        splits: Splits,
        stores: Mapping[str, FeatureStore],
        batch_size: int = 128,
        eval_batch_size: int = 512,
        seed: int = 42,
        num_workers: int = 0,
        bucket_by_length: bool = True,
        batch_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.table = table
        self.splits = splits
        self.dataset = RecordDataset(table.targets, stores)
        self.predict_rows: NDArray[np.int64] = np.arange(len(table), dtype=np.int64)
        self._eval_batch_size = eval_batch_size
        self._num_workers = num_workers
        self._seed = seed
        self._lengths = row_lengths(stores) if bucket_by_length else None
        self._costs = row_costs(stores)
        self._budget = batch_budget
        self._warn_of_large_rows()
        self.train_sampler = ResumableBatchSampler(
            splits.train,
            batch_size=batch_size,
            seed=seed,
            lengths=self._lengths_of(splits.train),
            costs=None if self._costs is None else self._costs[splits.train],
            budget=batch_budget,
            num_variants=self.dataset.num_variants,
            num_table_rows=len(table),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the training split; its order is ``train_sampler``'s."""
        self.train_sampler.shard(*self._world())
        self.train_sampler.reshuffle = not getattr(self.trainer, "overfit_batches", 0)
        return self._loader(self.train_sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the validation split, every row once."""
        return self.loader(self.splits.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the test split, every row once."""
        return self.loader(self.splits.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of ``predict_rows`` (all rows unless set otherwise), every row once."""
        return self.loader(self.predict_rows)

    def loader(self, rows: NDArray[np.int64]) -> DataLoader[Batch]:
        """Return a loader that gives each of ``rows`` once, shared among ranks; see the batch key ``row``.

        Where there are fewer rows than ranks, every rank gets all of them.
        """
        num_replicas, rank = self._world()
        if len(rows) < num_replicas:
            # A rank without rows would skip the pass and leave the others waiting for its sums. When all have all rows,
            # means are the same, and predictions are told apart by row.
            num_replicas, rank = 1, 0
        return self._loader(
            EvalBatchSampler(
                rows,
                batch_size=self._eval_batch_size,
                lengths=self._lengths_of(rows),
                costs=None if self._costs is None else self._costs[rows],
                budget=self._budget,
                num_replicas=num_replicas,
                rank=rank,
            )
        )

    def _loader(self, sampler: ResumableBatchSampler | EvalBatchSampler) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=cast("Collate", finished_batch),
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            # Every iterator draws a base seed; from the global generator it would shift dropout on resume.
            generator=torch.Generator().manual_seed(self._seed),
        )

    def _world(self) -> tuple[int, int]:
        """Return (number of ranks, this rank)."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _warn_of_large_rows(self) -> None:
        if self._costs is None or self._budget is None:
            return
        num_large = int((self._costs > self._budget).sum())
        if num_large:
            _log.warning(
                "%d of %d rows cost more than data.batch_budget=%d, up to %d: each has a batch of its own",
                num_large, len(self._costs), self._budget, self._costs.max(),
            )  # fmt: skip

    def _lengths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        return None if self._lengths is None else self._lengths[rows]


def row_costs(stores: Mapping[str, FeatureStore]) -> NDArray[np.int64] | None:
    """Return what each row costs over all modalities that have a cost (N,), or ``None`` without any."""
    costs = [store.costs for store in stores.values()]
    counted = [cost for cost in costs if cost is not None]
    return np.sum(counted, axis=0, dtype=np.int64) if counted else None


def row_lengths(stores: Mapping[str, FeatureStore]) -> NDArray[np.int64] | None:
    """Return the tokens of each row over all modalities (N,), or ``None`` when all rows cost the same."""
    lengths = [store.lengths for store in stores.values()]
    counted = [length for length in lengths if length is not None]
    return np.sum(counted, axis=0, dtype=np.int64) if counted else None
