"""Where the bytes of a fetch are reported; the store itself writes nothing to the terminal."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress, TaskID

_POLL_SECONDS = 0.2


class ProgressSink(Protocol):
    """Receives the progress of one transfer at a time."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a transfer of ``total_bytes`` (``None``: unknown)."""

    def advance(self, num_bytes: int) -> None:
        """Report that ``num_bytes`` more have arrived."""

    def finish(self) -> None:
        """End the transfer, whether it succeeded or not."""


class NoProgress:
    """A sink that drops everything."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a transfer; nothing is shown."""

    def advance(self, num_bytes: int) -> None:
        """Receive bytes; nothing is shown."""

    def finish(self) -> None:
        """End a transfer; nothing is shown."""


class RichProgress:
    """A progress bar with bytes, speed and time left.

    Args:
        console: where the bar is drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """Draw a bar for ``total_bytes`` (a pulse when unknown)."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self.finish()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(label, total=total_bytes)
        self._bar.start()

    def advance(self, num_bytes: int) -> None:
        """Move the bar by ``num_bytes``."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, num_bytes)

    def finish(self) -> None:
        """Stop drawing; harmless when no bar is shown."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


@contextmanager
def transfer(sink: ProgressSink, label: str, total_bytes: int | None) -> Iterator[None]:
    """Report one transfer: started now, finished at the end whatever happens."""
    sink.start(label, total_bytes)
    try:
        yield
    finally:
        sink.finish()


def folder_bytes(folder: Path) -> int:
    """Return the summed size of the files below ``folder``; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a temporary file of the other program, renamed meanwhile
                total += Path(parent, name).stat().st_size
    return total


@contextmanager
def growth(sink: ProgressSink, label: str, folder: Path, total_bytes: int | None) -> Iterator[None]:
    """Report a transfer done by another program through the growth of the folder it writes to."""
    stop = threading.Event()

    def watch() -> None:
        seen = 0
        while not stop.wait(_POLL_SECONDS):
            # The other program may hold two copies for a moment, hence the cap.
            now = folder_bytes(folder) if total_bytes is None else min(folder_bytes(folder), total_bytes)
            if now > seen:
                sink.advance(now - seen)
                seen = now

    watcher = threading.Thread(target=watch, daemon=True)
    with transfer(sink, label, total_bytes):
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
