"""How much each word of a text matters: predictions with that word masked, all words of a text at once."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MASK = "[MASK]"
"""What BERT models were trained to see in place of a word."""

_RISE, _FALL = (200, 60, 40), (30, 90, 200)


@dataclass(frozen=True)
class WordEffects:
    """What masking each word of a text does to a prediction.

    Attributes:
        words: (W,) the words, split at white space.
        prediction: (T,) prediction with the whole text, in the targets' units.
        change: (W, T) prediction with the word masked minus that.
    """

    words: list[str]
    prediction: NDArray[np.float64]
    change: NDArray[np.float64]

    def ranking(self, column: int) -> list[int]:
        """Return the words by falling absolute change of a target; equal ones in their order."""
        order: list[int] = np.argsort(-np.abs(self.change[:, column]), kind="stable").tolist()
        return order


def masked_texts(text: str) -> list[str]:
    """Return the text with one word masked, for each word."""
    words = text.split()
    return [" ".join([*words[:place], MASK, *words[place + 1 :]]) for place in range(len(words))]


def word_effects(
    texts: Sequence[str], predict: Callable[[Sequence[str], Sequence[int]], NDArray[np.float64]]
) -> list[WordEffects]:
    """Mask every word of every text.

    Args:
        texts: (N,) texts of N crystals.
        predict: takes texts and the number of the crystal that each belongs to, returns predictions (M, T).
    """
    asked: list[str] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        variants = [" ".join(text.split()), *masked_texts(text)]
        asked += variants
        owners += [number] * len(variants)
    predicted = predict(asked, owners)
    found = []
    start = 0
    for text in texts:
        words = text.split()
        part = predicted[start : start + len(words) + 1]
        found.append(WordEffects(words, part[0], part[1:] - part[0]))
        start += len(words) + 1
    return found


def colored_html(effects: WordEffects, column: int) -> str:
    """Return the text as HTML: words whose masking raises the prediction on red, those that lower it on blue."""
    largest = float(np.abs(effects.change[:, column]).max(initial=0.0)) or 1.0
    spans = []
    for word, change in zip(effects.words, effects.change[:, column].tolist(), strict=True):
        color = ",".join(map(str, _RISE if change > 0 else _FALL))
        spans.append(
            f'<span style="background:rgba({color},{abs(change) / largest:.2f})" title="{change:+.4g}">'
            f"{html.escape(word)}</span>"
        )
    return " ".join(spans)
