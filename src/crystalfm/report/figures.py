"""Figures of a run: parity plot, learning curve, comparison with baselines.

Drawn with Matplotlib's object interface on the Agg canvas (no display, no global state) and written
atomically as PNG. Colours are Okabe and Ito's, which people with colour-vision deficiency can tell apart.
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from crystalfm.io.files import atomic_write
from crystalfm.metrics.scores import (
    ModelScores,
    TargetScore,
    best_model,
    by_target,
    known_pairs,
    score_target,
    unit_symbol,
    with_unit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#595959"
_MODEL_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, "#56B4E9", GREY)
_DENSITY = LinearSegmentedColormap.from_list("density", ["#cfe3f1", "#0072B2", "#00233d"])
_DENSITY_FROM_POINTS = 1_000
_DOTS_PER_INCH = 200
_MAX_COLUMNS = 3
_MAX_MARKERS = 40
_LOG_SCALE_RATIO = 5.0
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
"""Matplotlib settings of every figure."""


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, and return the path."""
    FigureCanvasAgg(figure)  # attaches itself to the figure
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    return path


def grid(
    num_panels: int, panel_width: float, panel_height: float, *, extra_width: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels in reading order; lengths in inches, ``extra_width`` on the left."""
    columns = min(num_panels, _MAX_COLUMNS)
    rows = math.ceil(num_panels / columns)
    size = (panel_width * columns + extra_width, panel_height * rows)
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[num_panels:]:
        spare.set_axis_off()
    return figure, axes[:num_panels]


def _score_text(score: TargetScore) -> str:
    symbol = unit_symbol(score.target.unit)
    mae = f"MAE {score.mae:#.3g} {symbol}".rstrip()
    if score.mae_ev is not None and symbol != "eV":
        mae += f" = {score.mae_ev:#.3g} eV"
    r2 = f"{score.r2:.3f}" if math.isfinite(score.r2) else "undefined"
    return f"{mae}\nR² {r2},  n = {score.num_rows:,}"


def _draw_points(
    axes: Axes, true: NDArray[np.float64], predicted: NDArray[np.float64], limits: tuple[float, float]
) -> None:
    if true.size < _DENSITY_FROM_POINTS:
        axes.scatter(true, predicted, s=14, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
        return
    extent = (*limits, *limits)
    density = axes.hexbin(
        true, predicted, gridsize=70, extent=extent, mincnt=1, norm=LogNorm(vmin=1), cmap=_DENSITY, zorder=2
    )
    bar = axes.figure.colorbar(density, ax=axes, fraction=0.045, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.ax.set_title("rows", fontsize=7.5, color=GREY)
    bar.ax.tick_params(labelsize=7.5, length=2)


def _parity_panel(axes: Axes, true: NDArray[np.floating], predicted: NDArray[np.floating], target: TargetSpec) -> None:
    known_true, known_predicted = known_pairs(true, predicted)
    axes.set_title(target.name, fontweight="bold")
    axes.set_xlabel(with_unit("true", target.unit))
    axes.set_ylabel(with_unit("predicted", target.unit))
    finite = np.isfinite(known_predicted)
    if not finite.any():
        axes.text(0.5, 0.5, "no known values", transform=axes.transAxes, ha="center", color=GREY)
        return
    both = np.concatenate([known_true[finite], known_predicted[finite]])
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=VERMILLION, linewidth=1.0, linestyle=(0, (5, 3)), zorder=3)
    _draw_points(axes, known_true[finite], known_predicted[finite], limits)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=True)
    axes.text(
        0.04,
        0.965,
        _score_text(score_target(true, predicted, target)),
        transform=axes.transAxes,
        va="top",
        fontsize=8,
        linespacing=1.35,
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2},
    )


def parity_plot(
    true: NDArray[np.floating],
    predicted: NDArray[np.floating],
    targets: Sequence[TargetSpec],
    path: Path,
    *,
    title: str = "",
) -> Path:
    """Draw predicted against true values, one panel per target, and write a PNG.

    From 1,000 rows on, points are counted in hexagons (logarithmic colour scale). The dashed line is y = x.

    Args:
        true: (N, T) values in physical units, NaN where unknown.
        predicted: (N, T) values in physical units.
        targets: the T quantities; their units label the axes.
        path: PNG to write.
        title: line above the panels, such as model and split.

    Returns:
        ``path``.
    """
    with rc_context(STYLE):
        figure, panels = grid(len(targets), 3.5, 3.3)
        for column, (axes, target) in enumerate(zip(panels, targets, strict=True)):
            _parity_panel(axes, true[:, column], predicted[:, column], target)
        if title:
            figure.suptitle(title, fontsize=10.5)
        return save(figure, path)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a run's ``metrics.csv``; cells that are empty or no number are left out of their row."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [_numbers(row) for row in csv.DictReader(stream)]


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, cell in row.items():
        try:
            values[key] = float(cell or "")
        except ValueError:
            continue
    return values


def epoch_series(
    rows: Sequence[Mapping[str, float]], key: str, *, average: bool = False
) -> tuple[list[float], list[float]]:
    """Return epochs (counted from 1) and, of ``key`` in each, the last value or the mean of all."""
    by_epoch: dict[float, list[float]] = {}
    for row in rows:
        if "epoch" in row and math.isfinite(row.get(key, math.nan)):
            by_epoch.setdefault(row["epoch"], []).append(row[key])
    epochs = sorted(by_epoch)
    values = [math.fsum(by_epoch[e]) / len(by_epoch[e]) if average else by_epoch[e][-1] for e in epochs]
    return [epoch + 1 for epoch in epochs], values


def _with_epochs(rows: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Give rows without an epoch, such as those of the learning rate, the epoch of the next row that has one."""
    filled: list[Mapping[str, float]] = []
    epoch: float | None = None
    for row in reversed(rows):
        epoch = row.get("epoch", epoch)
        filled.append(row if epoch is None else {**row, "epoch": epoch})
    return filled[::-1]


def _rate_key(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the column of the learning rate: ``lr``, or that of the first parameter group (``lr-AdamW/pg1``)."""
    names = sorted({name for row in rows for name in row if name == "lr" or name.startswith("lr-")})
    return names[0] if names else "lr"


def _draw_losses(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    for key, label, colour, marker in (
        ("train/loss", "training", BLUE, "o"),
        ("val/loss", "validation", VERMILLION, "s"),
    ):
        epochs, values = epoch_series(rows, key, average=key == "train/loss")
        few = len(epochs) <= _MAX_MARKERS
        if epochs:
            axes.plot(
                epochs,
                values,
                color=colour,
                label=label,
                linewidth=1.6,
                marker=marker if few else "",
                markersize=3.5,
            )
    epochs, values = epoch_series(rows, "val/loss")
    if epochs:
        best = int(np.argmin(values))
        axes.plot(
            epochs[best],
            values[best],
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=GREY,
            linestyle="none",
            label=f"best: epoch {epochs[best]:.0f}, {values[best]:#.3g}",
        )
    drawn = [value for line in axes.get_lines() for value in np.asarray(line.get_ydata(), dtype=float)]
    if drawn and min(drawn) > 0 and max(drawn) > _LOG_SCALE_RATIO * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("loss (standardised units)")
    axes.grid(visible=True, axis="y")
    if drawn:
        axes.legend(loc="upper right")


def learning_curve(rows: Sequence[Mapping[str, float]], path: Path, *, title: str = "") -> Path:
    """Draw training and validation loss per epoch, with the learning rate below, and write a PNG.

    Args:
        rows: rows of ``metrics.csv`` (see :func:`read_metrics`) with ``epoch`` counted from 0 and any of
            ``train/loss`` (averaged over an epoch), ``val/loss`` and ``lr`` or ``lr-...`` (the last of an epoch
            counts).
        path: PNG to write.
        title: line above the panels.

    Returns:
        ``path``.
    """
    with rc_context(STYLE):
        rows = _with_epochs(rows)
        rate_epochs, rates = epoch_series(rows, _rate_key(rows))
        heights = [3.2, 1.0] if rate_epochs else [1.0]
        figure = Figure(figsize=(5.6, 4.2 if rate_epochs else 3.4), dpi=_DOTS_PER_INCH, layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights).ravel().tolist()
        _draw_losses(axes[0], rows)
        if rate_epochs:
            axes[1].step(rate_epochs, rates, where="mid", color=GREEN, linewidth=1.6)
            axes[1].set_ylabel("learning rate")
            axes[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
            axes[1].set_ylim(0, max(rates) * 1.15 or 1.0)
            axes[1].grid(visible=True, axis="y")
        axes[-1].set_xlabel("epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels(axes)
        if title:
            axes[0].set_title(title)
        return save(figure, path)


def _comparison_panel(
    axes: Axes,
    target: TargetSpec,
    scores: Mapping[str, TargetScore],
    colours: Mapping[str, str],
    *,
    with_labels: bool,
) -> None:
    models = list(scores)
    values = [scores[model].mae for model in models]
    positions = np.arange(len(models))[::-1]
    axes.barh(positions, values, height=0.68, color=[colours[model] for model in models])
    winner = best_model(scores)
    for position, model, value in zip(positions, models, values, strict=True):
        if math.isfinite(value):
            axes.annotate(
                f"{value:#.3g}",
                (value, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                fontweight="bold" if model == winner else "normal",
            )
    axes.set_yticks(positions, models if with_labels else [""] * len(models))
    axes.tick_params(axis="y", length=0)
    axes.set_title(target.name, fontweight="bold")
    axes.set_xlabel(with_unit("MAE", target.unit))
    highest = max((value for value in values if math.isfinite(value)), default=1.0)
    axes.set_xlim(0, highest * 1.3 or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(visible=True, axis="x")


def comparison_plot(results: Sequence[ModelScores], path: Path, *, title: str = "") -> Path:
    """Draw the mean absolute error of several models on the same rows, one panel per target, and write a PNG.

    Args:
        results: scores of each model, best placed first.
        path: PNG to write.
        title: line above the panels, such as data set and number of rows.

    Returns:
        ``path``.

    Raises:
        ValueError: no model has a score.
    """
    table = by_target(results)
    if not table:
        raise ValueError("no scores to compare")
    models = list(dict.fromkeys(result.model for result in results))
    colours = {model: _MODEL_COLOURS[i % len(_MODEL_COLOURS)] for i, model in enumerate(models)}
    with rc_context(STYLE):
        label_width_inch = 0.07 * max(len(model) for model in models)
        figure, panels = grid(len(table), 2.5, 0.95 + 0.32 * len(models), extra_width=label_width_inch)
        for number, (axes, (target, scores)) in enumerate(zip(panels, table.items(), strict=True)):
            _comparison_panel(axes, target, scores, colours, with_labels=number % _MAX_COLUMNS == 0)
        if title:
            figure.suptitle(title, fontsize=10.5)
        return save(figure, path)
