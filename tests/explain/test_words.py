"""Words masked one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalfm.explain.words import MASK, colored_html, masked_texts, word_effects


def letters(texts: Sequence[str], owners: Sequence[int]) -> NDArray[np.float64]:
    """A model that counts letters a, and one that adds a hundred times the owner."""
    return np.array([[text.count("a"), text.count("b") + 100 * one] for text, one in zip(texts, owners, strict=True)])


def test_each_word_is_masked_once() -> None:
    assert masked_texts("aa  b\nc") == [f"{MASK} b c", f"aa {MASK} c", f"aa b {MASK}"]
    assert masked_texts("") == []


def test_changes_are_those_of_the_masked_word() -> None:
    first, second = word_effects(["aa b abab", "b"], letters)
    assert first.words == ["aa", "b", "abab"]
    np.testing.assert_array_equal(first.prediction, [4, 3])
    np.testing.assert_array_equal(first.change, [[-2, 0], [0, -1], [-2, -2]])
    assert first.ranking(0) == [0, 2, 1]
    np.testing.assert_array_equal(second.prediction, [0, 101])
    np.testing.assert_array_equal(second.change, [[0, -1]])


def test_colours_go_with_sign_and_size_and_markup_is_escaped() -> None:
    (effects,) = word_effects(["aa <b> a"], letters)
    page = colored_html(effects, 0)
    assert page.count("<span") == 3
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert 'rgba(30,90,200,1.00)" title="-2"' in page
    assert 'rgba(30,90,200,0.50)" title="-1"' in page


def test_a_text_without_words_has_no_effects() -> None:
    (effects,) = word_effects([""], letters)
    assert effects.words == []
    assert effects.change.shape == (0, 2)
    assert colored_html(effects, 0) == ""
