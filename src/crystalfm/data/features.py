"""Feature stores: per-row features of one modality, gathered a batch at a time without a loop over rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crystalfm.contracts import batch_key

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FeatureStore(ABC):
    """Features of one modality for every row of a table.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool, false where the row lacks the modality.
    """

    def __init__(self, modality: str, present: NDArray[np.bool_]) -> None:
        self.modality = modality
        self.present = present

    def __len__(self) -> int:
        return len(self.present)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Cost of each row in tokens (N,), or ``None`` when all rows cost the same."""
        return None

    @abstractmethod
    def gather(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the features of ``rows`` under registered batch keys, without ``{m}.present``."""

    def batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return ``gather(rows)`` and ``{m}.present``."""
        features = self.gather(rows)
        features[batch_key(self.modality, "present")] = torch.from_numpy(self.present[rows])
        return features


class VectorStore(FeatureStore):
    """Dense rows of any array-like, a memory map included; only the rows asked for are read.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool.
        vectors: (K, D) array; float for ``embedding``, packed uint8 for ``bits``.
        index: (N,) row of ``vectors`` for each row of the table (anything valid where absent).
        kind: ``"embedding"`` or ``"bits"``.
    """

    def __init__(
        self,
        modality: str,
        present: NDArray[np.bool_],
        vectors: NDArray[np.generic],
        index: NDArray[np.int64],
        kind: str,
    ) -> None:
        super().__init__(modality, present)
        self._vectors = vectors
        self._index = index
        self._key = batch_key(modality, kind)

    def gather(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Read the vectors of ``rows``: (B, D), zeros where the modality is absent."""
        present = self.present[rows]
        block = np.zeros((len(rows), self._vectors.shape[1]), dtype=self._vectors.dtype)
        block[present] = self._vectors[self._index[rows[present]]]
        return {self._key: torch.from_numpy(block)}


class TokenStore(FeatureStore):
    """Token ids of every row in one flat array.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool.
        tokens: (sum of lengths,) token ids, rows one after another.
        offsets: (N + 1,) start of each row in ``tokens``.
        pad_token_id: id that fills a batch on the right.
    """

    def __init__(
        self,
        modality: str,
        present: NDArray[np.bool_],
        tokens: NDArray[np.integer],
        offsets: NDArray[np.int64],
        pad_token_id: int = 0,
    ) -> None:
        super().__init__(modality, present)
        self._tokens = tokens
        self._offsets = offsets
        self._pad_token_id = pad_token_id

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each row (N,)."""
        return np.diff(self._offsets)

    def gather(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return ``tokens`` (B, L) and ``mask`` (B, L), padded to the longest row of the batch (L >= 1)."""
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        width = max(int(lengths.max(initial=1)), 1)
        columns = np.arange(width)
        mask = columns < lengths[:, None]
        tokens = np.full((len(rows), width), self._pad_token_id, dtype=np.int64)
        tokens[mask] = self._tokens[(starts[:, None] + columns)[mask]]
        return {
            batch_key(self.modality, "tokens"): torch.from_numpy(tokens),
            batch_key(self.modality, "mask"): torch.from_numpy(mask),
        }
