"""The composition encoder: element fractions and statistics of elemental properties, and a small trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from crystalfm.chem.compositions import (
    ELEMENT_PROPERTIES,
    NUM_FEATURES,
    composition_features,
    element_fractions,
    element_table,
)
from crystalfm.contracts import UserError, batch_key
from crystalfm.data.features import VectorStore
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import EncoderNetwork
from crystalfm.encoders.settings import check_at_least, check_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

ENCODER_VERSION = 1
"""Raised when the same crystal would get another vector from the same table of elements."""

_LIMIT = 5.0
"""Standardised values beyond are cut: an element of one training row in a thousand would otherwise reach 30."""


class CompositionNetwork(EncoderNetwork):
    """A linear layer and a SiLU on the vector of a composition, with dropout before.

    Args:
        modality: modality whose batch keys it reads.
        num_features: length of the vector.
        width: length D of what it returns; 0 for the vector itself.
        dropout: dropout on the vector.
    """

    def __init__(self, modality: str, num_features: int, width: int, dropout: float) -> None:
        super().__init__(modality, width or num_features)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_features, width) if width else None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``{modality}.embedding`` (B, F)."""
        vectors = batch[batch_key(self.modality, "embedding")].to(torch.get_default_dtype())
        dropped: Tensor = self.dropout(vectors)
        return dropped if self.linear is None else functional.silu(self.linear(dropped))


class CompositionEncoder(ModalityEncoder):
    """A crystal's composition as a vector (see ``chem.compositions``), mapped by a small trained network.

    The vector is standardised by mean and spread over the training rows and cut at five spreads. A column without
    spread there, such as the fraction of an element that no training row has, is 0 for every row: nothing can be
    learned of it, and untrained weights should not speak. The vector knows nothing of the structure: it is equal for a
    supercell, for atoms in another order, and for polymorphs.

    Args:
        modality: modality it serves (runtime).
        width: length D of the vectors; 0 hands the standardised vector on as it is.
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
        self._table: NDArray[np.float64] | None = None
        self._mean = np.zeros(NUM_FEATURES)
        self._scale = np.zeros(NUM_FEATURES)
        self._report = EncoderReport(modality, "composition", frozen=False, width=width or NUM_FEATURES)
        self._report.notes.append(f"{NUM_FEATURES} numbers a composition, {len(ELEMENT_PROPERTIES)} properties")

    def fit(self, values: Sequence[str | None]) -> None:
        """Learn mean and spread of every column over the training rows that have a crystal.

        Raises:
            CrystalError: a value is not a crystal.
        """
        self._table = element_table()
        raw = self._raw([value for value in values if value is not None])
        if not len(raw):
            return
        self._mean = raw.mean(axis=0)
        spread = raw.std(axis=0)
        # A constant column leaves rounding noise as its spread.
        varies = spread > 1e-9 * np.maximum(np.abs(self._mean), 1.0)
        self._scale = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)

    def prepare(self, values: Sequence[str | None]) -> VectorStore:
        """Return the standardised vector of every row.

        Raises:
            CrystalError: a value is not a crystal.
        """
        present = np.array([value is not None for value in values], dtype=bool)
        raw = self._raw([value for value in values if value is not None])
        vectors = ((raw - self._mean) * self._scale).clip(-_LIMIT, _LIMIT).astype(np.float32)
        index = np.cumsum(present) - present
        return VectorStore(self.modality, present, vectors, index.astype(np.int64), "embedding")

    def _raw(self, structures: Sequence[str]) -> NDArray[np.float64]:
        if self._table is None:
            self._table = element_table()
        return composition_features(element_fractions(structures), self._table)

    def build_network(self) -> EncoderNetwork:
        """Return the network, untrained."""
        return CompositionNetwork(self.modality, NUM_FEATURES, self._width, self._dropout)

    def state(self) -> dict[str, Any]:
        """Return the scaling and the table of elements, so that another release of pymatgen changes nothing."""
        table = element_table() if self._table is None else self._table
        return {
            "version": ENCODER_VERSION,
            "properties": list(ELEMENT_PROPERTIES),
            "table": torch.from_numpy(table.copy()),
            "mean": torch.from_numpy(self._mean.copy()),
            "scale": torch.from_numpy(self._scale.copy()),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore scaling and table.

        Raises:
            UserError: the vector's columns meant something else in training.
        """
        if state["version"] != ENCODER_VERSION or list(state["properties"]) != list(ELEMENT_PROPERTIES):
            raise UserError(
                f"the checkpoint's {self.modality} is version {state['version']} of the vector, here it is "
                f"{ENCODER_VERSION}",
                remedy="use the release that made the checkpoint",
            )
        self._table = state["table"].cpu().numpy()
        self._mean = state["mean"].cpu().numpy()
        self._scale = state["scale"].cpu().numpy()

    def report(self) -> EncoderReport:
        """Describe the encoder."""
        return self._report
