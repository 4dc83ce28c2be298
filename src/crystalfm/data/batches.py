"""Rows of a table to finished batches; free of Lightning, so that loader workers start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.data.features import FeatureStore

Batch = dict[str, Tensor]
"""Tensors of one batch under the keys of ``contracts.BATCH_KEYS``."""


class RecordDataset(Dataset[Batch]):
    """Rows of a table as finished batches: torch's loader hands all rows of a batch over at once.

    Targets become float32. That is exact to 3e-5 Hartree for the total energies of the largest QM9 molecules
    (chemical accuracy is 1.6e-3) and to 1e-8 for orbital energies; centring comes later, in the model.

    Args:
        targets: (N, T) float64 in physical units, NaN where unknown.
        stores: features of each modality, N rows each.
    """

    def __init__(self, targets: NDArray[np.float64], stores: Mapping[str, FeatureStore]) -> None:
        wrong = {name: len(store) for name, store in stores.items() if len(store) != len(targets)}
        if wrong:
            raise ValueError(f"{len(targets)} rows of targets, but features for {wrong}")
        known = ~np.isnan(targets)
        self._targets = np.where(known, targets, 0.0).astype(np.float32)
        self._target_mask = known
        self._stores = dict(stores)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def num_variants(self) -> int:
        """Largest number of ways in which a modality can write a row; see ``FeatureStore.num_variants``."""
        return max((store.num_variants for store in self._stores.values()), default=1)

    def __getitem__(self, row: int) -> Batch:
        """Return a batch of one row."""
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return the batch of ``rows``: row, targets, target_mask and the features of every modality.

        A number ``row + N * variant`` asks for a variant of a row.
        """
        variants, index = np.divmod(np.asarray(rows, dtype=np.int64), len(self))
        batch = {
            "row": torch.from_numpy(index),
            "targets": torch.from_numpy(self._targets[index]),
            "target_mask": torch.from_numpy(self._target_mask[index]),
        }
        for store in self._stores.values():
            batch.update(store.batch(index, variants))
        return batch


def finished_batch(batch: Batch) -> Batch:
    """Return the batch as it is: the data set has collated it (a function, so that workers can pickle it)."""
    return batch
