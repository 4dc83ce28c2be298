"""The transformer block of our own networks, and attention that is fast on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_EXPLICIT_ATTENTION_LENGTH = 192
"""Up to here attention on the CPU is spelt out; beyond, its (B, H, L, L) scores would cost too much memory."""

_MASKED_SCORE = -3e4
"""Added to scores of padding: its weight is zero, yet it is finite in half precision and for rows of padding alone."""


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores: 0 where ``allowed`` (bool, any shape), else a hiding low."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, _MASKED_SCORE)


def attention_weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Return the weights (B, H, L, L) of scaled dot-product attention, queries along the third axis.

    Args:
        query: (B, H, L, D / H).
        key: (B, H, L, D / H).
        bias: (B, 1, 1 or L, L), added to the scores.
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).to(bias.dtype) + bias
    return scores.softmax(dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Return scaled dot-product attention (B, H, L, D / H).

    For the short sequences of small molecules two batched products and a softmax beat PyTorch's fused CPU kernel:
    twice as fast in float32, six times in bfloat16 (whose fused backward pass is slow).

    Args:
        query: (B, H, L, D / H).
        key: (B, H, L, D / H).
        value: (B, H, L, D / H).
        bias: (B, 1, 1 or L, L), added to the scores.
        dropout: rate of dropout on the weights.
    """
    if query.device.type != "cpu" or query.shape[2] > _EXPLICIT_ATTENTION_LENGTH:
        # In bfloat16 the CPU's fused kernel takes a third longer than in float32.
        work = torch.float32 if query.device.type == "cpu" and query.dtype == torch.bfloat16 else query.dtype
        mixed = functional.scaled_dot_product_attention(
            query.to(work), key.to(work), value.to(work), attn_mask=bias.to(work), dropout_p=dropout
        )
        return mixed.to(value.dtype)
    weights = attention_weights(query, key, bias).to(value.dtype)
    return torch.matmul(functional.dropout(weights, dropout) if dropout else weights, value)


class TransformerBlock(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020) with one product for queries, keys and values.

    Args:
        width: width of the vectors (D).
        num_heads: attention heads; divides ``width``.
        hidden: width of the hidden layer.
        dropout: dropout in attention and on the residual branches.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_input = nn.Linear(width, hidden)
        self.mlp_output = nn.Linear(hidden, width)

    def _drop(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self.dropout, self.training) if self.dropout else values

    def _split(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, H, L, D / H) of ``hidden`` (B, L, D)."""
        rows, length, width = hidden.shape
        packed = self.query_key_value(self.attention_norm(hidden))
        packed = packed.view(rows, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        return query, key, value

    def attention(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return the attention weights (B, H, L, L) with which ``forward`` mixes; arguments as there."""
        query, key, _ = self._split(hidden)
        return attention_weights(query, key, bias)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D); ``bias`` (B, 1, 1 or L, L) is added to the attention scores."""
        rows, length, width = hidden.shape
        query, key, value = self._split(hidden)
        rate = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, bias, rate)
        mixed = mixed.transpose(1, 2).reshape(rows, length, width)
        hidden = hidden + self._drop(self.attention_output(mixed))
        return hidden + self._drop(self.mlp_output(functional.gelu(self.mlp_input(self.mlp_norm(hidden)))))
