"""What a generation shows while it writes: samples, samples a second, and the share of valid ones so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

_LINE_SHARE = 0.1
"""Share of the samples between two lines where the output is a file."""


class SamplingProgress:
    """A line that moves on a terminal; into a file a line for every tenth of the samples. Use it as a context manager.

    Args:
        console: where to write.
        total: samples that are wanted.
        done: samples that were there before.
        num_valid: valid ones among them.
        enabled: whether to show anything.
    """

    def __init__(self, console: Console, total: int, done: int, num_valid: int, *, enabled: bool = True) -> None:
        self._console = console
        self._total = total
        self._before = done
        self._done = done
        self._num_valid = num_valid
        self._enabled = enabled
        self._next_line = done + _LINE_SHARE * total
        self._started = time.monotonic()
        self._bar: Progress | None = None
        if enabled and console.is_terminal:
            self._bar = Progress(
                TextColumn("writing"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=done, facts="")

    def __enter__(self) -> Self:
        """Show the line."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Samples a second since the start."""
        return (self._done - self._before) / max(self.seconds, 1e-9)

    def advance(self, *, valid: bool) -> None:
        """Count a sample."""
        self._done += 1
        self._num_valid += valid
        facts = f"{self.rate:.2f} crystals/s  valid {self._num_valid / self._done:.1%}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, facts=facts)
        elif self._enabled and (self._done >= self._next_line or self._done == self._total):
            self._next_line += _LINE_SHARE * self._total
            self._console.print(f"{self._done:,} of {self._total:,}  {facts}", highlight=False, soft_wrap=True)
