"""Tables and pictures of errors by groups of crystals or molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich import box
from rich.table import Table

from crystalfm.metrics.scores import with_unit
from crystalfm.report.figures import BLUE, GREY, STYLE, VERMILLION, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crystalfm.contracts import TargetSpec
    from crystalfm.explain.groups import GroupError

_ROW_INCHES, _FRAME_INCHES, _WIDTH_INCHES = 0.26, 1.2, 8.0
_TENTH = 0.1


def group_table(found: Sequence[GroupError], targets: Sequence[TargetSpec]) -> Table:
    """Return a table with a row for each target, kind and group."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="errors by groups")
    for heading in ("target", "grouped by", "group"):
        table.add_column(heading)
    for heading in ("rows", "MAE [95 %]", "among the best tenth"):
        table.add_column(heading, justify="right")
    for target in targets:
        title, kind = with_unit(target.name, target.unit), ""
        for item in found:
            if item.target != target.label:
                continue
            shown = "" if item.kind == kind else item.kind
            error = " ".join(
                (format_number(item.mae.value), f"[{format_number(item.mae.low)}, {format_number(item.mae.high)}]")
            )
            table.add_row(title, shown, item.group, f"{item.count:,}", error, f"{item.best_share:.0%}")
            title, kind = "", item.kind
    table.caption = "a tenth of the rows of a group are among the best-predicted tenth where it is as any other"
    return table


def group_figure(found: Sequence[GroupError], target: TargetSpec, path: Path) -> Path:
    """Draw error and share of the best-predicted tenth of every group of one target, kinds one below the other."""
    names, places, ticks = [], [], []
    headings: dict[str, float] = {}
    place = 0.0
    for item in found:
        if item.kind not in headings:
            place += 1.0
            headings[item.kind] = place - 0.9
        names.append(f"{item.group}  ({item.count:,})")
        places.append(place)
        ticks.append(place)
        place += 1.0
    with rc_context(STYLE):
        size = (_WIDTH_INCHES, _FRAME_INCHES + _ROW_INCHES * place)
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        values = [item.mae.value for item in found]
        spread = [
            [item.mae.value - item.mae.low for item in found],
            [item.mae.high - item.mae.value for item in found],
        ]
        left.barh(places, values, color=BLUE)
        left.errorbar(values, places, xerr=spread, fmt="none", ecolor="black", elinewidth=0.8)
        left.set_xlabel(with_unit(f"MAE of {target.name}", target.unit))
        left.set_yticks(ticks, names)
        right.barh(places, [item.best_share for item in found], color=GREY)
        right.axvline(_TENTH, color=VERMILLION, linewidth=1.0)
        right.xaxis.set_major_formatter(PercentFormatter(1.0))
        right.set_xlabel("rows among the best-predicted tenth")
        for axes in (left, right):
            axes.grid(axis="x")
        for kind, height in headings.items():
            left.text(0.0, height, f" {kind}", va="center", fontweight="bold")
        right.xaxis.set_major_locator(MaxNLocator(4))
        left.set_ylim(place - 0.4, -0.6)
        return save(figure, path)
