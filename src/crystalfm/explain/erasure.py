"""Comprehensiveness: how much a model's error grows when a part of its texts is taken away, with a control.

Errors are mean absolute ones. The model stays as it is; only the texts change (DeYoung et al., ACL 2020; for crystals
Li et al., Digital Discovery 4, 376 (2025), section 3.3). A part that is longer takes more away, so beside each tag
stands a control: as many words, in pieces of the same lengths, taken away at random places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.explain.tags import without
from crystalfm.metrics.bootstrap import RESAMPLES, Interval, mean_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crystalfm.explain.tags import Part


@dataclass(frozen=True)
class TagErasure:
    """What taking a tag's parts away does to one target.

    Attributes:
        tag: the tag.
        target: label of the target.
        num_texts: texts that have such a part.
        mean_tokens: mean number of the encoder's tokens that go, over all texts.
        mae: mean absolute error without the parts, in the target's unit.
        change: that minus the error with whole texts.
        control: the same for the random pieces of the same lengths, the mean of all draws.
        excess: by how much the former error is above the latter, crystal by crystal.
    """

    tag: str
    target: str
    num_texts: int
    mean_tokens: float
    mae: float
    change: Interval
    control: Interval
    excess: Interval


@dataclass(frozen=True)
class ErasureSettings:
    """How erasure is measured.

    Attributes:
        control_draws: random erasures for each text and tag.
        bootstrap: resamples of the crystals.
        seed: seed of both.
    """

    control_draws: int = 3
    bootstrap: int = RESAMPLES
    seed: int = 42


@dataclass(frozen=True)
class ErasedTexts:
    """The texts that a measurement needs predicted, each once.

    Attributes:
        whole: (N,) the texts as they are.
        erased: by tag, (N,) texts without its parts.
        controls: by tag, for each draw (N,) texts without random pieces of the same lengths.
    """

    whole: list[str]
    erased: dict[str, list[str]]
    controls: dict[str, list[list[str]]]

    def pairs(self) -> tuple[list[str], list[int]]:
        """Return every text, and the number of the crystal it belongs to."""
        groups = [self.whole, *self.erased.values(), *(draw for draws in self.controls.values() for draw in draws)]
        return [text for group in groups for text in group], list(range(len(self.whole))) * len(groups)


def erase(parts: Sequence[Sequence[Part]], tags: Sequence[str], settings: ErasureSettings) -> ErasedTexts:
    """Return all texts of a measurement.

    Args:
        parts: parts of each of N texts.
        tags: tags to take away, one at a time.
        settings: how many draws, and their seed.
    """
    whole = ["".join(part.text for part in one) for one in parts]
    erased = {tag: [without(one, tag) for one in parts] for tag in tags}
    controls: dict[str, list[list[str]]] = {}
    for place, tag in enumerate(tags):
        draws = []
        for draw in range(settings.control_draws):
            rng = np.random.default_rng([settings.seed, place, draw])
            draws.append([_randomly_erased(one, tag, rng) for one in parts])
        controls[tag] = draws
    return ErasedTexts(whole, erased, controls)


def measure(
    texts: ErasedTexts,
    errors_of: Callable[[Sequence[str]], NDArray[np.float64]],
    count_tokens: Callable[[Sequence[str]], NDArray[np.int64]],
    targets: Sequence[str],
    settings: ErasureSettings,
) -> list[TagErasure]:
    """Measure what each tag is worth.

    Args:
        texts: what ``erase`` returned.
        errors_of: takes one text for each of the N crystals, returns absolute errors (N, T), NaN where the target is
            not known.
        count_tokens: counts the encoder's tokens of texts.
        targets: label of each of the T targets.
        settings: resamples and their seed.

    Returns:
        tags in their order, targets in theirs within each.
    """
    interval = partial(mean_interval, resamples=settings.bootstrap, seed=settings.seed)
    before = errors_of(texts.whole)
    length = count_tokens(texts.whole)
    found = []
    for tag, erased in texts.erased.items():
        after = errors_of(erased)
        control = np.mean([errors_of(draw) for draw in texts.controls[tag]], axis=0)
        gone = length - count_tokens(erased)
        num_texts = sum(one != whole for one, whole in zip(erased, texts.whole, strict=True))
        for column, target in enumerate(targets):
            found.append(
                TagErasure(
                    tag=tag,
                    target=target,
                    num_texts=num_texts,
                    mean_tokens=float(gone.mean()),
                    mae=float(np.nanmean(after[:, column])),
                    change=interval(after[:, column] - before[:, column]),
                    control=interval(control[:, column] - before[:, column]),
                    excess=interval(after[:, column] - control[:, column]),
                )
            )
    return found


def _randomly_erased(parts: Sequence[Part], tag: str, rng: np.random.Generator) -> str:
    """Return the text without as many words as the tag's parts have, in pieces as long as those, at random places."""
    words = "".join(part.text for part in parts).split()
    for part in parts:
        count = len(part.text.split()) if part.tag == tag else 0
        if count:
            start = int(rng.integers(len(words) - count + 1))
            del words[start : start + count]
    return " ".join(words)
