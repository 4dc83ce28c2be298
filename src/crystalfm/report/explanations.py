"""Tables, pictures and pages of explanations: what parts of a text and single words are worth."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from crystalfm.explain.words import colored_html
from crystalfm.metrics.scores import unit_symbol, with_unit
from crystalfm.report.figures import BLUE, GREY, STYLE, VERMILLION, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.explain.erasure import TagErasure
    from crystalfm.explain.words import WordEffects
    from crystalfm.metrics.bootstrap import Interval

_ROW_INCHES, _PANEL_INCHES, _LABEL_INCHES, _FRAME_INCHES = 0.55, 3.4, 1.6, 1.2
_STRONGEST_WORDS = 12


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


def word_figure(name: str, effects: WordEffects, target: TargetSpec, column: int, path: Path) -> Path:
    """Draw the words of a text that matter most for a target, and what masking each does."""
    chosen = effects.ranking(column)[:_STRONGEST_WORDS]
    changes = effects.change[chosen, column]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.3 * len(chosen)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(chosen)), changes, color=[VERMILLION if change > 0 else BLUE for change in changes])
        axes.set_yticks(range(len(chosen)), [f"{effects.words[place]}  ({place + 1})" for place in chosen])
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(f"change of {with_unit(target.name, target.unit)} when the word is masked")
        axes.set_title(f"{name}: predicted {format_number(float(effects.prediction[column]))}; place in brackets")
        axes.grid(axis="x")
        return save(figure, path)


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
        "<h1>Words that matter</h1><p>Each word was masked alone. On red ground: without it the prediction is higher; "
        "on blue: lower; the stronger the colour, the larger the change. Point at a word to see the number.</p>"
        + "".join(articles)
        + "</body></html>\n"
    )


def _short(value: float) -> str:
    return format_number(value, 4)


def _range(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.2g}, {interval.high:+.2g}]"
