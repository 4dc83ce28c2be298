"""The table of a multirun: a row a job, with what its run folder says of the errors on test rows.

The numbers are read from the run folders, so that it does not matter in which process, or on which machine, a job ran.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from rich import box
from rich.table import Column, Table
from rich.text import Text

from crystalfm.contracts import TargetSpec
from crystalfm.io.files import file_lock, write_text
from crystalfm.run.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOG = logging.getLogger(__name__)

TABLE_FILE = "multirun.csv"
"""File of the multirun's folder with the table; every job that ends brings it up to date."""

BEST_SETTINGS_FILE = "optimization_results.yaml"
"""What a search writes there when it has ended: the best settings and their validation loss."""

LOSS = "val/loss"
FINISHED, FAILED, STOPPED, UNFINISHED = "finished", "failed", "stopped", "unfinished"
_OVERRIDES_FILE = Path(".hydra") / "overrides.yaml"
_DIGITS = 4


class Metric(NamedTuple):
    """A column of numbers; lower is better in those that the terminal shows.

    Attributes:
        name: heading in ``multirun.csv`` (``test/mae_gap_hartree``).
        heading: heading on the terminal; empty for what only the file holds.
    """

    name: str
    heading: str = ""


@dataclass(frozen=True)
class JobRow:
    """One job.

    Attributes:
        number: from 1, in the order of the jobs.
        overrides: those that not every job has, as one line.
        folder: its run folder.
        status: ``finished``, ``failed``, ``stopped`` by a signal, or ``unfinished``.
        metrics: its numbers.
    """

    number: int
    overrides: str
    folder: Path
    status: str
    metrics: Mapping[Metric, float] = field(default_factory=dict)


def read_metrics(folder: Path) -> dict[Metric, float]:
    """Return the numbers of a finished run or evaluation; empty before it has any."""
    summary = RunFolder(folder).read_summary()
    if summary:
        loss = summary["validation"].get("loss")
        found = {} if loss is None else {Metric(LOSS, LOSS): float(loss)}
        units = {target["name"]: target["unit"] for target in summary["data"]["targets"]}
        for split, models in summary["metrics"].items():
            found |= _score_metrics(f"{split}/", models[summary["model"]["name"]], units)
        return found
    evaluation = folder / "evaluation.json"
    if not evaluation.is_file():
        return {}
    scores = json.loads(evaluation.read_text(encoding="utf-8"))["metrics"]
    return _score_metrics("", scores, {name: score["unit"] for name, score in scores.items()})


def _score_metrics(prefix: str, scores: Mapping[str, Any], units: Mapping[str, str]) -> dict[Metric, float]:
    """Return the errors on each target; mean square errors are shown where the target has no unit."""
    from crystalfm.metrics.scores import unit_symbol, with_unit

    found: dict[Metric, float] = {}
    for name, unit in units.items():
        score, target, symbol = scores[name], TargetSpec(name, unit), unit_symbol(unit)
        for kind in ("mae", "rmse", "mse", "r2"):
            if score.get(kind) is not None:
                is_shown = kind == "mae" or (kind == "mse" and not symbol)
                heading = f"{prefix.replace('/', ' ')}{kind.upper()}\n{with_unit(name, unit)}"
                found[Metric(f"{prefix}{kind}_{target.label}", heading if is_shown else "")] = score[kind]
        if score.get("mae_ev") is not None and unit.lower() != "ev":
            found[Metric(f"{prefix}mae_{name}_eV")] = score["mae_ev"]
    return found


def result_metrics(result: Any) -> dict[Metric, float]:
    """Return the numbers that a job without a run folder of its own handed back."""
    if isinstance(result, Mapping):
        return {Metric(str(name), str(name)): value for name, value in result.items() if isinstance(value, float)}
    return {Metric(LOSS, LOSS): result} if isinstance(result, float) else {}


def differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides that not all jobs have, as one line."""
    shared = set.intersection(*(set(job) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(item for item in job if item not in shared) for job in jobs]


def scan_jobs(sweep_folder: Path, *, ended: bool) -> list[JobRow]:
    """Return the jobs that have a folder in the multirun's folder.

    Args:
        sweep_folder: folder of the multirun.
        ended: whether all jobs have ended, so that one without results has failed.
    """
    files = sorted(sweep_folder.glob(f"*/{_OVERRIDES_FILE}"), key=lambda file: _order(file.parent.parent.name))
    folders = [file.parent.parent for file in files]
    # Another job may just have opened its file.
    overrides = differing([yaml.safe_load(file.read_text(encoding="utf-8")) or [] for file in files])
    rows = []
    for number, (folder, line) in enumerate(zip(folders, overrides, strict=True), 1):
        metrics = read_metrics(folder)
        status = FINISHED if metrics else FAILED if ended else UNFINISHED
        rows.append(JobRow(number, line, folder, status, metrics))
    return rows


def _order(name: str) -> tuple[float, str]:
    first = name.partition("_")[0]
    return (int(first) if first.isdecimal() else math.inf, name)


def update_table(sweep_folder: Path) -> None:
    """Write ``multirun.csv`` from the folders of the jobs, of which others may still be running.

    A table that cannot be written is a warning: it must not take a finished job down.
    """
    try:
        with file_lock(sweep_folder / TABLE_FILE):
            _write(sweep_folder, scan_jobs(sweep_folder, ended=False))
    except OSError as error:
        _LOG.warning("%s could not be written: %s", sweep_folder / TABLE_FILE, error)


def write_table(sweep_folder: Path, rows: Sequence[JobRow]) -> Path:
    """Write ``multirun.csv``: job, status, overrides, one column a number, folder.

    Returns:
        the file.
    """
    with file_lock(sweep_folder / TABLE_FILE):
        return _write(sweep_folder, rows)


def _write(sweep_folder: Path, rows: Sequence[JobRow]) -> Path:
    names = list(dict.fromkeys(metric.name for row in rows for metric in row.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "status", "overrides", *names, "folder"])
    for row in rows:
        values = {metric.name: value for metric, value in row.metrics.items()}
        cells = [repr(values[name]) if name in values else "" for name in names]
        writer.writerow([row.number, row.status, row.overrides, *cells, row.folder])
    path = sweep_folder / TABLE_FILE
    write_text(path, text.getvalue())
    return path


def render_table(rows: Sequence[JobRow], *, title: str) -> Table:
    """Return the table for the terminal, in the order of the jobs; the lowest value of a column is set off.

    Args:
        rows: the jobs.
        title: line above the table.
    """
    from crystalfm.report.tables import format_number

    metrics = [metric for metric in dict.fromkeys(item for row in rows for item in row.metrics) if metric.heading]
    lowest = {metric: _lowest(rows, metric) for metric in metrics}
    all_finished = all(row.status == FINISHED for row in rows)
    columns = [Column("job", justify="right", no_wrap=True), Column("overrides", overflow="fold")]
    columns += [] if all_finished else [Column("status", no_wrap=True)]
    columns += [Column(metric.heading, justify="right", no_wrap=True) for metric in metrics]
    table = Table(*columns, Column("folder", overflow="fold"), title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        cells = [Text(str(row.number)), Text(row.overrides)]
        cells += [] if all_finished else [Text(row.status, style="" if row.status == FINISHED else "bold red")]
        for metric in metrics:
            value = row.metrics.get(metric)
            style = "bold green" if value is not None and value == lowest[metric] else ""
            cells.append(Text(format_number(value, _DIGITS), style=style))
        table.add_row(*cells, Text(_short_name(row.folder)))
    return table


def _lowest(rows: Sequence[JobRow], metric: Metric) -> float | None:
    """Return the lowest number of a column that has several."""
    values = [row.metrics[metric] for row in rows if metric in row.metrics and math.isfinite(row.metrics[metric])]
    return min(values) if len(values) > 1 else None


def _short_name(folder: Path) -> str:
    """Return what of the folder's name tells it from its neighbours: the job's number repeats no override."""
    from crystalfm.report.tables import shown_path

    number, underscore, _ = folder.name.partition("_")
    return f"{number}_*" if underscore and number.isdecimal() else shown_path(folder)


def closing_lines(rows: Sequence[JobRow], table_file: Path | None) -> Iterator[str]:
    """Yield where the table is, and which job had the lowest validation loss."""
    from crystalfm.report.tables import format_number, shown_path

    if table_file is not None:
        yield f"folder {shown_path(table_file.parent)}, all metrics in {shown_path(table_file)}"
        best_settings = table_file.parent / BEST_SETTINGS_FILE
        if best_settings.is_file():
            yield f"best settings in {shown_path(best_settings)}"
    losses = [(row.metrics[metric], row) for row in rows for metric in row.metrics if metric.name == LOSS]
    finite = [(loss, row) for loss, row in losses if math.isfinite(loss)]
    if len(finite) > 1:
        loss, best = min(finite, key=lambda pair: pair[0])
        yield f"lowest {LOSS} {format_number(loss, _DIGITS)}: job {best.number}, {best.overrides}"
        yield f"  {shown_path(best.folder)}"
