"""What taking parts of texts away does to errors, against predictors that are known through and through."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalfm.explain.erasure import ErasureSettings, erase, measure
from crystalfm.explain.tags import Part

SETTINGS = ErasureSettings(control_draws=2, bootstrap=200, seed=3)
TEXTS = [
    [Part(f"Weight {weight}. ", "weight"), Part("Some more words that say nothing at all. ", "filler")]
    for weight in (1, 2, 3, 4)
] + [[Part("No weight here. ", "filler")]]
TRUE = np.array([1.0, 2.0, 3.0, 4.0, np.nan])


def errors_of(texts: Sequence[str]) -> NDArray[np.float64]:
    """Errors of a model that reads the weight, and says 0 where it finds none."""
    found = [re.search(r"Weight (\d)", text) for text in texts]
    predicted = np.array([0.0 if one is None else float(one[1]) for one in found])
    errors: NDArray[np.float64] = np.abs(predicted - TRUE)[:, None]
    return errors


def count_tokens(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def test_only_the_part_that_is_read_matters() -> None:
    weight, filler = measure(
        erase(TEXTS, ["weight", "filler"], SETTINGS), errors_of, count_tokens, ["mass_g"], SETTINGS
    )
    assert (weight.tag, weight.num_texts, weight.mean_tokens) == ("weight", 4, 8 / 5)
    assert weight.mae == weight.change.value == 2.5
    assert weight.change.low < 2.5 < weight.change.high
    assert filler.change.value == filler.change.low == filler.change.high == 0.0
    for one in (weight, filler):
        assert one.excess.value == pytest.approx(one.change.value - one.control.value)


def test_the_control_takes_as_many_words() -> None:
    texts = erase(TEXTS, ["weight", "filler"], SETTINGS)
    whole = [text.split() for text in texts.whole]
    for tag, draws in texts.controls.items():
        assert len(draws) == 2
        for draw in draws:
            for parts, text, words in zip(TEXTS, draw, whole, strict=True):
                gone = sum(len(part.text.split()) for part in parts if part.tag == tag)
                assert len(text.split()) == len(words) - gone
    assert texts.controls["filler"][0] != texts.controls["filler"][1]
    assert erase(TEXTS, ["weight"], SETTINGS).controls["weight"] == texts.controls["weight"]


def test_texts_to_predict_are_named_with_their_crystals() -> None:
    texts = erase(TEXTS, ["weight"], SETTINGS)
    named, owners = texts.pairs()
    found = set(zip(named, owners, strict=True))
    for group in (texts.whole, texts.erased["weight"], *texts.controls["weight"]):
        assert {(text, number) for number, text in enumerate(group)} <= found


@pytest.mark.parametrize("draws", [1, 4])
def test_the_number_of_draws(draws: int) -> None:
    texts = erase(TEXTS, ["filler"], ErasureSettings(control_draws=draws))
    assert len(texts.controls["filler"]) == draws
