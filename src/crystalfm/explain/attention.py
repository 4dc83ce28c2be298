"""Attention of a fused prediction: how much of it each modality gets, over the layers and through all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PooledAttention:
    """Attention that the pooled output of rows pays to each modality; every share sums to 1 over the modalities.

    A modality is one position of the sequence, and the model predicts from the mean over the positions of the
    modalities that a row has. So the attention of the pooled output is the mean over these positions of the weights
    with which each of them looks at the modality, averaged over the heads of a layer before.

    Even attention is not the same share for all: under a causal mask the first position can look at itself alone, the
    second at two, so that the first modality gets most of an attention that prefers nothing. ``even`` says how much.

    Attributes:
        layers: (B, L, M) share of each modality, layer by layer.
        even: (B, M) share where every position looks evenly at all it may look at.
        rollout: (B, M) share through all layers, see `rollout`.
        even_rollout: (B, M) the same of even attention.
    """

    layers: Tensor
    even: Tensor
    rollout: Tensor
    even_rollout: Tensor


def pooled_attention(weights: Tensor, allowed: Tensor, present: Tensor) -> PooledAttention:
    """Return the attention of the pooled output.

    Args:
        weights: (B, L, M, M) attention weights, mean over heads; queries along the third axis.
        allowed: (B, M, M) bool, which position may look at which; each at itself at least.
        present: (B, M) bool, positions that are pooled; one at least in each row.
    """
    even = (allowed / allowed.sum(dim=-1, keepdim=True)).to(weights.dtype)
    every_layer = even[:, None].expand_as(weights)
    return PooledAttention(
        layers=_pool(weights, present[:, None]),
        even=_pool(even, present),
        rollout=_pool(rollout(weights), present),
        even_rollout=_pool(rollout(every_layer), present),
    )


def rollout(weights: Tensor) -> Tensor:
    """Return attention through all layers (B, M, M): from what each position starts as to what it ends as.

    Attention rollout of Abnar & Zuidema 2020 (arXiv 2005.00928, section 3): a layer passes on half of what a position
    holds past its attention, by the residual connection, and half through it; layers multiply.

    Args:
        weights: (B, L, M, M) attention weights, mean over heads.
    """
    through = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device).expand_as(weights[:, 0])
    for layer in weights.unbind(dim=1):
        through = (through + layer @ through) / 2
    return through


def _pool(weights: Tensor, present: Tensor) -> Tensor:
    """Return the mean (…, M) of weights (…, M, M) over the queries that are present (…, M)."""
    share = present / present.sum(dim=-1, keepdim=True)
    return (share.to(weights.dtype)[..., None, :] @ weights)[..., 0, :]
