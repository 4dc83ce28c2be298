"""The table of ``crystalfm bench``: a column for each number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from crystalfm.report.tables import format_count, format_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Shown = Callable[[Any], str]

_WHOLE_FROM = 1000


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _milliseconds(value: float) -> str:
    return f"{_rate(1000 * value)} ms"


def _gib(value: float) -> str:
    return f"{format_number(value)} GiB"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_FROM else format_number(value)


_LINES: tuple[tuple[str, str, Shown], ...] = (
    ("device", "device", str),
    ("precision", "precision", str),
    ("CPU threads a process", "num_threads", str),
    ("parameters", "parameters", format_count),
    ("rows/s", "rows_per_second", _rate),
    ("tokens/s", "tokens_per_second", _rate),
    ("padding", "padding_share", _percent),
    ("step, median", "step_seconds_median", _milliseconds),
    ("step, 90th percentile", "step_seconds_p90", _milliseconds),
    ("waiting for data", "shares.waiting", _percent),
    ("forward pass", "shares.forward", _percent),
    ("backward pass", "shares.backward", _percent),
    ("optimizer", "shares.optimizer", _percent),
    ("peak memory", "peak_memory_gib", _gib),
    ("peak device memory", "peak_device_memory_gib", _gib),
    ("GFLOP a step", "gflop_per_step", _rate),
    ("TFLOP/s", "tflops_per_second", format_number),
    ("share of the peak (MFU)", "mfu", _percent),
    ("speed-up", "speedup", format_number),
    ("scaling efficiency", "scaling_efficiency", _percent),
)
"""Title, key and format of each line."""


def throughput_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Return the figures of each run; what no run has, and the scaling of a single one, is left out.

    Args:
        runs: the runs of ``bench.json``.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("processes")
    for run in runs:
        table.add_column(str(run["processes"]), justify="right")
    for name, key, shown in _LINES:
        values = [_value(run, key) for run in runs]
        compares = key in {"speedup", "scaling_efficiency"}
        if any(value is not None for value in values) and not (compares and len(runs) == 1):
            table.add_row(name, *("-" if value is None else shown(value) for value in values))
    return table


def _value(run: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (run[section] if section else run).get(name)
