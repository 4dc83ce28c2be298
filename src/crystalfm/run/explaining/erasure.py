"""What kinds of sentences are worth: a predictor asked without them, into tables and a picture."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.explain.erasure import ErasureSettings, erase, measure
from crystalfm.explain.tags import OTHER, tagger
from crystalfm.io.files import write_json
from crystalfm.report.erasures import erasure_figure, erasure_table
from crystalfm.run.explaining.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.explain.erasure import TagErasure
    from crystalfm.run.explaining.texts import TextAnswers

FILE = "erasure.json"
"""What was measured, in the folder of explanations."""


def explain_erasure(
    answers: TextAnswers, source: str, table: RecordTable, folder: Path, console: Console, *, seed: int
) -> dict[str, float]:
    """Take each kind of sentence out of the rows' texts.

    Args:
        answers: the predictor.
        source: what wrote the texts: ``robocrys`` or ``chemnlp``.
        table: (N,) rows.
        folder: where ``erasure.json``, ``erasure.csv`` and ``erasure.png`` go.
        console: where the table is shown.
        seed: seed of the control's draws and of the bootstrap.

    Returns:
        change of the mean absolute error by tag and target.

    Raises:
        UserError: there are no tags for texts of this source.
    """
    divide, tags = tagger(source)
    parts = [divide(text) for text in answers.texts]
    settings = ErasureSettings(seed=seed)
    labels = [target.label for target in table.target_specs]

    def errors_of(texts: Sequence[str]) -> NDArray[np.float64]:
        errors: NDArray[np.float64] = np.abs(answers.predict(texts, range(len(texts))) - table.targets)
        return errors

    present = [tag for tag in tags if tag != OTHER or any(part.tag == OTHER for one in parts for part in one)]
    texts = erase(parts, present, settings)
    answers.predict(*texts.pairs())  # all at once: the encoder is read once, and batches are of like length
    found = measure(texts, errors_of, answers.count_tokens, labels, settings)
    whole = np.nanmean(errors_of(answers.texts), axis=0)
    length = sum(len(part.text) for one in parts for part in one)
    other = sum(len(part.text) for one in parts for part in one if part.tag == OTHER) / max(length, 1)
    mae = dict(zip(labels, whole.tolist(), strict=True))
    targets = [asdict(target) for target in table.target_specs]
    content = {"rows": len(table), "texts": source, "other_share": other, "targets": targets, "mae": mae}
    write_json(folder / FILE, content | {"tags": [asdict(item) for item in found]})
    write_rows(folder / "erasure.csv", [flat_erasure(item) for item in found])
    erasure_figure(found, mae, folder / "erasure.png", title=f"{source}, {len(table):,} crystals")
    console.print(erasure_table(found, mae, table.target_specs, rows=len(table), other_share=other))
    return {f"comprehensiveness_{item.tag.replace(' ', '_')}_{item.target}": item.change.value for item in found}


def flat_erasure(item: TagErasure) -> dict[str, Any]:
    """Return what was measured of a tag as a row of a table."""
    row = {"tag": item.tag, "target": item.target, "num_texts": item.num_texts, "mean_tokens": item.mean_tokens}
    row["mae"] = item.mae
    for name in ("change", "control", "excess"):
        interval = getattr(item, name)
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row
