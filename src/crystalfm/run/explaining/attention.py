"""The attention that a saved LLM-Fusion pays to its modalities, measured on rows of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning
import numpy as np
import torch

from crystalfm.explain.attention import pooled_attention
from crystalfm.models.llm_fusion import LLMFusion
from crystalfm.report.modality_attention import ModalityAttention
from crystalfm.run.network import build_datamodule
from crystalfm.run.trainer_session import predict_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.models.fusion import FusionNetwork
    from crystalfm.run.prepare import PreparedData
    from crystalfm.run.saved import SavedPredictor


class _AttentionModule(lightning.LightningModule):
    """Gives, for the Trainer, the attention of a network in place of its predictions."""

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = network

    def predict_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``attention`` (B, L + 3, M): layers, if even, rollout, rollout if even; of rows with a modality."""
        weights, allowed, present = self.network.attention(batch)
        known = present.any(dim=1)
        found = pooled_attention(weights[known].float(), allowed[known], present[known])
        parts = [found.layers, *(part[:, None] for part in (found.even, found.rollout, found.even_rollout))]
        return {"attention": torch.cat(parts, dim=1)}


def attention_to_modalities(
    saved: SavedPredictor, prepared: PreparedData, rows: NDArray[np.int64]
) -> tuple[list[ModalityAttention], int]:
    """Return the attention of the pooled output to each modality, and the number of rows it is the mean of.

    See `crystalfm.explain.attention.PooledAttention` for what it is. Rows without any modality are left out; of an
    ensemble it is the mean over the members.

    Args:
        saved: the predictor.
        prepared: its data.
        rows: (K,) rows to measure it on.

    Returns:
        nothing and 0 for a model without attention over modalities, and where no row has a modality.
    """
    members = [module for module in saved.networks if isinstance(module, LLMFusion)]
    datamodule = build_datamodule(saved.cfg, prepared)
    found = []
    for module in members:
        outputs = predict_batches(saved.cfg, _AttentionModule(module.network), datamodule, rows)
        found.append(torch.cat([output["attention"] for output in outputs]).double().cpu().numpy())
    if not found or not len(found[0]):
        return [], 0
    shares = np.mean(found, axis=(0, 1))
    *layers, even, rollout, even_rollout = shares
    return [
        ModalityAttention(
            name,
            [float(layer[number]) for layer in layers],
            float(even[number]),
            float(rollout[number]),
            float(even_rollout[number]),
        )
        for number, name in enumerate(members[0].network.modalities)
    ], len(found[0])
