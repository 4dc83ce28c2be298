"""Models that are fitted once on a matrix of features, without gradients; and how that matrix is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from crystalfm.contracts import TargetSpec, UserError, batch_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.data.features import FeatureStore

TOKEN_COLUMNS = 2048
"""Width of the count vector of a tokenised modality; half for tokens, half for pairs of neighbours."""

_ROWS_PER_CHUNK = 4096
_PAIR_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hash


@dataclass(frozen=True)
class ClassicalFeatures:
    """What a classical model is fitted on.

    Attributes:
        train_x: (N, C) features of the training rows.
        train_y: (N, T) targets in physical units, NaN where missing.
        val_x: (M, C) features of the validation rows.
        val_y: (M, T) their targets.
    """

    train_x: NDArray[np.generic]
    train_y: NDArray[np.float64]
    val_x: NDArray[np.generic]
    val_y: NDArray[np.float64]


class ClassicalModel(ABC):
    """A regressor of a matrix of features.

    Args:
        targets: quantities to predict, in the order of the target columns.

    Raises:
        UserError: no target.
    """

    FILE_SUFFIX: ClassVar[str] = ""
    """How files of the library's own format end; the tensors of ``state`` are such files, one for each target."""

    def __init__(self, *, targets: Sequence[TargetSpec]) -> None:
        if not targets:
            raise UserError("a model needs at least one target", remedy="set data.targets")
        self.targets = tuple(targets)

    @abstractmethod
    def fit(self, features: ClassicalFeatures, seed: int) -> None:
        """Learn from the training rows; choices are made on the validation rows.

        Args:
            features: matrices of both splits.
            seed: the same seed gives the same model.

        Raises:
            UserError: a target has no known value, or what the settings need is not there.
        """

    @abstractmethod
    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return predictions (N, T) in physical units for features (N, C)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return plain tensors and containers from which ``load_state`` restores the fitted model."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``fit`` learned."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, targets: Sequence[TargetSpec]) -> Self:
        """Return a fitted model from what ``state`` returned, with default settings."""
        model = cls(targets=targets)
        model.load_state(state)
        return model

    def search_table(self) -> list[dict[str, float | int | str]]:
        """Return the trials of a hyper-parameter search, one row each; empty without a search."""
        return []


def known_targets(targets: NDArray[np.float64], spec: TargetSpec, column: int) -> NDArray[np.bool_]:
    """Return which rows (N,) know a target.

    Raises:
        UserError: none does.
    """
    known: NDArray[np.bool_] = np.isfinite(targets[:, column])
    if not known.any():
        raise UserError(
            f"target '{spec.name}' has no known value in the {len(known)} training rows",
            remedy="choose other targets, or a split whose training part knows them",
        )
    return known


def gather_dense(stores: Mapping[str, FeatureStore], rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Lay the features of several modalities side by side.

    * ``bits`` become 0/1 columns (an absent fingerprint has no bit set);
    * ``embedding`` is taken as it is (absent: NaN, which trees treat as missing);
    * ``tokens`` become hashed counts of tokens and of pairs of neighbours, see `token_counts`.

    Args:
        stores: feature store of each modality, in the order of the columns.
        rows: rows of the table.

    Returns:
        (N, C); uint8 when every modality is bits or counts, else float32.
    """
    if not stores:
        raise UserError("the model needs at least one modality", remedy="set modalities=[fingerprint]")
    samples = [_dense_block(store, rows[:1]) for store in stores.values()]
    widths = [sample.shape[1] for sample in samples]
    dtype = np.uint8 if all(sample.dtype == np.uint8 for sample in samples) else np.float32
    matrix = np.empty((len(rows), sum(widths)), dtype=dtype)
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        chunk = rows[start : start + _ROWS_PER_CHUNK]
        column = 0
        for store, width in zip(stores.values(), widths, strict=True):
            matrix[start : start + len(chunk), column : column + width] = _dense_block(store, chunk)
            column += width
    return matrix


def _dense_block(store: FeatureStore, rows: NDArray[np.int64]) -> NDArray[np.generic]:
    batch: dict[str, Tensor] = store.batch(rows)
    bits = batch.get(batch_key(store.modality, "bits"))
    if bits is not None:
        return np.unpackbits(bits.numpy(), axis=1)
    embedding = batch.get(batch_key(store.modality, "embedding"))
    if embedding is not None:
        vectors = embedding.numpy().astype(np.float32)
        vectors[~batch[batch_key(store.modality, "present")].numpy()] = np.nan
        return vectors
    tokens = batch[batch_key(store.modality, "tokens")].numpy()
    return token_counts(tokens, batch[batch_key(store.modality, "mask")].numpy())


def token_counts(tokens: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Count tokens and ordered pairs of neighbours, each hashed into half of the columns.

    Token ids below half the columns have a column of their own; larger ids, and pairs, share columns by
    chance (the hashing trick, Weinberger et al. 2009). Counts stop at 255.

    Args:
        tokens: (B, L) token ids.
        mask: (B, L) bool, true on real tokens.

    Returns:
        (B, ``TOKEN_COLUMNS``) counts.
    """
    half = TOKEN_COLUMNS // 2
    ids = tokens.astype(np.uint64)
    pairs = (ids[:, :-1] * _PAIR_MULTIPLIER + ids[:, 1:]) * _PAIR_MULTIPLIER
    shift = np.uint64(64 - (half.bit_length() - 1))
    columns = np.concatenate([ids % np.uint64(half), (pairs >> shift) + np.uint64(half)], axis=1)
    real = np.concatenate([mask, mask[:, :-1] & mask[:, 1:]], axis=1)
    cells = columns.astype(np.int64) + np.arange(len(tokens))[:, None] * TOKEN_COLUMNS
    counts = np.bincount(cells[real], minlength=len(tokens) * TOKEN_COLUMNS)
    return np.minimum(counts, 255).astype(np.uint8).reshape(len(tokens), TOKEN_COLUMNS)
