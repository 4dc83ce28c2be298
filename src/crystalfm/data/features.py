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

    @property
    def costs(self) -> NDArray[np.int64] | None:
        """States that a network keeps for each row (N,), where rows are laid side by side; else ``None``."""
        return None

    @property
    def num_variants(self) -> int:
        """Equivalent ways in which a row can be written, of which training draws one at each access."""
        return 1

    @abstractmethod
    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return the features of ``rows`` under registered batch keys, without ``{m}.present``.

        Args:
            rows: (B,) rows of the table.
            variants: (B,) variant of each row, taken modulo ``num_variants``; variant 0 when ``None``.
        """

    def batch(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return ``gather(rows, variants)`` and ``{m}.present``."""
        features = self.gather(rows, variants)
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

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Read the vectors of ``rows``: (B, D), zeros where the modality is absent; there are no variants."""
        del variants
        present = self.present[rows]
        block = np.zeros((len(rows), self._vectors.shape[1]), dtype=self._vectors.dtype)
        block[present] = self._vectors[self._index[rows[present]]]
        return {self._key: torch.from_numpy(block)}


class TokenStore(FeatureStore):
    """Token ids of every row, and of its variants where it has some, in one flat array.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool, false where the row lacks the modality.
        tokens: (sum of lengths,) token ids, rows one after another, then the variants'.
        offsets: (N + 1,) start of each row in ``tokens``.
        pad_token_id: id that fills a batch on the right.
        variants: (starts, lengths) in ``tokens`` of K further ways to write each row, both (N, K); a row without
            variants repeats its own start and length.
    """

    def __init__(
        self,
        modality: str,
        present: NDArray[np.bool_],
        tokens: NDArray[np.integer],
        offsets: NDArray[np.int64],
        pad_token_id: int = 0,
        variants: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        super().__init__(modality, present)
        self._tokens = tokens
        starts, lengths = offsets[:-1, None], np.diff(offsets)[:, None]
        self._starts = starts if variants is None else np.hstack([starts, variants[0]])
        self._lengths = lengths if variants is None else np.hstack([lengths, variants[1]])
        self._pad_token_id = pad_token_id

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each row as it is written in the table (N,)."""
        return self._lengths[:, 0]

    @property
    def num_variants(self) -> int:
        """One more than the further ways in which a row can be written."""
        return int(self._starts.shape[1])

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return ``tokens`` (B, L) and ``mask`` (B, L), padded to the longest row of the batch (L >= 1)."""
        chosen = np.zeros(len(rows), dtype=np.int64) if variants is None else variants % self.num_variants
        starts, lengths = self._starts[rows, chosen], self._lengths[rows, chosen]
        width = max(int(lengths.max(initial=1)), 1)
        columns = np.arange(width)
        mask = columns < lengths[:, None]
        tokens = np.full((len(rows), width), self._pad_token_id, dtype=np.int64)
        tokens[mask] = self._tokens[(starts[:, None] + columns)[mask]]
        return {
            batch_key(self.modality, "tokens"): torch.from_numpy(tokens),
            batch_key(self.modality, "mask"): torch.from_numpy(mask),
        }


class GraphStore(FeatureStore):
    """Molecular graphs of every row in flat arrays, each distinct molecule once.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool, false where the row lacks the modality.
        atoms: (sum of atoms, F) uint8 features, molecules one after another.
        relations: (sum of squared atoms,) uint8, the matrix of each molecule row by row.
        num_atoms: (K,) atoms of each molecule.
        index: (N,) molecule of each row (anything valid where absent).
    """

    def __init__(
        self,
        modality: str,
        present: NDArray[np.bool_],
        *,
        atoms: NDArray[np.uint8],
        relations: NDArray[np.uint8],
        num_atoms: NDArray[np.int64],
        index: NDArray[np.int64],
    ) -> None:
        super().__init__(modality, present)
        self._atoms = atoms
        self._relations = relations
        self._num_atoms = num_atoms
        self._atom_starts = np.cumsum(num_atoms) - num_atoms
        self._relation_starts = np.cumsum(num_atoms**2) - num_atoms**2
        self._index = index

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of atoms of each row (N,); 0 where the modality is absent."""
        return self._sizes(np.arange(len(self)))

    def _sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        sizes = np.zeros(len(rows), dtype=np.int64)
        present = self.present[rows]
        sizes[present] = self._num_atoms[self._index[rows[present]]]
        return sizes

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return ``atoms`` (B, N, F), ``relations`` (B, N, N) and ``mask`` (B, N), padded to the largest (N >= 1)."""
        del variants
        sizes = self._sizes(rows)
        width = max(int(sizes.max(initial=1)), 1)
        columns = np.arange(width)
        mask = columns < sizes[:, None]
        molecules = self._index[rows[sizes > 0]]
        sizes = sizes[sizes > 0]
        atoms = np.zeros((len(rows), width, self._atoms.shape[1]), dtype=np.uint8)
        atoms[mask] = self._atoms[_ranges(self._atom_starts[molecules], sizes)]
        relations = np.zeros((len(rows), width, width), dtype=np.uint8)
        pairs = mask[:, :, None] & mask[:, None, :]
        relations[pairs] = self._relations[_ranges(self._relation_starts[molecules], sizes**2)]
        return {
            batch_key(self.modality, "atoms"): torch.from_numpy(atoms),
            batch_key(self.modality, "relations"): torch.from_numpy(relations),
            batch_key(self.modality, "mask"): torch.from_numpy(mask),
        }


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``starts[0], starts[0] + 1, ...``: ``lengths[0]`` numbers, then those of the next start, and so on."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return numbers
