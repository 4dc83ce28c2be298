"""Tables and pictures of runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table

from crystalfm.metrics.scores import with_unit
from crystalfm.report.figures import BLUE, GREY, STYLE, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crystalfm.contracts import TargetSpec
    from crystalfm.metrics.bootstrap import Interval

_PANEL_INCHES, _LABEL_INCHES, _ROW_INCHES, _FRAME_INCHES = 3.2, 2.6, 0.34, 1.2
_NAME_CHARACTERS = 42


@dataclass(frozen=True)
class ComparedScore:
    """Errors of a run on a target, beside the run that is best at it.

    Attributes:
        run: name of the run.
        target: the target.
        mae: mean absolute error in the target's unit, with its interval.
        rmse: root mean square error.
        behind: by how much more the run errs than the best one, row by row; ``None`` for the best one.
    """

    run: str
    target: TargetSpec
    mae: Interval
    rmse: float
    behind: Interval | None

    @property
    def verdict(self) -> str:
        """What the difference to the best run means."""
        if self.behind is None:
            return "best"
        return "worse" if self.behind.excludes_zero else "no more than noise"

    def as_row(self) -> dict[str, str | float]:
        """Return the numbers as a row of a table."""
        behind = self.behind
        return {
            "run": self.run,
            "target": self.target.label,
            "mae": self.mae.value,
            "mae_low": self.mae.low,
            "mae_high": self.mae.high,
            "rmse": self.rmse,
            "behind_best": 0.0 if behind is None else behind.value,
            "behind_low": 0.0 if behind is None else behind.low,
            "behind_high": 0.0 if behind is None else behind.high,
            "verdict": self.verdict,
        }


def comparison_table(scores: Sequence[ComparedScore], *, rows: int, split: str) -> Table:
    """Return a table with a row for each run and target, best runs first within a target."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{rows:,} {split} rows")
    table.add_column("target")
    table.add_column("run", overflow="fold")
    for heading in ("MAE [95 %]", "RMSE", "behind the best [95 %]"):
        table.add_column(heading, justify="right")
    table.add_column("")
    targets = list(dict.fromkeys(score.target for score in scores))
    for target in targets:
        title = with_unit(target.name, target.unit)
        for score in sorted((one for one in scores if one.target == target), key=lambda one: one.mae.value):
            behind = "" if score.behind is None else _range(score.behind, "+")
            table.add_row(title, score.run, _range(score.mae), format_number(score.rmse), behind, score.verdict)
            title = ""
    table.caption = "intervals: bootstrap over rows, of differences row by row (paired)"
    return table


def comparison_figure(scores: Sequence[ComparedScore], path: Path, *, title: str) -> Path:
    """Draw the mean absolute error of each run, a panel a target, the best one in colour."""
    targets = list(dict.fromkeys(score.target for score in scores))
    runs = list(dict.fromkeys(score.run for score in scores))
    with rc_context(STYLE):
        size = (_LABEL_INCHES + _PANEL_INCHES * len(targets), _FRAME_INCHES + _ROW_INCHES * len(runs))
        figure = Figure(figsize=size, layout="constrained")
        panels = np.atleast_1d(np.asarray(figure.subplots(1, len(targets), sharey=True)))
        for axes, target in zip(panels, targets, strict=True):
            chosen = {score.run: score for score in scores if score.target == target}
            values = np.array([chosen[run].mae.value for run in runs])
            spread = np.array([[chosen[run].mae.value - chosen[run].mae.low for run in runs],
                               [chosen[run].mae.high - chosen[run].mae.value for run in runs]])  # fmt: skip
            colors = [BLUE if chosen[run].behind is None else GREY for run in runs]
            axes.errorbar(values, range(len(runs)), xerr=spread, fmt="none", ecolor="black", elinewidth=0.8)
            axes.scatter(values, range(len(runs)), color=colors, zorder=3)
            axes.set_xlabel(with_unit(f"MAE of {target.name}", target.unit))
            axes.set_yticks(range(len(runs)), [_shortened(run) for run in runs])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x")
        panels[0].invert_yaxis()
        figure.suptitle(f"{title}; bars: 95 % of bootstrap means", fontsize=10)
        return save(figure, path)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"…{name[1 - _NAME_CHARACTERS :]}"


def _range(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4g} [{interval.low:{sign}.3g}, {interval.high:{sign}.3g}]"
