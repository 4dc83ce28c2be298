"""What a run shows in the terminal while it works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from crystalfm.run.parallel.stamp import is_child_rank

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torch import Tensor

_REFRESH_SECONDS = 0.5
_GIB = 1024**3


def run_console() -> Console:
    """Return the console of the terminal; wide enough for tables when the output is a file.

    Of the processes of a distributed run only the first writes.
    """
    console = Console(quiet=is_child_rank())
    return console if console.is_terminal else Console(width=120, quiet=is_child_rank())


class TrainingProgress(ProgressBar):
    """One line for the running epoch: loss, rows per second, memory and the time left for the whole training.

    On a terminal the line moves; into a file one line an epoch is written.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._rows = 0
        self._started = 0.0
        self._started_at = 0
        self._shown = 0.0
        self._process = psutil.Process()
        self._enabled = True

    def disable(self) -> None:
        """Stop showing; called on ranks other than the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the line."""
        self._started = time.monotonic()
        self._started_at = _batches_done(trainer)
        self._rows = 0
        if self._enabled and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
            )
            total = _total_batches(trainer)
            self._task = self._progress.add_task("training", total=total, completed=self._started_at, facts="")
            self._progress.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Move on by one batch; the loss is read from the device twice a second at most."""
        self._rows += len(batch["row"]) * trainer.world_size
        now = time.monotonic()
        if self._progress is None or self._task is None or now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._progress.update(
            self._task,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            completed=_batches_done(trainer),
            facts=f"loss {float(loss):.4f}  {self._facts()}",
        )

    def _facts(self) -> str:
        rate = self._rows / max(time.monotonic() - self._started, 1e-9)
        memory = self._process.memory_info().rss / _GIB
        return f"{rate:,.0f} rows/s  {memory:.2f} GiB"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's losses as a line that stays."""
        if not self._enabled:
            return
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        parts += [f"{name} {float(metrics[name]):.4f}" for name in ("train/loss", "val/loss") if name in metrics]
        parts += [
            f"{name.removeprefix('val/')} {float(value):.5f}" for name, value in metrics.items() if "val/mae" in name
        ]
        parts.append(self._facts())
        parts.append(self._time_left(trainer))
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _time_left(self, trainer: Trainer) -> str:
        """Estimate the rest of the training from the batches of this process: a resumed run has done others before."""
        seconds = time.monotonic() - self._started
        total, done = _total_batches(trainer), _batches_done(trainer)
        if total is None or done == self._started_at:
            return f"{seconds:.0f} s"
        left = seconds / (done - self._started_at) * (total - done)
        return f"{seconds:.0f} s, {left:.0f} s left"

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the line."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the line, so that the error stands alone."""
        self._close()


def _batches_done(trainer: Trainer) -> int:
    """Return the number of batches seen so far, those before an interruption included."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _total_batches(trainer: Trainer) -> float | None:
    """Return the number of batches of the whole training, ``None`` when it has no set length."""
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return None
    return float(trainer.num_training_batches) * trainer.max_epochs
