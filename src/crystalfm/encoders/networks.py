"""Networks of encoders: features of one modality in a batch to one vector a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crystalfm.contracts import batch_key


class EncoderNetwork(nn.Module, ABC):
    """Maps a modality's batch tensors to vectors.

    Args:
        modality: modality whose batch keys it reads.
        width: length D of the vectors it returns.
    """

    def __init__(self, modality: str, width: int) -> None:
        super().__init__()
        self.modality = modality
        self.width = width

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors of shape (B, D); rows without the modality hold anything finite."""


class CachedVectors(EncoderNetwork):
    """Passes on the vectors of a frozen encoder: no parameters."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return ``{modality}.embedding`` (B, D) in the default floating type."""
        return batch[batch_key(self.modality, "embedding")].to(torch.get_default_dtype())
