"""Pictures and pages of what single words of a text do to a prediction."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from crystalfm.explain.words import FALL, RISE, colored_html
from crystalfm.metrics.scores import unit_symbol, with_unit
from crystalfm.report.figures import BLUE, STYLE, VERMILLION, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.explain.words import WordEffects, WordMean

_STRONGEST = 12
_SHOWN_MEANS, _COMMON_SHARE = 15, 0.05
_WIDTH_INCHES, _LINE_INCHES, _FONT_POINTS, _GAP = 7.2, 0.23, 9, 0.005
_TITLE_INCHES, _AXIS_INCHES, _MARGIN, _LABELS = 0.4, 0.6, 0.02, 0.27
_LONGEST_LABEL = 22
_LONGEST_TEXT = 400
"""Words of a text that a picture shows."""


def word_figure(name: str, effects: WordEffects, target: TargetSpec, column: int, path: Path) -> Path:
    """Draw a text with its words coloured by what masking them does to a target, and its strongest words below.

    After Fig. 3 of Li et al., Digital Discovery 4, 376 (2025), with the sign of the change.
    """
    strongest = effects.ranking(column)[:_STRONGEST]
    lines = _lines(effects.words[:_LONGEST_TEXT])
    text, bars = _LINE_INCHES * (len(lines) + 1), 0.24 * max(len(strongest), 1)
    height = _TITLE_INCHES + text + bars + _AXIS_INCHES
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height))
        # Widths of words were measured on the whole figure, so the text's axes are as wide as it.
        above = figure.add_axes((_MARGIN, (bars + _AXIS_INCHES) / height, 1 - 2 * _MARGIN, text / height))
        below = figure.add_axes((_LABELS, _AXIS_INCHES / height, 1 - _LABELS - _MARGIN, bars / height))
        _draw_text(above, lines, effects.shares(column))
        _draw_strongest(below, effects, strongest, column)
        below.set_xlabel(f"change of {with_unit(target.name, target.unit)} when the word is masked")
        predicted = f"{format_number(float(effects.prediction[column]))} {unit_symbol(target.unit)}".strip()
        cut = f"; first {_LONGEST_TEXT} of {len(effects.words)} words" if len(effects.words) > _LONGEST_TEXT else ""
        title = f"{name}: {target.name} predicted {predicted}{cut}"
        figure.text(_MARGIN, 1 - 0.5 * _TITLE_INCHES / height, title, fontsize=10, va="center")
        return save(figure, path)


def _lines(words: Sequence[str]) -> list[list[tuple[int, str, float]]]:
    """Break words into lines; return for each word its place, itself, and where it starts (fraction of the width)."""
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, 1))
        FigureCanvasAgg(figure)  # without it text has no size
        probe = figure.text(0, 0, "", fontsize=_FONT_POINTS)
        widths = []
        for word in words:
            probe.set_text(word.replace("$", r"\$"))
            widths.append(probe.get_window_extent().width / figure.bbox.width)
    lines: list[list[tuple[int, str, float]]] = [[]]
    start = 0.0
    for place, (word, width) in enumerate(zip(words, widths, strict=True)):
        if start + width > 1.0 - 2 * _MARGIN and lines[-1]:
            lines.append([])
            start = 0.0
        lines[-1].append((place, word, start))
        start += width + 2 * _GAP
    return lines


def _draw_text(axes: Axes, lines: Sequence[Sequence[tuple[int, str, float]]], shares: NDArray[np.float64]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1 - 2 * _MARGIN)
    axes.set_ylim(len(lines), -0.5)
    for number, line in enumerate(lines):
        for place, word, start in line:
            color = np.array(RISE if shares[place] > 0 else FALL) / 255
            axes.text(
                start,
                number,
                word.replace("$", r"\$"),
                fontsize=_FONT_POINTS,
                va="center",
                bbox={"facecolor": (*color, 0.85 * abs(shares[place])), "edgecolor": "none", "pad": 1.0},
            )


def _draw_strongest(axes: Axes, effects: WordEffects, chosen: Sequence[int], column: int) -> None:
    changes = effects.change[list(chosen), column]
    axes.barh(range(len(chosen)), changes, color=[VERMILLION if change > 0 else BLUE for change in changes])
    axes.set_yticks(range(len(chosen)), [_label(effects, place) for place in chosen])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x")


def _label(effects: WordEffects, place: int) -> str:
    """Return a word with its place, or with the number of its places where several were masked together."""
    word = effects.words[place]
    count = effects.words.count(word)
    shown = word if len(word) <= _LONGEST_LABEL else f"{word[: _LONGEST_LABEL - 1]}…"
    if effects.same_words:
        return f"{shown}  ({count} places)" if count > 1 else shown
    return f"{shown}  ({place + 1})"


def word_table(means: Sequence[WordMean], target: TargetSpec, *, texts: int) -> Table:
    """Return a table of the words that matter most for a target on the average, without rare ones.

    Args:
        means: means over ``texts`` texts, the largest first.
        target: the target.
        texts: number of texts.
    """
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{with_unit(target.name, target.unit)}: words masked, {texts} texts"
    )
    table.add_column("word")
    for heading in ("in texts", "places", "mean absolute change", "mean change"):
        table.add_column(heading, justify="right")
    least = math.ceil(_COMMON_SHARE * texts)
    if least > 1:
        table.caption = f"words of at least {least} texts"
    for one in [mean for mean in means if mean.num_texts >= least][:_SHOWN_MEANS]:
        numbers = f"{one.num_texts:,}", f"{one.num_places:,}"
        table.add_row(one.word, *numbers, format_number(one.absolute, 3), f"{one.change:+.2g}")
    return table


def words_page(
    ids: Sequence[str],
    effects: Sequence[WordEffects],
    true: NDArray[np.float64],
    targets: Sequence[TargetSpec],
) -> str:
    """Return an HTML page of its own with every text coloured by what each word does, for each target.

    Args:
        ids: (N,) identifiers.
        effects: (N,) effects.
        true: (N, T) values in the targets' units, NaN where unknown.
        targets: the T targets.
    """
    articles = []
    for number, (name, effect) in enumerate(zip(ids, effects, strict=True)):
        for column, target in enumerate(targets):
            unit = html.escape(unit_symbol(target.unit))
            facts = f"predicted {format_number(float(effect.prediction[column]))} {unit}"
            if np.isfinite(true[number, column]):
                facts += f", true {format_number(float(true[number, column]))} {unit}"
            articles.append(
                f"<article><h2>{html.escape(name)}: {html.escape(target.name)}</h2><p>{facts}</p>"
                f"<p>{colored_html(effect, column)}</p></article>"
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><title>Words that matter</title><style>'
        ":root{color-scheme:light dark}"
        "body{font:16px/1.7 system-ui,sans-serif;max-width:46rem;margin:auto;padding:1rem}"
        "span{border-radius:3px;padding:0 2px}h2{font-size:1.1rem;margin-bottom:0}</style></head><body>"
        "<h1>Words that matter</h1><p>Each word was masked. On red ground: without it the prediction is higher; "
        "on blue: lower; the stronger the colour, the larger the change. Point at a word to see the number.</p>"
        + "".join(articles)
        + "</body></html>\n"
    )
