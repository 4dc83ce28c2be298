"""``evaluate.py ckpt=RUN explain=...``: tables and pictures of what parts of the inputs are worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crystalfm.explain.erasure import ErasureSettings, erase, measure
from crystalfm.explain.groups import group_errors, value_ranges
from crystalfm.explain.tags import OTHER, tagger
from crystalfm.explain.words import word_effects
from crystalfm.io.files import write_json, write_text
from crystalfm.metrics.bootstrap import mean_interval
from crystalfm.report.explanations import erasure_figure, erasure_table, word_figure, words_page
from crystalfm.report.group_errors import group_figure, group_table
from crystalfm.report.modality_worth import ModalityWorth, modality_figure, modality_table
from crystalfm.run.explaining.groups import row_groups
from crystalfm.run.explaining.modalities import errors_without
from crystalfm.run.explaining.texts import TextAnswers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.explain.erasure import TagErasure
    from crystalfm.run.saved import SavedPredictor

RANGES = "range of the true value"


def explain(
    cfg: DictConfig,
    saved: SavedPredictor,
    table: RecordTable,
    predicted: NDArray[np.float64],
    folder: Path,
    console: Console,
) -> dict[str, float]:
    """Explain a predictor on rows of its data, into ``folder``.

    Args:
        cfg: configuration of the evaluation, with ``explain``, ``explain_rows`` and ``seed``.
        saved: the predictor.
        table: (N,) rows to explain it on.
        predicted: (N, T) its predictions of them.
        folder: where tables and pictures go.
        console: where the table is shown.

    Returns:
        what was measured, by name.

    Raises:
        UserError: the predictor has nothing of the kind to explain.
    """
    if cfg.explain == "groups":
        return _explain_groups(table, predicted, folder, console)
    if cfg.explain == "modalities":
        return _explain_modalities(saved, table, predicted, folder, console)
    chosen = table
    if cfg.explain_rows is not None and len(table) > cfg.explain_rows:
        rng = np.random.default_rng(cfg.seed)
        chosen = table.select(np.sort(rng.choice(len(table), cfg.explain_rows, replace=False)))
    answers = TextAnswers(saved, chosen)
    if cfg.explain == "words":
        return _explain_words(answers, chosen, folder, console)
    return _explain_erasure(cfg, saved, answers, chosen, folder, console)


def _explain_erasure(
    cfg: DictConfig, saved: SavedPredictor, answers: TextAnswers, table: RecordTable, folder: Path, console: Console
) -> dict[str, float]:
    source = str(saved.cfg.data.get("description"))
    divide, tags = tagger(source)
    parts = [divide(text) for text in answers.texts]
    settings = ErasureSettings(seed=int(cfg.seed))
    labels = [target.label for target in table.target_specs]

    def errors_of(texts: Sequence[str]) -> NDArray[np.float64]:
        errors: NDArray[np.float64] = np.abs(answers.predict(texts, range(len(texts))) - table.targets)
        return errors

    present = [tag for tag in tags if tag != OTHER or any(part.tag == OTHER for one in parts for part in one)]
    found = measure(erase(parts, present, settings), errors_of, answers.count_tokens, labels, settings)
    whole = np.nanmean(errors_of(answers.texts), axis=0)
    length = sum(len(part.text) for one in parts for part in one)
    other = sum(len(part.text) for one in parts for part in one if part.tag == OTHER) / max(length, 1)
    mae = dict(zip(labels, whole.tolist(), strict=True))
    content = {"rows": len(table), "texts": source, "other_share": other, "mae": mae}
    write_json(folder / "erasure.json", content | {"tags": [asdict(item) for item in found]})
    write_text(folder / "erasure.csv", pd.DataFrame([_flat(item) for item in found]).to_csv(index=False))
    erasure_figure(found, mae, folder / "erasure.png", title=f"{source}, {len(table):,} crystals")
    console.print(erasure_table(found, mae, table.target_specs, rows=len(table), other_share=other))
    return {f"comprehensiveness_{item.tag.replace(' ', '_')}_{item.target}": item.change.value for item in found}


def _explain_groups(
    table: RecordTable, predicted: NDArray[np.float64], folder: Path, console: Console
) -> dict[str, float]:
    groups, order = row_groups(table)
    found = []
    for column, target in enumerate(table.target_specs):
        errors = np.abs(predicted[:, column] - table.targets[:, column])
        ranges, names = value_ranges(table.targets[:, column])
        own = {**groups, RANGES: ranges}
        found += group_errors(errors, own, target.label, order={**order, RANGES: names})
    rows = [asdict(item) for item in found]
    write_json(folder / "groups.json", {"rows": len(table), "groups": rows})
    flat = [row | {"mae": row["mae"]["value"], "low": row["mae"]["low"], "high": row["mae"]["high"]} for row in rows]
    write_text(folder / "groups.csv", pd.DataFrame(flat).to_csv(index=False))
    console.print(group_table(found, table.target_specs))
    for target in table.target_specs:
        chosen = [item for item in found if item.target == target.label]
        group_figure(chosen, target, folder / f"groups_{target.name}.png")
    return {}


def _explain_modalities(
    saved: SavedPredictor, table: RecordTable, predicted: NDArray[np.float64], folder: Path, console: Console
) -> dict[str, float]:
    whole = np.abs(predicted - table.targets)
    found = [
        ModalityWorth(
            modality=name,
            target=target,
            whole=float(np.nanmean(whole[:, column])),
            change=mean_interval(errors[:, column] - whole[:, column]),
        )
        for name, errors in errors_without(saved, table).items()
        for column, target in enumerate(table.target_specs)
    ]
    rows = [item.as_row() for item in found]
    write_json(folder / "modalities.json", {"rows": len(table), "modalities": rows})
    write_text(folder / "modalities.csv", pd.DataFrame(rows).to_csv(index=False))
    modality_figure(found, folder / "modalities.png", title=f"{len(table):,} rows")
    console.print(modality_table(found))
    return {f"change_without_{item.modality}_{item.target.label}": item.change.value for item in found}


def _flat(item: TagErasure) -> dict[str, Any]:
    row = {"tag": item.tag, "target": item.target, "texts": item.num_texts, "mean_tokens": item.mean_tokens}
    row["mae"] = item.mae
    for name in ("change", "control"):
        interval = getattr(item, name)
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _explain_words(answers: TextAnswers, table: RecordTable, folder: Path, console: Console) -> dict[str, float]:
    effects = word_effects(answers.texts, answers.predict)
    rows = [
        {"id": str(table.ids[number]), "place": place, "word": word, "target": target.label, "change": change}
        for number, effect in enumerate(effects)
        for place, word in enumerate(effect.words)
        for target, change in zip(table.target_specs, effect.change[place].tolist(), strict=True)
    ]
    write_text(folder / "words.csv", pd.DataFrame(rows).to_csv(index=False))
    ids = [str(one) for one in table.ids]
    write_text(folder / "words.html", words_page(ids, effects, table.targets, table.target_specs))
    word_figure(ids[0], effects[0], table.target_specs[0], 0, folder / "words.png")
    num_words = sum(len(effect.words) for effect in effects)
    console.print(f"{num_words:,} words of {len(effects):,} texts masked, one at a time; see {folder / 'words.html'}")
    return {
        f"mean_absolute_change_{target.label}": float(
            np.mean(np.concatenate([np.abs(effect.change[:, column]) for effect in effects]))
        )
        for column, target in enumerate(table.target_specs)
    }
