"""LLM-Fusion (arXiv 2503.01022): regression from several modalities fused by a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from crystalfm.models.fusion import FusionNetwork
from crystalfm.models.regression import RegressionModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from crystalfm.contracts import TargetSpec
    from crystalfm.encoders.networks import EncoderNetwork
    from crystalfm.models.backbones import FusionBackbone
    from crystalfm.models.scaling import TargetScaling
    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings


class LLMFusion(RegressionModule):
    """Fuses any number of modalities; see `FusionNetwork` for the architecture.

    Args:
        encoders: network of each modality, in the order of the sequence (runtime).
        llm: language model over the modality vectors (runtime).
        targets: quantities to predict (runtime).
        scaling: target scaling of the training split (runtime).
        optimizer: optimizer settings (runtime).
        scheduler: learning-rate settings (runtime).
        loss: ``mse``, ``mae``, ``huber`` or ``smooth_l1``, in standardised units.
        positions: how modalities are told apart: ``learned``, ``sinusoidal`` or ``none``.
        dropout: dropout before the language model and before the head.
        modality_dropout: probability of hiding a present modality in training, never the last one of a row.
        normalize_inputs: layer norm on each encoder's vector.

    Raises:
        UserError: no modality, no target, or a setting out of range.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, EncoderNetwork],
        llm: FusionBackbone,
        targets: Sequence[TargetSpec],
        scaling: TargetScaling,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
        loss: Literal["mse", "mae", "huber", "smooth_l1"] = "mse",
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
        normalize_inputs: bool = True,
    ) -> None:
        super().__init__(targets=targets, scaling=scaling, loss=loss, optimizer=optimizer, scheduler=scheduler)
        self.network = FusionNetwork(
            encoders=encoders,
            llm=llm,
            num_targets=len(targets),
            positions=positions,
            dropout=dropout,
            modality_dropout=modality_dropout,
            normalize_inputs=normalize_inputs,
        )

    def predict_standardised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return predictions (B, T) in units of each target's spread, from its mean."""
        prediction: Tensor = self.network(batch)
        return prediction
