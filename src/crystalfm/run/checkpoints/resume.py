"""Exact resume: a resumed run sees the same batches and draws the same random numbers as an uninterrupted one.

Lightning saves weights, optimizer, schedulers and loop counters, but neither random states nor the sampler's position:
its own resume repeats samples in mid-epoch. The sampler's position and the random states of torch, NumPy and
Python travel in the checkpoint here, as tensors and lists.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from crystalfm.contracts import UserError
from crystalfm.run.parallel.distributed import gather, require_same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning import LightningModule, Trainer
    from torch import Tensor

    from crystalfm.data.sampler import ResumableBatchSampler
    from crystalfm.run.folder import RunFolder

_STATE_KEY = "exact_resume"


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator as tensors and lists."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        # Of this process's device only: asking the others would claim memory on them.
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class ExactResume(Checkpoint):
    """Saves ``last.ckpt`` at points from which training continues bit for bit, and restores what Lightning leaves out.

    The state is saved when an epoch is complete, validation included (or every ``every_n_epochs`` epochs, and when
    training ends or is to stop), and every ``every_n_steps`` optimizer steps in between. A step after which validation
    is due waits for the next one, since Lightning cannot resume between the two.

    Args:
        folder: run folder; the checkpoint goes to its ``checkpoints/last.ckpt``.
        sampler: sampler of the training data.
        every_n_steps: optimizer steps between saves in mid-epoch, or ``None`` for saves at epoch ends only.
        every_n_epochs: epochs between saves at epoch ends.
        common_facts: what all processes of the run must agree on, by name.
    """

    def __init__(
        self,
        folder: RunFolder,
        sampler: ResumableBatchSampler,
        every_n_steps: int | None = None,
        *,
        every_n_epochs: int = 1,
        common_facts: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._sampler = sampler
        self._every_n_steps = every_n_steps
        self._every_n_epochs = every_n_epochs
        self._must_save = False
        self._common_facts = dict(common_facts or {})
        self._pending: dict[str, Any] | None = None
        self._position: dict[str, int] = {"epoch": 0, "batch": 0}
        self._last_saved_step = 0
        self._flush = False

    @property
    def state_key(self) -> str:
        """Name of this callback's state in the checkpoint."""
        return _STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's position, and the random states of every rank; all ranks call this together."""
        return {"position": dict(self._position), "random": gather(random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random states until the first batch, after everything that might draw from them."""
        self._pending = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Move the sampler to the saved position, before any loader iterates over it.

        Raises:
            UserError: the checkpoint is of another number of processes, which share the rows in another way.
        """
        saved = checkpoint["callbacks"][_STATE_KEY]
        if len(saved["random"]) != trainer.world_size:
            raise UserError(
                f"the run was trained in {len(saved['random'])} processes, now there are {trainer.world_size}",
                remedy="go on with as many devices and nodes as before (trainer.devices, trainer.num_nodes)",
            )
        position = saved["position"]
        self._sampler.set_epoch(position["epoch"])
        self._sampler.start_batch = position["batch"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that all processes train on the same data into the same folder."""
        require_same(self._common_facts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here; give every rank random numbers of its own."""
        self._last_saved_step = trainer.global_step
        if trainer.global_rank:
            # Ranks with the same numbers would drop the same units of different rows.
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the sampler the epoch before its order is drawn."""
        self._sampler.set_epoch(trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Restore the random states before the first forward pass after a resume; flush metrics after a save.

        Lightning logs a step after its end: only now does the logger have the row of the step that was saved.
        """
        if self._flush:
            for logger in trainer.loggers:
                logger.save()
            self._flush = False
        if self._pending is not None:
            set_random_state(self._pending["random"][trainer.global_rank])
            self._pending = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Save in mid-epoch when it is time and the state can be resumed from here."""
        due = self._every_n_steps is not None and trainer.global_step - self._last_saved_step >= self._every_n_steps
        if due and self.can_save_now(trainer):
            self.save_mid_epoch(trainer)

    def can_save_now(self, trainer: Trainer) -> bool:
        """Say whether a checkpoint at the end of this batch can be resumed exactly."""
        loop = trainer.fit_loop.epoch_loop
        consumed = loop.batch_progress.current.ready
        accumulating = consumed % trainer.accumulate_grad_batches != 0
        last = consumed >= trainer.num_training_batches
        every = trainer.val_check_batch
        validates = isinstance(every, int) and every > 0 and consumed % every == 0
        return not (accumulating or last or validates)

    def save_mid_epoch(self, trainer: Trainer) -> None:
        """Save now; call only at the end of a batch for which ``can_save_now`` is true."""
        consumed = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._save(trainer, epoch=trainer.current_epoch, batch=consumed)
        self._flush = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state of a complete epoch when it is time, or when it may be the last."""
        epoch = trainer.current_epoch + 1
        last = trainer.should_stop or epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if last or self._must_save or epoch % self._every_n_epochs == 0:
            self._save(trainer, epoch=epoch, batch=0)

    def save_at_next_epoch_end(self) -> None:
        """Save when the epoch ends, whatever its number; all ranks call this together."""
        self._must_save = True

    def has_saved_epoch(self, epoch: int) -> bool:
        """Say whether what is on disk is the state before the first batch of ``epoch``."""
        return self._position == {"epoch": epoch, "batch": 0}

    def _save(self, trainer: Trainer, *, epoch: int, batch: int) -> None:
        self._position = {"epoch": epoch, "batch": batch}
        trainer.save_checkpoint(self._folder.last)
        self._last_saved_step = trainer.global_step
