"""Lightning's strategy for weights that the processes share, with checkpoints like any other run's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from crystalfm.models.sharding import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes; the module shards itself in ``configure_model``.

    The first process gathers a checkpoint whole and writes it through the run's own writer, and every process reads it
    with the run's own reader. Optimizer states stand in it under the names of the weights.

    Args:
        num_processes: processes of the run on all machines together.
    """

    def __init__(self, num_processes: int) -> None:
        super().__init__(data_parallel_size=num_processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def optimizer_state(self, optimizer: Optimizer | LightningOptimizer) -> dict[str, Any]:
        """Return the complete state of an optimizer on the first process, nothing on the others; a collective call."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self._module(), inner, options=options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True`` and restore this process's part of weights and optimizers.

        Raises:
            UserError: the file is damaged or not a checkpoint of this framework.
        """
        del weights_only
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path)
        load_weights(self._module(), checkpoint["state_dict"])
        if self._module().trainer.state.fn == TrainerFn.FITTING:
            options = StateDictOptions(full_state_dict=True)
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                set_optimizer_state_dict(self._module(), optimizer, state, options=options)
        return checkpoint

    def _module(self) -> Any:
        return self.lightning_module
