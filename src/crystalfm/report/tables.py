"""Rich tables a run shows: what it starts with, what came out, and where to look next.

Everything here returns renderables; only ``run/`` owns a console and prints them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from crystalfm.metrics.scores import best_model, by_target, unit_symbol, with_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from crystalfm.encoders.base import EncoderReport
    from crystalfm.metrics.conformal import IntervalScore
    from crystalfm.metrics.scores import ModelScores, TargetScore
    from crystalfm.report.facts import RunFacts

_NOT_AVAILABLE = "-"
_SUFFIX_FROM = 10_000


def format_count(count: int) -> str:
    """Return a count in three digits, with a suffix from 10,000 on (``2_345_678`` -> ``2.35 M``)."""
    if count < _SUFFIX_FROM:
        return f"{count:,}"
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {suffix}"
    return str(count)


def format_number(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with that many significant digits; a dash for ``None`` and for NaN."""
    if value is None or not math.isfinite(value):
        return _NOT_AVAILABLE
    return f"{value:#.{digits}g}".rstrip(".")


def _parameters(facts: RunFacts) -> str:
    if facts.num_parameters is None:
        return "none before fitting"
    total = f"{format_count(facts.num_parameters)} total"
    return total if facts.num_trainable is None else f"{total}, {format_count(facts.num_trainable)} trainable"


def _fact_rows(facts: RunFacts) -> dict[str, str]:
    rows = ", ".join(f"{name} {count:,}" for name, count in facts.split_sizes.items())
    return {
        "model": facts.model,
        "data": f"{facts.data}, content {facts.data_hash[:12]}",
        "targets": ", ".join(with_unit(target.name, target.unit) for target in facts.targets),
        "rows": rows,
        "rejected": f"{facts.num_rejected:,}" + (" (see rejected.csv)" if facts.num_rejected else ""),
        "parameters": _parameters(facts),
        "device": f"{facts.device}, precision {facts.precision}, {facts.num_threads} threads",
        "seed": str(facts.seed),
        **facts.notes,
        "run folder": shown_path(facts.run_folder),
    }


def encoder_table(encoders: Sequence[EncoderReport]) -> Table:
    """Return a table with one row per modality: encoder, frozen or trained, width, cache hits and misses."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("modality", "encoder", "state"):
        table.add_column(heading)
    for heading in ("width", "cache hits", "encoded now"):
        table.add_column(heading, justify="right")
    table.add_column("notes", overflow="fold")
    for report in encoders:
        state = "frozen" if report.frozen else "trained"
        cached = (
            (f"{report.cache_hits:,}", f"{report.cache_misses:,}")
            if report.frozen
            else (_NOT_AVAILABLE, _NOT_AVAILABLE)
        )
        # As text: a note may quote tokens such as SELFIES' [/NH1+1], which rich would take for a closing tag.
        cells = (report.modality, report.name, state, str(report.width), *cached, "; ".join(report.notes))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def start_table(facts: RunFacts) -> RenderableType:
    """Return the panel shown before training starts."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _fact_rows(facts).items():
        grid.add_row(name, Text(value))
    body: list[RenderableType] = [grid]
    if facts.encoders:
        body.append(encoder_table(facts.encoders))
    return Panel(Group(*body), title=Text(facts.run_name, style="bold"), title_align="left", expand=False)


def _score_cells(model: str, score: TargetScore, *, best: bool, in_ev: bool, squared: bool) -> list[Text]:
    style = "bold green" if best else ""
    cells = [model, format_number(score.mae)]
    if in_ev:
        cells.append(format_number(score.mae_ev))
    r2 = f"{score.r2:.3f}" if math.isfinite(score.r2) else _NOT_AVAILABLE
    cells += [format_number(score.rmse), *([format_number(score.mse)] if squared else []), r2, f"{score.num_rows:,}"]
    return [Text(cell, style=style) for cell in cells]


