"""How much each word of a text matters: predictions with that word masked, all words of a text at once."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MASK = "[MASK]"
"""What BERT models were trained to see in place of a word."""

RISE, FALL = (200, 60, 40), (30, 90, 200)
"""Colours (red, green, blue) of words without which a prediction is higher, and lower."""

_PUNCTUATION = re.compile(r"^[\"']+|[.,;:\"']+$")


@dataclass(frozen=True)
class WordEffects:
    """What masking each word of a text does to a prediction.

    Attributes:
        words: (W,) the words, split at white space.
        prediction: (T,) prediction with the whole text, in the targets' units.
        change: (W, T) prediction with the word masked minus that.
        same_words: whether all places of a word were masked at once.
    """

    words: list[str]
    prediction: NDArray[np.float64]
    change: NDArray[np.float64]
    same_words: bool = False

    def ranking(self, column: int) -> list[int]:
        """Return the places by falling absolute change of a target; of words masked together the first place alone."""
        order: list[int] = np.argsort(-np.abs(self.change[:, column]), kind="stable").tolist()
        return [place for place in order if not self.same_words or self.words.index(self.words[place]) == place]

    def shares(self, column: int) -> NDArray[np.float64]:
        """Return (W,) changes of a target as shares of the largest absolute one, from -1 to 1."""
        largest = float(np.abs(self.change[:, column]).max(initial=0.0))
        shares: NDArray[np.float64] = self.change[:, column] / (largest or 1.0)
        return shares


@dataclass(frozen=True)
class WordMean:
    """What masking a word does on the average over texts.

    Attributes:
        word: the word, without punctuation around it.
        num_texts: texts that have it.
        num_places: places where it stands.
        change: mean change over these places, in the target's unit.
        absolute: mean absolute change.
    """

    word: str
    num_texts: int
    num_places: int
    change: float
    absolute: float


def masked_texts(text: str, *, same_words: bool = False) -> list[tuple[str, list[int]]]:
    """Return texts with words masked, and the places of those.

    Args:
        text: words, divided by white space.
        same_words: mask all places of a word at once instead of one place at a time.
    """
    words = text.split()
    places: dict[str | int, list[int]] = defaultdict(list)
    for place, word in enumerate(words):
        places[word if same_words else place].append(place)
    found = []
    for chosen in places.values():
        masked = list(words)
        for place in chosen:
            masked[place] = MASK
        found.append((" ".join(masked), chosen))
    return found


def word_effects(
    texts: Sequence[str],
    predict: Callable[[Sequence[str], Sequence[int]], NDArray[np.float64]],
    *,
    same_words: bool = False,
) -> list[WordEffects]:
    """Mask every word of every text.

    Args:
        texts: (N,) texts of N crystals.
        predict: takes texts and the number of the crystal that each belongs to, returns predictions (M, T).
        same_words: mask all places of a word in a text at once; each of them gets the change.
    """
    masked = [masked_texts(text, same_words=same_words) for text in texts]
    asked: list[str] = []
    owners: list[int] = []
    for number, (text, variants) in enumerate(zip(texts, masked, strict=True)):
        asked += [" ".join(text.split()), *(variant for variant, _ in variants)]
        owners += [number] * (len(variants) + 1)
    predicted = predict(asked, owners)
    found = []
    start = 0
    for text, variants in zip(texts, masked, strict=True):
        words = text.split()
        part = predicted[start : start + len(variants) + 1]
        change = np.zeros((len(words), predicted.shape[1]))
        for (_, places), value in zip(variants, part[1:], strict=True):
            change[places] = value - part[0]
        found.append(WordEffects(words, part[0], change, same_words))
        start += len(variants) + 1
    return found


def word_means(effects: Sequence[WordEffects], column: int) -> list[WordMean]:
    """Return what words of several texts do to a target on the average, the largest mean absolute change first."""
    changes: dict[str, list[float]] = defaultdict(list)
    texts: dict[str, set[int]] = defaultdict(set)
    for number, effect in enumerate(effects):
        for word, change in zip(effect.words, effect.change[:, column].tolist(), strict=True):
            bare = _PUNCTUATION.sub("", word) or word
            changes[bare].append(change)
            texts[bare].add(number)
    means = [
        WordMean(word, len(texts[word]), len(values), float(np.mean(values)), float(np.mean(np.abs(values))))
        for word, values in changes.items()
    ]
    return sorted(means, key=lambda one: -one.absolute)


def colored_html(effects: WordEffects, column: int) -> str:
    """Return the text as HTML: words whose masking raises the prediction on red, those that lower it on blue."""
    spans = []
    shares = effects.shares(column).tolist()
    for word, change, share in zip(effects.words, effects.change[:, column].tolist(), shares, strict=True):
        color = ",".join(map(str, RISE if share > 0 else FALL))
        spans.append(
            f'<span style="background:rgba({color},{abs(share):.2f})" title="{change:+.4g}">{html.escape(word)}</span>'
        )
    return " ".join(spans)
