"""Bars of work that is counted, where there is a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crystalfm.run.tracking.console import run_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function that draws (done, to do); ``None`` where there is no terminal."""
    console = run_console()
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def counted(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield the items while a bar counts them.

    Args:
        items: what is worked on, ``total`` of them.
        title: what is done.
        total: how many there are.
    """
    with progress_bar(title) as draw:
        for done, item in enumerate(items):
            if draw is not None:
                draw(done, total)
            yield item
