"""Charts as SVG in the page's own colours: they follow light and dark, and are light enough for many rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from crystalfm.metrics.scores import known_pairs, with_unit
from crystalfm.report.page.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec

_POINTS_UP_TO = 1_500
"""Rows up to which each is a point of its own; more are counted in squares."""

_SQUARES = 60
_LEVELS = 6
_BINS = 41
_CENTRAL = 99.0
_LOG_RATIO = 5.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 10, 42
_MAX_MARKERS = 60
_ZERO = 1e-12
_OWN_COLOURS = {"training": 1, "validation": 2}


@dataclass(frozen=True)
class Frame:
    """Axes of a chart: where values lie in its picture, in SVG's units.

    Attributes:
        x: lowest and highest value across.
        y: lowest and highest value upwards; of their logarithms with ``log``.
        width: of the whole picture.
        height: of the whole picture.
        log: whether the vertical axis is logarithmic.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 420
    height: int = 340
    log: bool = False

    def across(self, value: float) -> float:
        """Return where a value lies from the left."""
        low, high = self.x
        return round(_LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT), 1)

    def up(self, value: float) -> float:
        """Return where a value lies from the top."""
        low, high = self.y
        value = math.log10(value) if self.log else value
        return round(self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM), 1)

    def _ticks(self) -> tuple[list[float], list[float]]:
        across = _inside(MaxNLocator(5).tick_values(*self.x), *self.x)
        if self.log:
            low, high = (10**end for end in self.y)
            return across, _inside(LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low, high), low, high)
        return across, _inside(MaxNLocator(5).tick_values(*self.y), *self.y)

    def draw(self, body: str, x_label: str, y_label: str, title: str) -> str:
        """Return the picture: grid, ticks and labels around ``body``."""
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        parts = []
        across, up = self._ticks()
        for value in across:
            x = self.across(value)
            parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{_short(value)}</text>')
        for value in up:
            y = self.up(value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_short(value)}</text>')
        middle = (_TOP + bottom) / 2
        parts.append(f'<text x="{(_LEFT + right) / 2}" y="{self.height - 6}" class="label">{escape(x_label)}</text>')
        turned = f'x="13" y="{middle}" transform="rotate(-90 13 {middle})"'
        parts.append(f'<text {turned} class="label">{escape(y_label)}</text>')
        size = f'viewBox="0 0 {self.width} {self.height}"'
        return f'<svg class="chart" {size} role="img" aria-label="{escape(title)}">{"".join(parts)}{body}</svg>'


def _inside(ticks: Iterable[float], low: float, high: float) -> list[float]:
    return [float(tick) for tick in ticks if low <= tick <= high]


def _short(value: float) -> str:
    return f"{0.0 if abs(value) < _ZERO else value:.5g}".replace("-", "\N{MINUS SIGN}")


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.04
    return low - margin, high + margin


def parity_chart(true: NDArray[np.float64], predicted: NDArray[np.float64], target: TargetSpec) -> str:
    """Draw predicted against true values, (N,) each, NaN where unknown; empty where nothing is known.

    Up to 1,500 rows are points, more are counted in squares, in six steps of a logarithmic scale.
    """
    true, predicted = known_pairs(true, predicted)
    finite = np.isfinite(predicted)
    true, predicted = true[finite], predicted[finite]
    if not true.size:
        return ""
    limits = _range(np.concatenate([true, predicted]))
    frame = Frame(limits, limits, width=420, height=420)
    drawn = _points(frame, true, predicted) if true.size <= _POINTS_UP_TO else _squares(frame, true, predicted)
    ends = [(frame.across(v), frame.up(v)) for v in limits]
    line = f'<path class="ideal" d="M{ends[0][0]} {ends[0][1]}L{ends[1][0]} {ends[1][1]}"/>'
    labels = with_unit("true", target.unit), with_unit("predicted", target.unit)
    return frame.draw(drawn + line, *labels, title=f"{target.name}: predicted against true")


def _points(frame: Frame, true: NDArray[np.float64], predicted: NDArray[np.float64]) -> str:
    # Dots of a path without length and with round ends: a few characters each.
    pairs = zip(true.tolist(), predicted.tolist(), strict=True)
    places = "".join(f"M{frame.across(a)} {frame.up(b)}h0" for a, b in pairs)
    return f'<path class="points" d="{places}"/>'


