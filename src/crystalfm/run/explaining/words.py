"""What single words are worth: every word masked, into tables, a page and a picture."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.explain.words import word_effects, word_means
from crystalfm.io.files import write_json, write_text
from crystalfm.report.explained_words import word_figure, word_table, words_page
from crystalfm.run.explaining.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.explain.words import WordEffects
    from crystalfm.run.explaining.texts import TextAnswers

_SHORT_TEXT = 150
"""Words of a text that a picture shows well."""


def explain_words(
    answers: TextAnswers, table: RecordTable, folder: Path, console: Console, *, same_words: bool
) -> dict[str, float]:
    """Mask every word of the rows' texts.

    Args:
        answers: the predictor.
        table: (N,) rows.
        folder: where ``words.csv`` (every place), ``words_mean.csv`` (words over all texts), ``words.json``,
            ``words.html`` (all texts coloured) and ``words.png`` (a short text with a large change) go.
        console: where the words that matter most are shown.
        same_words: mask all places of a word in a text at once.

    Returns:
        mean absolute change by target.
    """
    start = perf_counter()
    effects = word_effects(answers.texts, answers.predict, same_words=same_words)
    seconds = perf_counter() - start
    targets = table.target_specs
    write_rows(
        folder / "words.csv",
        [
            {"id": str(table.ids[number]), "place": place, "word": word, "target": target.label, "change": change}
            for number, effect in enumerate(effects)
            for place, word in enumerate(effect.words)
            for target, change in zip(targets, effect.change[place].tolist(), strict=True)
        ],
    )
    means = [word_means(effects, column) for column in range(len(targets))]
    rows = [
        {"target": target.label, **asdict(one)} for target, found in zip(targets, means, strict=True) for one in found
    ]
    write_rows(folder / "words_mean.csv", rows)
    ids = [str(one) for one in table.ids]
    write_text(folder / "words.html", words_page(ids, effects, table.targets, targets))
    shown = _shown(effects)
    word_figure(ids[shown], effects[shown], targets[0], 0, folder / "words.png")
    num_words = sum(len(effect.words) for effect in effects)
    facts: dict[str, int | str] = {"texts": len(effects), "words": num_words, "texts_predicted": answers.num_predicted}
    facts |= {"masked": "all places of a word" if same_words else "one place", "precision": answers.precision}
    write_json(folder / "words.json", facts | {"seconds": seconds})
    for target, found in zip(targets, means, strict=True):
        console.print(word_table(found, target, texts=len(effects)))
    console.print(
        f"{num_words:,} words of {len(effects):,} texts masked ({facts['masked']} at once, {answers.num_predicted:,} "
        f"distinct texts, {answers.precision}) in {seconds:,.0f} s; see {folder / 'words.html'}"
    )
    every = np.concatenate([effect.change for effect in effects])
    return {
        f"mean_absolute_change_{target.label}": float(np.mean(np.abs(every[:, column])))
        for column, target in enumerate(targets)
    }


def _shown(effects: Sequence[WordEffects]) -> int:
    """Return the text in which a word changes most, of those that a picture shows well if there are any."""
    short = [number for number, effect in enumerate(effects) if len(effect.words) <= _SHORT_TEXT]
    return max(
        short or range(len(effects)), key=lambda number: float(np.abs(effects[number].change[:, 0]).max(initial=0.0))
    )
