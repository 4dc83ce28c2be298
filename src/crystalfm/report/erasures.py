"""Tables and pictures of what parts of texts are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from crystalfm.metrics.scores import with_unit
from crystalfm.report.figures import BLUE, GREY, STYLE, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from crystalfm.contracts import TargetSpec
    from crystalfm.explain.erasure import TagErasure
    from crystalfm.metrics.bootstrap import Interval

_ROW_INCHES, _PANEL_INCHES, _LABEL_INCHES, _FRAME_INCHES = 0.55, 3.4, 1.6, 1.2


def erasure_table(
    found: Sequence[TagErasure],
    mae: Mapping[str, float],
    targets: Sequence[TargetSpec],
    *,
    rows: int,
    other_share: float,
) -> Table:
    """Return a table with a row per target and tag: error, its change and the control's, with intervals.

    Args:
        found: what was measured.
        mae: mean absolute error with whole texts, by label of the target.
        targets: the targets.
        rows: crystals.
        other_share: share of the characters that belong to no tag.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"parts of the texts taken away, {rows:,} crystals")
    for heading in ("target", "part taken away"):
        table.add_column(heading)
    for heading in ("in texts", "tokens", "MAE", "change [95 %]", "same length at random [95 %]"):
        table.add_column(heading, justify="right")
    for target in targets:
        table.add_row(with_unit(target.name, target.unit), "none", "", "", _short(mae[target.label]))
        for item in found:
            if item.target == target.label:
                texts, tokens = f"{item.num_texts:,}", f"{item.mean_tokens:.0f}"
                table.add_row("", item.tag, texts, tokens, _short(item.mae), _range(item.change), _range(item.control))
    table.caption = f"{other_share:.1%} of the characters belong to no tag"
    return table


def erasure_figure(found: Sequence[TagErasure], mae: Mapping[str, float], path: Path, *, title: str) -> Path:
    """Draw the change of the error for each tag (rows) and target (panels), with the control beside it."""
    tags = list(dict.fromkeys(item.tag for item in found))
    with rc_context(STYLE):
        size = (_LABEL_INCHES + _PANEL_INCHES * len(mae), _FRAME_INCHES + _ROW_INCHES * len(tags))
        figure = Figure(figsize=size, layout="constrained")
        panels = np.atleast_1d(np.asarray(figure.subplots(1, len(mae), sharey=True)))
        for axes, (label, error) in zip(panels, mae.items(), strict=True):
            for shift, name, color, legend in ((-0.16, "change", BLUE, "this part"), (0.16, "control", GREY, "random")):
                chosen = [getattr(item, name) for item in found if item.target == label]
                values = np.array([one.value for one in chosen]) / error * 100
                low = np.array([one.low for one in chosen]) / error * 100
                high = np.array([one.high for one in chosen]) / error * 100
                places = np.arange(len(tags)) + shift
                axes.barh(places, values, height=0.3, color=color, label=legend)
                axes.errorbar(
                    values, places, xerr=[values - low, high - values], fmt="none", color="black", elinewidth=0.8
                )
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set_title(label)
            axes.set_xlabel("change of the MAE (%)")
            axes.set_yticks(range(len(tags)), tags)
            axes.grid(axis="x")
        panels[0].invert_yaxis()
        panels[-1].legend(loc="lower right")
        figure.suptitle(title, fontsize=10)
        return save(figure, path)


def _short(value: float) -> str:
    return format_number(value, 4)


def _range(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.2g}, {interval.high:+.2g}]"
