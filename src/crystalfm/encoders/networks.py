"""Networks of encoders: features of one modality in a batch to one vector a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from crystalfm.contracts import batch_key
from crystalfm.encoders.transformer_block import TransformerBlock, attention_bias

if TYPE_CHECKING:
    from collections.abc import Mapping

Pooling = Literal["cls", "mean"]


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


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token vectors to one vector a row.

    Args:
        hidden: (B, L, D) last hidden states.
        mask: (B, L) bool, true on real tokens; what lies elsewhere has no influence.
        pooling: ``cls`` takes the first token, ``mean`` the mean over real tokens (0 without any).

    Returns:
        (B, D).
    """
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.to(hidden.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    # As a matrix product: one pass over ``hidden``, forward and backward.
    return torch.bmm(weights[:, None, :], hidden)[:, 0]


class FingerprintNetwork(EncoderNetwork):
    """A linear layer and a ReLU on fingerprint bits (LLM-Fusion, arXiv 2503.01022, section 3).

    Args:
        modality: modality whose batch keys it reads.
        num_bits: length of the fingerprint, a multiple of eight.
        width: length D of the vectors it returns.
    """

    def __init__(self, modality: str, num_bits: int, width: int) -> None:
        super().__init__(modality, width)
        self.linear = nn.Linear(num_bits, width)
        self.register_buffer("shifts", torch.arange(7, -1, -1, dtype=torch.uint8), persistent=False)
        self.shifts: Tensor

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``{modality}.bits`` (B, num_bits / 8)."""
        packed = batch[batch_key(self.modality, "bits")]
        bits = (packed[:, :, None] >> self.shifts) & 1
        return functional.relu(self.linear(bits.flatten(1).to(self.linear.weight.dtype)))


class TokenTransformer(EncoderNetwork):
    """A small pre-norm transformer over tokens, with learned positions.

    Args:
        modality: modality whose batch keys it reads.
        vocabulary_size: number of token ids.
        width: width of the token vectors and of the result (D).
        num_layers: number of blocks.
        num_heads: attention heads; divides ``width``.
        dropout: dropout in attention and on the residual branches.
        mlp_ratio: width of a block's hidden layer over ``width``.
        max_length: longest sequence.
        pooling: how token vectors become one vector.
        unknown_token_id: id whose vector starts at zero; training never meets it.
    """

    def __init__(
        self,
        modality: str,
        *,
        vocabulary_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        mlp_ratio: float,
        max_length: int,
        pooling: Pooling,
        unknown_token_id: int,
    ) -> None:
        super().__init__(modality, width)
        self.pooling = pooling
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_length, width)
        hidden = max(round(mlp_ratio * width), 1)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, hidden, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self._initialize(num_layers)
        with torch.no_grad():
            self.tokens.weight[unknown_token_id].zero_()

    def _initialize(self, num_layers: int) -> None:
        """Initialise as GPT-2 does: small normal weights, residual branches scaled by depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            if isinstance(block, TransformerBlock):
                for layer in (block.attention_output, block.mlp_output):
                    nn.init.normal_(layer.weight, std=0.02 / (2 * num_layers) ** 0.5)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``{modality}.tokens`` (B, L) where ``{modality}.mask`` (B, L) is true."""
        tokens = batch[batch_key(self.modality, "tokens")]
        mask = batch[batch_key(self.modality, "mask")]
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        bias = attention_bias(mask[:, None, None, :], hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, bias)
        return pool(self.norm(hidden), mask, self.pooling)


class PretrainedNetwork(EncoderNetwork):
    """A transformer of the transformers library with pooled hidden states.

    Args:
        modality: modality whose batch keys it reads.
        model: module called with ``input_ids`` and ``attention_mask`` that returns ``last_hidden_state``.
        width: width of the hidden states (D).
        pooling: how token vectors become one vector.
        normalize: whether vectors are scaled to unit length.
    """

    def __init__(self, modality: str, model: nn.Module, *, width: int, pooling: Pooling, normalize: bool) -> None:
        super().__init__(modality, width)
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return vectors (B, D) of token ids (B, L) where ``mask`` (B, L) is true."""
        # A row without the modality is all padding, and a softmax over nothing would not be finite.
        seen = mask.clone()
        seen[:, 0] |= ~mask.any(dim=1)
        hidden: Tensor = self.model(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        vectors = pool(hidden, mask, self.pooling)
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``{modality}.tokens`` (B, L) where ``{modality}.mask`` (B, L) is true."""
        tokens = batch[batch_key(self.modality, "tokens")]
        return self.encode(tokens, batch[batch_key(self.modality, "mask")])
