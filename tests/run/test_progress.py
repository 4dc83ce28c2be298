"""Bars over counted work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crystalfm.run.tracking import progress
from crystalfm.run.tracking.progress import counted, progress_bar


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, force_interactive=True)
    monkeypatch.setattr(progress, "run_console", lambda: console)
    return written


def test_a_terminal_shows_how_far_it_is(terminal: io.StringIO) -> None:
    with progress_bar("reading") as draw:
        assert draw is not None
        draw(3, 8)
    assert "reading" in terminal.getvalue()
    assert "3/8" in terminal.getvalue()


def test_items_pass_and_are_counted(terminal: io.StringIO) -> None:
    assert list(counted(iter("abc"), "writing", 3)) == ["a", "b", "c"]
    assert "writing" in terminal.getvalue()
    assert "/3" in terminal.getvalue()


def test_no_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "run_console", lambda: Console(file=written))
    with progress_bar("reading") as draw:
        assert draw is None
    assert list(counted([1, 2], "writing", 2)) == [1, 2]
    assert written.getvalue() == ""