def results_table(results: Sequence[ModelScores], *, title: str = "") -> Table:
    """Return a table of errors: a block per target, a row per model, the lowest MAE set off.

    MAE and RMSE are in the target's own unit, named beside the target; where a target is an energy in another
    unit than eV, its MAE is given in eV as well. Among targets without a unit, for which papers state mean square
    errors, there is a column for these.

    Args:
        results: scores of each model on the same rows.
        title: line above the table, such as data set and split.
    """
    table_by_target = by_target(results)
    in_ev = any(
        score.mae_ev is not None and score.target.unit.lower() != "ev"
        for scores in table_by_target.values()
        for score in scores.values()
    )
    squared = any(not unit_symbol(target.unit) for target in table_by_target)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    table.add_column("target")
    table.add_column("model")
    headings = ["MAE", *(["MAE (eV)"] if in_ev else []), "RMSE", *(["MSE"] if squared else []), "R²", "rows"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for target, scores in table_by_target.items():
        winner = best_model(scores) if len(scores) > 1 else None
        for number, (model, score) in enumerate(scores.items()):
            name = Text(with_unit(target.name, target.unit) if number == 0 else "", style="bold")
            table.add_row(name, *_score_cells(model, score, best=model == winner, in_ev=in_ev, squared=squared))
        table.add_section()
    return table


def interval_table(scores: Sequence[IntervalScore], coverage: float, *, title: str = "") -> Table:
    """Return a table of prediction intervals: how often they hold the true value, and how wide they are.

    Args:
        scores: one entry a target; a dash stands for the width of intervals without bounds.
        coverage: share of the rows they were made to hold.
        title: line above the table, such as data set and split.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    table.add_column("target")
    for heading in ("asked", "held", "mean width", "rows"):
        table.add_column(heading, justify="right")
    for score in scores:
        held = f"{score.coverage:.1%}" if math.isfinite(score.coverage) else _NOT_AVAILABLE
        cells = [f"{coverage:.1%}", held, format_number(score.mean_width), f"{score.num_rows:,}"]
        table.add_row(Text(with_unit(score.target.name, score.target.unit), style="bold"), *cells)
    return table


def markdown_results(results: Sequence[ModelScores]) -> str:
    """Return the results as a Markdown table for cards and the README; the lowest MAE of a target in bold."""
    lines = [
        "| target | model | MAE | MAE (eV) | RMSE | R² | rows |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for target, scores in by_target(results).items():
        winner = best_model(scores) if len(scores) > 1 else None
        for model, score in scores.items():
            mae = format_number(score.mae)
            r2 = f"{score.r2:.3f}" if math.isfinite(score.r2) else _NOT_AVAILABLE
            cells = [
                with_unit(target.name, target.unit),
                model,
                f"**{mae}**" if model == winner else mae,
                format_number(score.mae_ev),
                format_number(score.rmse),
                r2,
                f"{score.num_rows:,}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown_path(path: Path) -> str:
    """Return a path as one would type it: relative to the current folder where it lies below."""
    folder = Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def closing_panel(run_folder: Path, files: Sequence[Path]) -> RenderableType:
    """Return the last thing a run shows: its folder and its figures.

    Args:
        run_folder: the run folder.
        files: figures and tables worth opening; shown relative to the folder where they lie in it.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("run folder", Text(shown_path(run_folder)))
    for number, file in enumerate(files):
        shown = str(file.relative_to(run_folder)) if file.is_relative_to(run_folder) else shown_path(file)
        grid.add_row("figures" if number == 0 else "", Text(shown))
    return Panel(grid, title=Text("finished", style="bold"), title_align="left", expand=False)


def next_steps(commands: Sequence[str]) -> Text:
    """Return commands to try next, a line each; print it with ``soft_wrap=True``, so that they can be copied whole."""
    text = Text("try next", style="bold")
    for command in commands:
        text.append(f"\n  {command}", style="not bold cyan")
    return text
