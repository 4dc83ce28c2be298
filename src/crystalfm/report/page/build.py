"""The run's page as one HTML file: no network, no request to anywhere, light and dark, wide and narrow."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING

from crystalfm.metrics.scores import best_model, by_target, with_unit
from crystalfm.report.figures import epoch_series
from crystalfm.report.page.charts import (
    bar_chart,
    curve_chart,
    parity_chart,
    residual_chart,
)
from crystalfm.report.page.content import GalleryRow
from crystalfm.report.page.distributions import distribution_chart
from crystalfm.report.page.gallery import VIEW, controls, figures_section, gallery_section, headline_section, listed_row
from crystalfm.report.page.markup import definitions, escape, head, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.report.page.content import PageContent, Predictions
    from crystalfm.report.page.structures import Structure

_MAX_CURVES = 12
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the browser allows: what is in the file, and no request."""


def build_page(content: PageContent) -> str:
    """Return the page as HTML that stands alone."""
    sections = [
        _overview(content),
        headline_section(content.headline),
        gallery_section(content.gallery, content.structures, content.structures_left_out),
        _distributions(content),
        figures_section(content.figures),
        _scores(content),
        _parity(content.predictions),
        _worst(content),
        _curves(content),
        _explanations(content),
        _data(content),
        section("environment", "Environment", definitions(content.environment)),
    ]
    present = [part for part in sections if part]
    body = f"<header><h1>{escape(content.title)}</h1><p>{escape(content.kind)}</p></header>"
    body += _navigation(present) + f"<main>{''.join(present)}</main>"
    viewer = _asset("3Dmol-min.js") if any(item.crystal for item in content.structures.values()) else ""
    scripts = [_script(f"/*! {_asset('3Dmol-LICENSE.txt')} */\n{viewer}")] if viewer else []
    scripts.append(_script(_asset("page.js")))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(content.title)}</title><style>{_asset('page.css')}</style></head>"
        f"<body>{body}{_structures(content)}{''.join(scripts)}</body></html>\n"
    )


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    # The only thing that could end a script early.
    return "<script>" + text.replace("</script", "<\\/script") + "</script>"


def _structures(content: PageContent) -> str:
    """Return crystals and drawings for the script, as JSON in which nothing can end the element."""
    found: dict[str, dict[str, object]] = {}
    for name, item in content.structures.items():
        found[name] = {"label": item.label, "crystal": item.crystal, "svg": item.svg, "relaxed": item.relaxed}
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="structures">{text}</script>'


def _navigation(sections: list[str]) -> str:
    links = []
    for part in sections:
        identifier = part.partition('id="')[2].partition('"')[0]
        title = part.partition("<h2>")[2].partition("</h2>")[0]
        links.append(f'<a href="#{identifier}">{title}</a>')
    return f"<nav>{''.join(links)}</nav>"


def _overview(content: PageContent) -> str:
    parts = [definitions(content.facts)]
    if content.prompt is not None:
        parts.append(f'<h3>What the model was asked</h3><div class="command"><pre>{escape(content.prompt)}</pre></div>')
    if content.command is not None:
        button = '<button type="button" class="copy">copy</button>'
        parts.append(f'<h3>To repeat it</h3><div class="command"><pre>{escape(content.command)}</pre>{button}</div>')
    return section("overview", "What was run", *parts)


def _distributions(content: PageContent) -> str:
    charts = "".join(distribution_chart(one) for one in content.distributions)
    return section("distributions", "Distributions", f'<div class="groups wide">{charts}</div>' if charts else "")


def _scores(content: PageContent) -> str:
    rows: list[list[str | int | float | None]] = []
    best = []
    charts = []
    for target, scores in by_target(content.results).items():
        winner = best_model(scores) if len(scores) > 1 else None
        for model, score in scores.items():
            if model == winner:
                best.append(len(rows))
            r2 = round(score.r2, 4) + 0.0 if math.isfinite(score.r2) else None
            rows.append([with_unit(target.name, target.unit), model, score.mae, score.rmse, r2, score.num_rows])
        if len(scores) > 1:
            errors = {model: score.mae for model, score in scores.items()}
            charts.append(bar_chart(errors, with_unit(f"{target.name}: mean absolute error", target.unit)))
    if not rows:
        return ""
    headings = ("target", "model", "MAE", "RMSE", "R²", "rows")
    return section(
        "scores",
        "Scores",
        table(headings, rows, strong=best),
        f'<div class="cards">{"".join(charts)}</div>' if charts else "",
    )


