"""Words masked one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalfm.explain.words import MASK, colored_html, masked_texts, word_effects, word_means


def letters(texts: Sequence[str], owners: Sequence[int]) -> NDArray[np.float64]:
    """A model that counts letters a, and one that adds a hundred times the owner."""
    return np.array([[text.count("a"), text.count("b") + 100 * one] for text, one in zip(texts, owners, strict=True)])


def test_each_word_is_masked_once() -> None:
    assert masked_texts("aa  b\nc") == [(f"{MASK} b c", [0]), (f"aa {MASK} c", [1]), (f"aa b {MASK}", [2])]
    assert masked_texts("aa aa") == [(f"{MASK} aa", [0]), (f"aa {MASK}", [1])]
    assert masked_texts("") == []


def test_all_places_of_a_word_are_masked_together() -> None:
    assert masked_texts("a b a", same_words=True) == [(f"{MASK} b {MASK}", [0, 2]), (f"a {MASK} a", [1])]
    (effects,) = word_effects(["a b a c"], letters, same_words=True)
    np.testing.assert_array_equal(effects.change, [[-2, 0], [0, -1], [-2, 0], [0, 0]])
    assert effects.ranking(0) == [0, 1, 3]


def test_means_are_over_places_and_take_off_punctuation() -> None:
    effects = word_effects(["aa, b aa.", "a aa"], letters)
    first, second, third = word_means(effects, 0)
    assert (first.word, first.num_texts, first.num_places, first.change, first.absolute) == ("aa", 2, 3, -2, 2)
    assert (second.word, second.num_texts, second.num_places, second.change) == ("a", 1, 1, -1)
    assert (third.word, third.absolute) == ("b", 0)
    assert word_means([], 0) == []


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
