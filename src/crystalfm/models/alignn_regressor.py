"""ALIGNN as a predictor: a linear head on the vector of one graph encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from crystalfm.contracts import UserError
from crystalfm.models.regression import RegressionModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.contracts import TargetSpec
    from crystalfm.encoders.networks import EncoderNetwork
    from crystalfm.models.scaling import TargetScaling
    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings


class AlignnRegressor(RegressionModule):
    """Predicts from crystal graphs alone (Choudhary & DeCost, npj Comput. Mater. 7, 185 (2021)).

    Args:
        encoders: network of the one modality (runtime).
        targets: quantities to predict (runtime).
        scaling: target scaling of the training split (runtime).
        optimizer: optimizer settings (runtime).
        scheduler: learning-rate settings (runtime).
        loss: ``mse``, ``mae``, ``huber`` or ``smooth_l1``, in standardised units.

    Raises:
        UserError: not exactly one modality, or no target.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, EncoderNetwork],
        targets: Sequence[TargetSpec],
        scaling: TargetScaling,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
        loss: Literal["mse", "mae", "huber", "smooth_l1"] = "mse",
    ) -> None:
        super().__init__(targets=targets, scaling=scaling, loss=loss, optimizer=optimizer, scheduler=scheduler)
        if len(encoders) != 1:
            raise UserError(
                f"model=alignn takes one modality, {len(encoders)} given", remedy="modalities=[crystal_graph]"
            )
        (self.encoder,) = encoders.values()
        self.head = nn.Linear(self.encoder.width, len(targets))

    def predict_standardised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return predictions (B, T) in units of each target's spread, from its mean."""
        prediction: Tensor = self.head(self.encoder(batch))
        return prediction
