"""Table and picture of the attention that a fused prediction pays to each modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich import box
from rich.table import Table

from crystalfm.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, STYLE, VERMILLION, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

CAVEAT = "attention is where the model looks, not what its answer rests on: that is what the errors without it say"

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, GREY)
_BAR, _SHIFT, _FADED = 0.34, 0.19, 0.45
_BARS_INCHES, _LAYERS_INCHES, _ROW_INCHES, _FRAME_INCHES = 4.6, 3.8, 0.62, 1.5
_ABOVE: dict[str, Any] = {
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 1.0),
    "ncols": 3,
    "handlelength": 1.2,
    "columnspacing": 1.0,
}


@dataclass(frozen=True)
class ModalityAttention:
    """Share of the pooled output's attention that a modality gets; mean over rows, heads, and an ensemble's members.

    Attributes:
        modality: the modality.
        layers: share in each layer, first to last.
        even: share if every position looked evenly at all it may look at.
        rollout: share through all layers (attention rollout, arXiv 2005.00928).
        even_rollout: the same of even attention.
    """

    modality: str
    layers: Sequence[float]
    even: float
    rollout: float
    even_rollout: float

    def shares(self) -> dict[str, float]:
        """Return the columns that stand beside the modality's worth; of the layers the last."""
        return {
            "attention": self.layers[-1],
            "attention_even": self.even,
            "rollout": self.rollout,
            "rollout_even": self.even_rollout,
        }

    def layer_rows(self) -> list[dict[str, str | int | float]]:
        """Return a row for each layer, counted from 1."""
        return [
            {"layer": number, "modality": self.modality, "attention": share, "attention_even": self.even}
            for number, share in enumerate(self.layers, start=1)
        ]


def attention_table(found: Sequence[ModalityAttention], num_rows: int) -> Table:
    """Return a table with a row for each modality.

    Args:
        found: what was measured.
        num_rows: rows it is the mean of.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"attention of the pooled output, {num_rows:,} rows")
    table.add_column("modality")
    for heading in ("last layer", "if even", "rollout", "if even"):
        table.add_column(heading, justify="right")
    for item in found:
        table.add_row(item.modality, *(f"{share:.1%}" for share in item.shares().values()))
    table.caption = CAVEAT
    return table


def attention_figure(found: Sequence[ModalityAttention], path: Path, *, title: str) -> Path:
    """Draw the attention to each modality: in the last layer, through all, and layer by layer where there are several.

    Args:
        found: what was measured.
        path: PNG to write.
        title: what stands above.
    """
    num_layers = len(found[0].layers)
    with rc_context(STYLE):
        width = _BARS_INCHES + (_LAYERS_INCHES if num_layers > 1 else 0.0)
        figure = Figure(figsize=(width, _FRAME_INCHES + _ROW_INCHES * len(found)), layout="constrained")
        if num_layers > 1:
            ratios = [_BARS_INCHES, _LAYERS_INCHES]
            left, right = figure.subplots(1, 2, width_ratios=ratios)
            _draw_layers(right, found)
        else:
            left = figure.subplots()
        _draw_bars(left, found)
        figure.suptitle(f"attention of the pooled output, {title}", fontsize=10)
        return save(figure, path)


def _draw_bars(axes: Axes, found: Sequence[ModalityAttention]) -> None:
    places = np.arange(len(found), dtype=np.float64)
    colours = [_colour(number) for number in range(len(found))]
    kinds = (
        (-_SHIFT, 1.0, [item.layers[-1] for item in found], [item.even for item in found]),
        (_SHIFT, _FADED, [item.rollout for item in found], [item.even_rollout for item in found]),
    )
    for shift, alpha, shares, even in kinds:
        middle = places + shift
        axes.barh(middle, shares, height=_BAR, color=colours, alpha=alpha)
        axes.vlines(even, middle - _BAR / 2, middle + _BAR / 2, color="black", linewidth=1.8)
    axes.set_yticks(places, [item.modality for item in found])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("share of the attention")
    axes.grid(axis="x")
    handles: list[Artist] = [
        Patch(color=GREY, label="last layer"),
        Patch(color=GREY, alpha=_FADED, label="rollout through all"),
        Line2D([], [], color="black", linewidth=1.8, label="even attention"),
    ]
    axes.legend(handles=handles, **_ABOVE)


def _draw_layers(axes: Axes, found: Sequence[ModalityAttention]) -> None:
    for number, item in enumerate(found):
        layers = np.arange(1, len(item.layers) + 1)
        axes.plot(layers, item.layers, color=_colour(number), marker="o", markersize=3, label=item.modality)
        axes.axhline(item.even, color=_colour(number), linestyle=":", linewidth=1.0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(0.5, len(found[0].layers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("layer (dotted: even attention)")
    axes.grid(axis="y")
    axes.legend(**_ABOVE)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
