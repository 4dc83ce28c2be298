"""How generated crystals are distributed beside others: histograms as SVG, kinds as bars side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.report.page.charts import Frame
from crystalfm.report.page.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.report.page.content import Distribution

_ROOM = 1.06
_SMALL = 0.1
"""Share below which a tenth of a per cent counts."""

_STYLES = ("samples", "reference", "stable", "metastable", "unstable")
_OTHERS = {"validation": "reference", "random": "reference"}
"""What is drawn like something else, as names of the style sheet."""

_LINES = ("samples", "test")


def distribution_chart(distribution: Distribution) -> str:
    """Return a distribution with its heading and legend; empty where nothing was counted."""
    if not any(any(heights) for heights in distribution.series.values()):
        return ""
    drawn = _bars(distribution) if distribution.kinds else _histogram(distribution)
    legend = "".join(f'<span><i class="{_style(name)}"></i>{escape(name)}</span>' for name in distribution.series)
    note = f'<p class="note">{escape(distribution.note)}</p>' if distribution.note else ""
    heading = f"<figcaption>{escape(distribution.title)}</figcaption>"
    return f'<figure class="distribution">{heading}{drawn}<p class="legend">{legend}</p>{note}</figure>'


def _style(name: str) -> str:
    return name if name in _STYLES else _OTHERS.get(name, "samples")


def _histogram(distribution: Distribution) -> str:
    """Draw the reference and bands filled, the samples as a line above the reference."""
    edges = list(distribution.edges)
    highest = max(max(heights) for heights in distribution.series.values())
    frame = Frame((edges[0], edges[-1]), (0.0, highest * _ROOM), height=300)
    lines = [name for name in distribution.series if name in _LINES and len(distribution.series) > 1]
    drawn = [_filled(frame, edges, heights, name) for name, heights in distribution.series.items() if name not in lines]
    drawn += [_stairs(frame, edges, distribution.series[name]) for name in lines]
    return frame.draw("".join(drawn), distribution.x_label, distribution.y_label, title=distribution.title)


def _filled(frame: Frame, edges: Sequence[float], heights: Sequence[float], name: str) -> str:
    base = frame.up(0.0)
    places = "".join(
        f"M{frame.across(left)} {base}V{frame.up(height)}H{frame.across(right)}V{base}z"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True)
        if height
    )
    return f'<path class="filled {_style(name)}" d="{places}"><title>{escape(name)}</title></path>'


def _stairs(frame: Frame, edges: Sequence[float], heights: Sequence[float]) -> str:
    steps = "".join(
        f"V{frame.up(height)}H{frame.across(right)}" for right, height in zip(edges[1:], heights, strict=True)
    )
    start = f"M{frame.across(edges[0])} {frame.up(0.0)}"
    return f'<path class="stairs samples" d="{start}{steps}V{frame.up(0.0)}"/>'


def _bars(distribution: Distribution) -> str:
    highest = max(max(heights) for heights in distribution.series.values())
    rows = []
    for place, kind in enumerate(distribution.kinds):
        pairs = [(_style(name), heights[place]) for name, heights in distribution.series.items()]
        bars = "".join(f'<b class="{style}" style="--share:{height / highest:.4f}"></b>' for style, height in pairs)
        numbers = "".join(f"<span>{percent(height)}</span>" for _, height in pairs)
        rows.append(f'<div class="kind"><span>{escape(kind)}</span><div>{bars}</div><div>{numbers}</div></div>')
    return f'<div class="kinds">{"".join(rows)}</div>'


def percent(share: float) -> str:
    """Return a share in per cent, with a decimal where it is below a tenth."""
    return f"{share:.1%}" if 0 < share < _SMALL else f"{share:.0%}"
