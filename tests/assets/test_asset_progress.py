"""Progress: drawn by rich on the console given, and measured for programs that fetch on our behalf."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from crystalfm.assets.progress import NoProgress, RichProgress, folder_bytes, growth, transfer


class Sum(NoProgress):
    def __init__(self):
        self.total = 0
        self.finished = 0

    def advance(self, num_bytes):
        self.total += num_bytes

    def finish(self):
        self.finished += 1


def test_rich_bar_shows_label_and_bytes():
    stream = io.StringIO()
    sink = RichProgress(Console(file=stream, width=100, force_terminal=True))
    with transfer(sink, "data.bin", 2_000_000):
        sink.advance(2_000_000)
    assert "data.bin" in stream.getvalue()
    assert "2.0/2.0 MB" in stream.getvalue()
    sink.finish()
    sink.advance(1)  # harmless without a bar


def test_transfer_is_finished_after_an_error():
    sink = Sum()
    with pytest.raises(RuntimeError), transfer(sink, "x", None):
        raise RuntimeError
    assert sink.finished == 1


@pytest.mark.parametrize(("total", "seen"), [(None, 3000), (1000, 1000)])
def test_growth_of_a_folder_is_reported_up_to_the_total(tmp_path, total, seen):
    sink = Sum()
    with growth(sink, "x", tmp_path, total):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/file").write_bytes(bytes(3000))
        deadline = time.monotonic() + 5
        while sink.total < seen and time.monotonic() < deadline:
            time.sleep(0.02)
    assert sink.total == seen
    assert sink.finished == 1


def test_folder_bytes(tmp_path):
    assert folder_bytes(tmp_path / "absent") == 0
    (tmp_path / "a").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 3