def _squares(frame: Frame, true: NDArray[np.float64], predicted: NDArray[np.float64]) -> str:
    counts, edges, _ = np.histogram2d(true, predicted, bins=_SQUARES, range=[frame.x, frame.y])
    steps = edges.tolist()
    level = np.zeros(counts.shape, dtype=np.int64)
    largest = math.log(float(counts.max())) or 1.0
    inside = counts > 0
    level[inside] = 1 + np.minimum((np.log(counts[inside]) / largest * _LEVELS).astype(np.int64), _LEVELS - 1)
    side = round(frame.across(steps[1]) - frame.across(steps[0]) + 0.1, 1)
    drawn = []
    for step in range(1, _LEVELS + 1):
        places = "".join(
            f"M{frame.across(steps[a])} {frame.up(steps[b + 1])}h{side}v{side}h-{side}z"
            for a, b in np.argwhere(level == step).tolist()
        )
        drawn.append(f'<path class="level" style="--level:{step / _LEVELS:.2f}" d="{places}"/>' if places else "")
    return "".join(drawn)


def residual_chart(true: NDArray[np.float64], predicted: NDArray[np.float64], target: TargetSpec) -> str:
    """Draw how often which residual (predicted minus true) occurs, over the central 99 % of the rows.

    Args:
        true: (N,) values, NaN where unknown.
        predicted: (N,) predictions.
        target: the quantity.

    Returns:
        the chart, with a line that tells how many rows lie beyond it; empty where nothing is known.
    """
    true, predicted = known_pairs(true, predicted)
    residuals = (predicted - true)[np.isfinite(predicted)]
    if not residuals.size:
        return ""
    reach = float(np.percentile(np.abs(residuals), _CENTRAL)) or 1.0
    counts, edges = np.histogram(residuals, bins=_BINS, range=(-reach, reach))
    frame = Frame((-reach * 1.02, reach * 1.02), (0.0, float(counts.max()) * 1.05 or 1.0), width=420, height=420)
    base = frame.up(0.0)
    bars = "".join(
        f"M{frame.across(left)} {base}V{frame.up(count)}H{frame.across(right)}V{base}z"
        for left, right, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        if count
    )
    zero = f'<path class="ideal" d="M{frame.across(0.0)} {_TOP}V{base}"/>'
    label = with_unit("predicted \N{MINUS SIGN} true", target.unit)
    chart = frame.draw(f'<path class="bars" d="{bars}"/>{zero}', label, "rows", title=f"{target.name}: residuals")
    beyond = residuals.size - int(counts.sum())
    note = f"mean {float(residuals.mean()):+.3g}, median {float(np.median(residuals)):+.3g}"
    return chart + f'<p class="note">{note}{f"; {beyond:,} rows beyond the axis" if beyond else ""}</p>'


def curve_chart(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], y_label: str) -> str:
    """Draw curves over epochs; the vertical axis is logarithmic where values span more than a factor of five.

    Args:
        series: epochs and values by name; curves without values are left out.
        y_label: what the values are.

    Returns:
        the chart with its legend; empty without values.
    """
    known = {name: pair for name, pair in series.items() if len(pair[1])}
    if not known:
        return ""
    epochs = np.concatenate([np.asarray(pair[0], dtype=np.float64) for pair in known.values()])
    values = np.concatenate([np.asarray(pair[1], dtype=np.float64) for pair in known.values()])
    log = bool(values.min() > 0 and values.max() > _LOG_RATIO * values.min())
    frame = Frame(_range(epochs), _range(np.log10(values) if log else values), log=log)
    drawn, legend = [], []
    for place, (name, (xs, ys)) in enumerate(known.items(), 1):
        number = _OWN_COLOURS.get(name, place)
        places = [(frame.across(x), frame.up(y)) for x, y in zip(xs, ys, strict=True)]
        drawn.append(f'<path class="curve c{number}" d="M{"L".join(f"{x} {y}" for x, y in places)}"/>')
        if len(places) <= _MAX_MARKERS:
            told = zip(places, xs, ys, strict=True)
            drawn += [
                f'<circle class="c{number}" cx="{a}" cy="{b}" r="2.5"><title>epoch {x:g}: {y:.4g}</title></circle>'
                for (a, b), x, y in told
            ]
        legend.append(f'<span><i class="c{number}"></i>{escape(name)}</span>')
    return frame.draw("".join(drawn), "epoch", y_label, title=f"{y_label} over epochs") + (
        f'<p class="legend">{"".join(legend)}</p>'
    )


def bar_chart(values: Mapping[str, float], label: str) -> str:
    """Draw bars from zero, one a name, each with its number; the lowest is set off."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    if not known:
        return ""
    largest = max(known.values()) or 1.0
    lowest = min(known, key=lambda name: known[name])
    rows = "".join(
        f'<div class="{"bar best" if name == lowest else "bar"}"><span>{escape(name)}</span>'
        f'<b style="--share:{max(value, 0.0) / largest:.4f}"></b><span class="number">{value:.4g}</span></div>'
        for name, value in known.items()
    )
    return f'<figure class="barchart"><figcaption>{escape(label)}</figcaption>{rows}</figure>'
