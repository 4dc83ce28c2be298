"""The LightningModule all property predictors share: losses, metrics in physical units, optimizers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.models.errors import RegressionErrors, WeightedMean
from crystalfm.models.settings import LossName, OptimizerSettings, SchedulerSettings, check_choice
from crystalfm.models.trained import TrainedModule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from crystalfm.models.scaling import TargetScaling

_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
    "smooth_l1": functional.smooth_l1_loss,
}


class _StageMetrics(nn.Module):
    """What is accumulated over one pass of validation or test."""

    def __init__(self, origin: Tensor) -> None:
        super().__init__()
        self.errors = RegressionErrors(origin)
        self.loss = WeightedMean()


class RegressionModule(TrainedModule):
    """Predicts standardised targets; trains on them, and reports in physical units.

    A subclass builds its networks and implements ``predict_standardised``.

    Args:
        targets: quantities to predict, in the order of the batch's columns.
        scaling: mean and spread of each target over the training split.
        loss: loss in standardised units, averaged over known cells.
        optimizer: optimizer settings.
        scheduler: learning-rate settings.

    Raises:
        UserError: no target, or an unknown loss.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        *,
        targets: Sequence[TargetSpec],
        scaling: TargetScaling,
        loss: LossName,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        check_choice("model.loss", loss, get_args(LossName))
        if not targets:
            raise UserError("a model needs at least one target", remedy="set data.targets")
        self.targets = tuple(targets)
        self._loss = _LOSSES[loss]
        mean = torch.as_tensor(scaling.mean, dtype=torch.float32)
        self.register_buffer("target_mean", mean)
        self.register_buffer("target_std", torch.as_tensor(scaling.std, dtype=torch.float32))
        self._val = _StageMetrics(mean)
        self._test = _StageMetrics(mean)

    @property
    def num_outputs(self) -> int:
        """Number of targets."""
        return len(self.targets)

    @abstractmethod
    def predict_standardised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return predictions (B, T) in units of each target's spread, from its mean."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return ``predict_standardised(batch)``: (B, T)."""
        return self.predict_standardised(batch)

    def to_physical(self, standardised: Tensor) -> Tensor:
        """Return predictions (B, T) float32 in each target's physical unit."""
        return standardised.float() * self.target_std + self.target_mean

    def loss(self, standardised: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean loss over the known cells of a batch (0 if there is none), and their number."""
        mask = batch["target_mask"]
        # An unknown target is set to its mean before the loss: a NaN under the mask would reach the gradients.
        known = torch.where(mask, batch["targets"], self.target_mean)
        truth = (known - self.target_mean) / self.target_std
        cells = self._loss(standardised.float(), truth, reduction="none")
        count = mask.sum()
        return torch.where(mask, cells, 0.0).sum() / count.clamp(min=1), count

    def training_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what a training step minimises: the mean loss of the batch."""
        return self.loss(self(batch), batch)[0]

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss and the rows it came from, so that a callback can name a bad batch."""
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["row"]))
        return {"loss": loss, "row": batch["row"]}

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Accumulate loss and errors."""
        self._evaluate(self._val, batch)

    def test_step(self, batch: dict[str, Tensor]) -> None:
        """Accumulate loss and errors."""
        self._evaluate(self._test, batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*`` and step the plateau schedule, before any callback writes a checkpoint."""
        self.step_plateau(self._report("val", self._val))

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self._report("test", self._test)

    def predict_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``row`` (B,) and ``prediction`` (B, T) in physical units."""
        return {"row": batch["row"], "prediction": self.to_physical(self(batch))}

    def _evaluate(self, metrics: _StageMetrics, batch: Mapping[str, Tensor]) -> None:
        standardised = self(batch)
        mean_loss, count = self.loss(standardised, batch)
        metrics.loss.update(mean_loss, count)
        metrics.errors.update(self.to_physical(standardised), batch["targets"], batch["target_mask"])

    def _report(self, stage: str, metrics: _StageMetrics) -> Tensor:
        mean_loss: Tensor = metrics.loss.compute()
        values = {f"{stage}/loss": mean_loss.float()}
        for kind, per_target in metrics.errors.scores().items():
            for target, value in zip(self.targets, per_target, strict=True):
                values[f"{stage}/{kind}_{target.label}"] = value.float()
        self.log_dict(values)  # already summed over processes by the metrics
        metrics.loss.reset()
        metrics.errors.reset()
        return mean_loss