def _parity(predictions: Predictions | None) -> str:
    if predictions is None:
        return ""
    cards = []
    for column, target in enumerate(predictions.targets):
        true, predicted = predictions.true[:, column], predictions.predicted[:, column]
        charts = parity_chart(true, predicted, target), residual_chart(true, predicted, target)
        if charts[0]:
            drawn = "".join(f"<div>{chart}</div>" for chart in charts)
            cards.append(f'<h3>{escape(target.name)}</h3><div class="cards">{drawn}</div>')
    wrong = predictions.num_not_finite
    warning = f'<p class="warning">{wrong:,} predictions are no finite number.</p>' if wrong else ""
    shown = f'<p class="note">{len(predictions.ids):,} {escape(predictions.rows)} rows</p>' if cards else ""
    return section("parity", "Predicted and true", warning, shown, *cards)


def _worst(content: PageContent) -> str:
    predictions = content.predictions
    worst = [] if predictions is None else predictions.worst()
    if predictions is None or not worst:
        return ""
    rows = []
    for one in worst:
        row, column = one.row, one.column
        name, target = predictions.ids[row], predictions.targets[column]
        quantity = with_unit(target.name, target.unit)
        true, predicted = float(predictions.true[row, column]), float(predictions.predicted[row, column])
        known = content.structures.get(name)
        cells = (name, known.label if known else "", quantity, true, predicted, predicted - true, one.relative)
        told = f"{name}: {quantity}, predicted {predicted:.4g}, true {true:.4g}"
        shown = GalleryRow(name, cells, told, (target.label,), "its structure is not on this page")
        rows.append(listed_row(shown, content.structures))
    headings = ("id", _what(content.structures), "target", "true", "predicted", "error", "\N{MULTIPLICATION SIGN} MAE")
    mark = "sortable" if len(predictions.targets) > 1 else "sortable single"
    listed = (
        f'<div class="scroll tall"><table class="{mark}" id="rows">{head(headings, range(3, 7))}'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    left_out = content.structures_left_out
    note = f'<p class="note">{left_out:,} structures are left out for the size of the page.</p>' if left_out else ""
    chosen = controls({target.label: target.name for target in predictions.targets}, "every target")
    view = VIEW if content.structures else ""
    return section("worst", "Worst predictions", chosen, f'<div class="pair">{view}{listed}</div>', note)


def _what(structures: Mapping[str, Structure]) -> str:
    if not structures:
        return "structure"
    return "formula" if any(item.crystal for item in structures.values()) else "SMILES"


def _curves(content: PageContent) -> str:
    rows = content.metrics
    losses = {
        "training": epoch_series(rows, "train/loss", average=True),
        "validation": epoch_series(rows, "val/loss"),
    }
    charts = [curve_chart(losses, "loss")]
    names = sorted({name for row in rows for name in row if name.startswith("val/mae_")})
    charts += [
        curve_chart({"validation": epoch_series(rows, name)}, f"MAE, {name.removeprefix('val/mae_')}")
        for name in names[:_MAX_CURVES]
    ]
    drawn = "".join(f"<div>{chart}</div>" for chart in charts if chart)
    more = len(names) - _MAX_CURVES
    note = f'<p class="note">{more} further targets are in metrics.csv.</p>' if more > 0 else ""
    return section("curves", "Learning curves", f'<div class="cards">{drawn}</div>' if drawn else "", note)


def _explanations(content: PageContent) -> str:
    parts = [
        f"<details open><summary>{escape(item.title)}</summary>{item.html}</details>" for item in content.explanations
    ]
    return section("explanations", "Explanations", *parts)


def _data(content: PageContent) -> str:
    rejected = content.rejected
    parts = [definitions(content.data)]
    if rejected.total:
        parts.append(f"<h3>{rejected.total:,} rows were rejected</h3>")
        parts.append(table(("reason", "rows"), list(rejected.counts.items())))
        first = table(("id", "reason", "value"), rejected.first)
        parts.append(f"<details><summary>The first of them</summary>{first}</details>")
    elif content.data:
        parts.append('<p class="note">No row was rejected.</p>')
    return section("data", "Data", *parts)
