"""Callbacks of a run: stop on a loss that is not finite, stop cleanly on a signal."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from crystalfm.contracts import UserError
from crystalfm.run.parallel.distributed import gather, largest
from crystalfm.run.parallel.slurm import WARNINGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from lightning import LightningModule, Trainer
    from torch import Tensor

    from crystalfm.run.checkpoints.resume import ExactResume

_SHOWN_IDS = 10


class NonFiniteLossError(UserError):
    """The training loss became NaN or infinite."""


class TrainingInterruptedError(Exception):
    """Training stopped on a signal, after a checkpoint was written.

    Args:
        signal_number: the signal that asked for it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class StopOnNonFiniteLoss(Callback):
    """Stops before the backward pass of a loss that is NaN or infinite, and names the rows of its batch.

    On an accelerator the check looks at the loss of the step before, so that no step waits for the device. In a
    distributed run all ranks stop when one of them has such a loss.

    Args:
        ids: id of every row of the record table.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        self._rows: Tensor | None = None
        self._earlier: tuple[Tensor, Tensor] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Remember which rows are in the batch."""
        self._rows = batch["row"]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss.

        Raises:
            NonFiniteLossError: it is NaN or infinite; the message names the batch's ids.
        """
        if self._rows is None:
            return
        current = (torch.isfinite(loss.detach()).all(), self._rows)
        checked = current if loss.device.type == "cpu" else self._earlier
        self._earlier = current
        if checked is None:
            return
        broken = not bool(checked[0])
        if largest(int(broken)):
            # Only the rows of ranks whose own loss is broken are suspects.
            self._stop(trainer, [row for rows in gather(checked[1].tolist() if broken else []) for row in rows])

    def _stop(self, trainer: Trainer, rows: Sequence[int]) -> None:
        ids = [str(self._ids[row]) for row in rows]
        shown = ", ".join(ids[:_SHOWN_IDS]) + (f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else "")
        raise NonFiniteLossError(
            f"the training loss is not finite at epoch {trainer.current_epoch}, step {trainer.global_step};"
            f" the batch holds the ids {shown}",
            remedy="look at these rows' targets, lower optimizer.lr, or set trainer.gradient_clip_val;"
            " the last good state is in the run folder",
        )


class StopOnSignal(Callback):
    """Turns Ctrl-C, termination signals and a scheduler's warnings into a checkpoint at the next step boundary.

    The handler only sets a flag; a second Ctrl-C ends the process at once, other signals may come several times. The
    ranks of a distributed run tell each other at every step, so that all save and stop at the same one, whichever of
    them got the signal.

    Args:
        resume: callback that writes the checkpoint.
        signals: signals to listen to; a scheduler's only where somebody waits for them, as in a job of SLURM's.
    """

    def __init__(
        self,
        resume: ExactResume,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, *WARNINGS),
    ) -> None:
        self._resume = resume
        self._signals = tuple(signals)
        self._received: int | None = None
        self._agreed: int | None = None
        self._saved = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def received(self) -> int | None:
        """The signal that came in, if any."""
        return self._received

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers; only the main thread may do so."""
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if number not in WARNINGS or callable(signal.getsignal(number)):
                    self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Save when a signal came in on any rank and the state can be resumed from here."""
        self._agreed = largest(self._received or 0) or None
        if self._agreed is not None and not self._saved and self._resume.can_save_now(trainer):
            self._resume.save_mid_epoch(trainer)
            self._saved = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Stop after the step that was saved, once its metrics have been logged too.

        Raises:
            TrainingInterruptedError: the checkpoint is on disk.
        """
        if self._saved and self._agreed is not None:
            raise TrainingInterruptedError(self._agreed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at an epoch boundary, where the state was saved when the last epoch ended.

        Raises:
            TrainingInterruptedError: a signal came in during validation or at the last step of the epoch.
        """
        self._agreed = largest(self._received or 0) or None
        if self._agreed is None or trainer.global_step == 0:
            return
        if self._resume.has_saved_epoch(trainer.current_epoch):
            raise TrainingInterruptedError(self._agreed)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the state saved when the epoch ends, if a signal came in by now."""
        if not trainer.sanity_checking and largest(self._received or 0):
            self._resume.save_at_next_epoch_end()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back; the Trainer does the same with those it took before us, right after this.

        A warning in the last epoch is passed on: what follows the training may not fit into the time that is left.
        """
        self._give_back()
        if self._received is not None and self._received in WARNINGS:
            signal.raise_signal(self._received)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back before the exception travels on."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class StopPredictingOnSignal(Callback):
    """Has a termination signal end predictions at once; the Trainer would take note of it and go on.

    Where somebody else listens to the signal, as in a job of SLURM's, it goes to them.
    """

    def __init__(self) -> None:
        self._previous = signal.getsignal(signal.SIGTERM)
        self._taken: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handler; only the main thread may do so."""
        if threading.current_thread() is threading.main_thread():
            handler = self._previous if callable(self._previous) else self._stop
            self._taken = signal.signal(signal.SIGTERM, handler)

    @staticmethod
    def _stop(number: int, _frame: FrameType | None) -> None:
        raise TrainingInterruptedError(number)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signal back to the Trainer."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signal back before the exception travels on."""
        self._give_back()

    def _give_back(self) -> None:
        if self._taken is not None:
            signal.signal(signal.SIGTERM, self._taken)
            self._taken = None
