"""LLM-Fusion's network: one vector a modality, a language model over them, a mean and a linear head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from crystalfm.contracts import UserError, batch_key
from crystalfm.models.backbones import attention_mask
from crystalfm.models.settings import PositionsName, check_choice, check_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.encoders.networks import EncoderNetwork
    from crystalfm.models.backbones import FusionBackbone

_POSITION_STD = 0.02  # as GPT-2 initialises its embeddings


def sinusoidal_positions(num_positions: int, width: int) -> Tensor:
    """Return the fixed position vectors of Vaswani et al. 2017, section 3.5: (num_positions, width)."""
    position = torch.arange(num_positions, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(num_positions, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: width // 2])
    return table


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of ``hidden`` (B, M, D) where ``mask`` (B, M) is true; 0 where it never is."""
    weight = mask.to(hidden.dtype)
    # where, not a product: what lies under the mask may be anything, infinities included.
    kept = torch.where(mask[:, :, None], hidden, hidden.new_zeros(()))
    return kept.sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)


def drop_modalities(present: Tensor, rate: float) -> Tensor:
    """Hide present modalities at random, but never the last one of a row.

    Args:
        present: (B, M) bool.
        rate: probability of hiding each present modality.

    Returns:
        (B, M) bool, true at a subset of ``present``; where chance would hide all, the draw that was nearest
        to staying stays.
    """
    draw = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
    keep = draw >= rate
    last = torch.zeros_like(present).scatter_(1, draw.argmax(dim=1, keepdim=True), value=True)
    return (keep | last) & present


class FusionNetwork(nn.Module):
    """Encoders → projections + modality positions → language model → mean over modalities → linear head.

    Follows LLM-Fusion (arXiv 2503.01022, section 3): a linear projection only where an encoder's width is
    not the language model's, positions that tell the modalities apart, the mean over the last hidden states
    and one head for all targets. A row takes part with the modalities it has: absent ones are neither
    attended to nor averaged, so what their tensors hold has no influence.

    Args:
        encoders: network of each modality, in the order of the sequence.
        llm: language model over the modality vectors.
        num_targets: number T of outputs.
        positions: ``learned`` or ``sinusoidal`` vectors added to each modality, or ``none``.
        dropout: dropout on the vectors entering the language model and on the mean before the head.
        modality_dropout: probability of hiding a present modality in training.
        normalize_inputs: layer norm on each encoder's vector, so that encoders of different scales start
            equal (not in the paper).

    Raises:
        UserError: no encoder, or a setting out of range.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, EncoderNetwork],
        llm: FusionBackbone,
        num_targets: int,
        positions: PositionsName = "learned",
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
        normalize_inputs: bool = True,
    ) -> None:
        super().__init__()
        if not encoders:
            raise UserError("LLM-Fusion needs at least one modality", remedy="set modalities=[smiles,...]")
        check_choice("model.positions", positions, get_args(PositionsName))
        check_range("model.dropout", dropout, low=0, high=1, high_open=True)
        check_range("model.modality_dropout", modality_dropout, low=0, high=1, high_open=True)
        self.modalities = tuple(encoders)
        self.modality_dropout = modality_dropout
        self.encoders = nn.ModuleDict(encoders)
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(e.width) if normalize_inputs else nn.Identity() for name, e in encoders.items()}
        )
        self.projections = nn.ModuleDict(
            {
                name: nn.Linear(e.width, llm.width) if e.width != llm.width else nn.Identity()
                for name, e in encoders.items()
            }
        )
        self.positions = self._build_positions(positions, len(encoders), llm.width)
        self.dropout = nn.Dropout(dropout)
        self.llm = llm
        self.head = nn.Linear(llm.width, num_targets)
        nn.init.zeros_(self.head.bias)  # standardised targets have mean zero

    @staticmethod
    def _build_positions(kind: PositionsName, num_modalities: int, width: int) -> nn.Embedding | None:
        if kind == "none":
            return None
        table = nn.Embedding(num_modalities, width)
        if kind == "learned":
            nn.init.normal_(table.weight, std=_POSITION_STD)
        else:
            table.weight = nn.Parameter(sinusoidal_positions(num_modalities, width), requires_grad=False)
        return table

    def present(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return which modalities each row has: (B, M) bool."""
        return torch.stack([batch[batch_key(name, "present")] for name in self.modalities], dim=1)

    def embed(self, batch: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the language model's inputs (B, M, D), zero where a modality is absent."""
        vectors = [self.projections[m](self.norms[m](self.encoders[m](batch))) for m in self.modalities]
        stacked = torch.stack(vectors, dim=1)
        if self.positions is not None:
            stacked = stacked + self.positions.weight.to(stacked.dtype)
        return torch.where(present[:, :, None], self.dropout(stacked), stacked.new_zeros(()))

    def attention(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return how the modalities look at each other.

        Returns:
            weights (B, L, M, M) of each of L layers, mean over its heads, queries along the third axis; which
            position may look at which (B, M, M) bool; which modalities each row has (B, M) bool, which is to say
            over which positions the output is averaged.
        """
        present = self.present(batch)
        weights = self.llm.attention(self.embed(batch, present), present).mean(dim=2)
        return weights, attention_mask(present, causal=self.llm.causal)[:, 0], present

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return standardised predictions (B, T); finite even for a row without any modality."""
        present = self.present(batch)
        if self.training and self.modality_dropout:
            present = drop_modalities(present, self.modality_dropout)
        hidden = self.llm(self.embed(batch, present), present)
        output: Tensor = self.head(self.dropout(masked_mean(hidden, present)))
        return output
