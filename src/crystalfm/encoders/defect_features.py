"""Defects as a vector of fixed length: for trees as it is, for networks standardised and through a small layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crystalfm.chem.defects.features import FEATURES_VERSION, FeatureLayout
from crystalfm.contracts import batch_key
from crystalfm.data.features import VectorStore
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.defect_states import KnownDefects, read_records
from crystalfm.encoders.networks import EncoderNetwork
from crystalfm.encoders.settings import check_at_least, check_rate, check_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_LIMIT = 5.0
"""Standardised values beyond are cut in the network: a pair of defects of one training row would else reach 14."""


class DefectVectorNetwork(EncoderNetwork):
    """Standardises the vector, then dropout, a linear layer and a SiLU.

    Args:
        modality: modality whose batch keys it reads.
        mean: (F,) of the training rows.
        scale: (F,) one over their spread, 0 in a column without one: nothing can be learned of it.
        width: length D of what it returns; 0 for the standardised vector itself.
        dropout: dropout on the vector.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, modality: str, mean: Tensor, scale: Tensor, *, width: int, dropout: float) -> None:
        super().__init__(modality, width or len(mean))
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(len(mean), width) if width else None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``{modality}.embedding`` (B, F)."""
        vectors = batch[batch_key(self.modality, "embedding")].to(self.mean.dtype)
        standardised = ((vectors - self.mean) * self.scale).clamp(-_LIMIT, _LIMIT)
        dropped: Tensor = self.dropout(standardised)
        return dropped if self.linear is None else functional.silu(self.linear(dropped))


class DefectFeatureEncoder(ModalityEncoder):
    """The defects of a layer as a vector (see ``chem.defects.features``): kinds, distances, sides, neighbours.

    Which rules and pairs of rules have columns is learned from the training rows. The vector is equal for all
    configurations that the layer's symmetry makes equivalent.

    Args:
        modality: modality it serves (runtime).
        width: length D of a network's vectors; 0 hands the standardised vector on as it is.
        dropout: dropout on the standardised vector.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(self, *, modality: str, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__(modality)
        check_at_least(modality, "width", width, 0)
        check_rate(modality, "dropout", dropout)
        self._width = width
        self._dropout = dropout
        self._known = KnownDefects()
        self._set_layout(FeatureLayout((), ()))
        self._report = EncoderReport(modality, "defect_features", frozen=False, width=width)

    def _set_layout(self, layout: FeatureLayout) -> None:
        self._layout = layout
        self._mean = np.zeros(layout.num_features)
        self._scale = np.zeros(layout.num_features)

    def fit(self, values: Sequence[str | None]) -> None:
        """Learn rules, pairs of rules, hosts, and mean and spread of every column, of the training rows."""
        records = read_records(values)
        self._known = KnownDefects.of(records)
        self._set_layout(FeatureLayout.of(records))
        if not records:
            return
        raw = np.stack([self._layout.features(record) for record in records])
        self._mean = raw.mean(axis=0)
        spread = raw.std(axis=0)
        # A constant column leaves rounding noise as its spread.
        varies = spread > 1e-9 * np.maximum(np.abs(self._mean), 1.0)
        self._scale = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)

    def prepare(self, values: Sequence[str | None]) -> VectorStore:
        """Return the vector of every row, not standardised.

        Raises:
            ValueError: a value is no record of defects.
        """
        records = read_records(values)
        rows = [self._layout.features(record) for record in records]
        vectors = np.array(rows, dtype=np.float32).reshape(len(rows), self._layout.num_features)
        present = np.array([value is not None for value in values], dtype=bool)
        index: NDArray[np.int64] = np.cumsum(present) - present
        self._note(records)
        return VectorStore(self.modality, present, vectors, index.astype(np.int64), "embedding")

    def _note(self, records: Sequence[Any]) -> None:
        self._report.width = self._width or self._layout.num_features
        notes = [f"{self._layout.num_features} numbers, {len(self._layout.rules)} rules"]
        if unknown := self._known.unknown(records):
            notes.append(f"rules that no training row has: {', '.join(unknown)}")
        self._report.notes = notes

    def build_network(self) -> EncoderNetwork:
        """Return the network, untrained."""
        return DefectVectorNetwork(
            self.modality,
            torch.from_numpy(self._mean),
            torch.from_numpy(self._scale),
            width=self._width,
            dropout=self._dropout,
        )

    def state(self) -> dict[str, Any]:
        """Return layout, scaling, and the hosts and rules of the training rows."""
        return {
            **self._layout.state(),
            "version": FEATURES_VERSION,
            "known": self._known.state(),
            "mean": torch.from_numpy(self._mean.copy()),
            "scale": torch.from_numpy(self._scale.copy()),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore them.

        Raises:
            UserError: the vector's columns meant something else in training.
        """
        check_version(self.modality, "vector", state, FEATURES_VERSION)
        self._known = KnownDefects.of_state(state["known"])
        self._set_layout(FeatureLayout.of_state(state))
        self._mean = state["mean"].cpu().numpy()
        self._scale = state["scale"].cpu().numpy()

    def report(self) -> EncoderReport:
        """Describe the encoder; complete after ``prepare``."""
        return self._report
