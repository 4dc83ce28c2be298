"""What every trained network shares: sharded weights, optimizer, schedule, and the plateau's step."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from crystalfm.models.optim import build_optimizer, build_scheduler
from crystalfm.models.sharding import is_sharded, shard_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor

    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

MONITORED = "val/loss"
"""The quantity that early stopping, checkpoints and the plateau schedule watch; smaller is better."""

# Lightning must never step the plateau itself: it would do so after the checkpoint of the same validation
# has been written, and a resumed run would be one step behind.
_NEVER = 1 << 62


class TrainedModule(lightning.LightningModule):
    """Base of the networks that the Trainer trains; a subclass logs ``val/loss`` and calls ``step_plateau`` with it.

    Args:
        optimizer: optimizer settings.
        scheduler: learning-rate settings.
    """

    def __init__(self, *, optimizer: OptimizerSettings, scheduler: SchedulerSettings) -> None:
        super().__init__()
        self._optimizer_settings = optimizer
        self._scheduler_settings = scheduler

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Numbers that ``predict_step`` gives for each row, under ``prediction``."""

    @abstractmethod
    def training_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what a training step on a batch minimises, in one process."""

    def configure_model(self) -> None:
        """Share the networks' weights among the processes where the strategy asks for it (``trainer=fsdp``)."""
        mesh = self.device_mesh
        if mesh is not None:
            for network in self.children():
                if any(True for _ in network.parameters()):
                    shard_weights(network, mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and the schedule from the settings."""
        # Lightning refuses to clip gradients of a fused optimizer under mixed precision: with a gradient scaler the
        # fused step would unscale them after the clipping.
        clips = bool(self.trainer.gradient_clip_val)
        fused = not (clips and str(self.trainer.precision).endswith("mixed"))
        # PyTorch has no fused SGD for weights that are shared among processes.
        fused = fused and not (self._optimizer_settings.name == "sgd" and is_sharded(self))
        optimizer = build_optimizer(self, self._optimizer_settings, fused=fused)
        scheduler = build_scheduler(
            optimizer,
            self._scheduler_settings,
            peak_lr=self._optimizer_settings.lr,
            total_steps=lambda: self.trainer.estimated_stepping_batches,
        )
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, ReduceLROnPlateau):
            plateau: Any = {
                "scheduler": scheduler,
                "monitor": MONITORED,
                "interval": "epoch",
                "frequency": _NEVER,
            }
            return {"optimizer": optimizer, "lr_scheduler": plateau}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def step_plateau(self, mean_loss: Tensor) -> None:
        """Step the plateau schedule, if there is one, before any callback writes a checkpoint.

        Args:
            mean_loss: validation loss, the same on all processes.
        """
        scheduler = self.lr_schedulers() if self._is_fitting() else None
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(mean_loss))

    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
