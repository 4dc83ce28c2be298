"""Table and picture of what each modality is worth to a model."""

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
from crystalfm.report.figures import BLUE, STYLE, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crystalfm.contracts import TargetSpec
    from crystalfm.metrics.bootstrap import Interval
    from crystalfm.report.modality_attention import ModalityAttention

_PANEL_INCHES, _LABEL_INCHES, _ROW_INCHES, _FRAME_INCHES = 2.8, 1.4, 0.5, 1.2


@dataclass(frozen=True)
class ModalityWorth:
    """What leaving out a modality does to the error of a target.

    Attributes:
        modality: what is left out.
        target: the target.
        whole: mean absolute error with every modality, in the target's unit.
        change: mean change of the error without it, row by row.
        attention: attention that the model pays to it; ``None`` for a model without.
    """

    modality: str
    target: TargetSpec
    whole: float
    change: Interval
    attention: ModalityAttention | None = None

    def as_row(self) -> dict[str, str | float]:
        """Return the numbers as a row of a table."""
        row: dict[str, str | float] = {
            "modality": self.modality,
            "target": self.target.label,
            "mae": self.whole,
            "mae_without": self.whole + self.change.value,
            "change": self.change.value,
            "change_low": self.change.low,
            "change_high": self.change.high,
        }
        return row if self.attention is None else {**row, **self.attention.shares()}


def modality_table(found: Sequence[ModalityWorth]) -> Table:
    """Return a table with a row for each target and modality."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="asked without one modality")
    table.add_column("target")
    table.add_column("without")
    for heading in ("MAE", "change [95 %]"):
        table.add_column(heading, justify="right")
    for target in dict.fromkeys(item.target for item in found):
        chosen = [item for item in found if item.target == target]
        table.add_row(with_unit(target.name, target.unit), "nothing", format_number(chosen[0].whole, 4), "")
        for item in chosen:
            change = f"{item.change.value:+.3g} [{item.change.low:+.3g}, {item.change.high:+.3g}]"
            table.add_row("", item.modality, format_number(item.whole + item.change.value, 4), change)
    table.caption = "the model stays as it is; what it could learn from the others alone is not measured"
    return table


def modality_figure(found: Sequence[ModalityWorth], path: Path, *, title: str) -> Path:
    """Draw the change of the error without each modality, a panel a target."""
    targets = list(dict.fromkeys(item.target for item in found))
    names = list(dict.fromkeys(item.modality for item in found))
    with rc_context(STYLE):
        size = (_LABEL_INCHES + _PANEL_INCHES * len(targets), _FRAME_INCHES + _ROW_INCHES * len(names))
        figure = Figure(figsize=size, layout="constrained")
        panels = np.atleast_1d(np.asarray(figure.subplots(1, len(targets), sharey=True)))
        for axes, target in zip(panels, targets, strict=True):
            changes = [item.change for item in found if item.target == target]
            values = [change.value for change in changes]
            spread = [[one.value - one.low for one in changes], [one.high - one.value for one in changes]]
            axes.barh(names, values, color=BLUE)
            axes.errorbar(values, range(len(names)), xerr=spread, fmt="none", ecolor="black", elinewidth=0.8)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set_xlabel(f"change of the MAE of {with_unit(target.name, target.unit)}")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x")
        panels[0].invert_yaxis()
        figure.suptitle(f"asked without one modality, {title}", fontsize=10)
        return save(figure, path)
