"""Pictures and tables of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from crystalfm.contracts import TargetSpec
from crystalfm.explain.words import RISE, WordEffects, word_means
from crystalfm.report.explained_words import word_figure, word_table

GAP = TargetSpec("gap", "eV")


def effects(words: list[str], change: list[float], *, same_words: bool = False) -> WordEffects:
    return WordEffects(words, np.array([1.5]), np.array(change)[:, None], same_words)


def reddish(path: Path) -> int:
    """Number of pixels as red as the ground of the word that matters most."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    expected = 255 - 0.85 * (255 - np.array(RISE))
    return int((np.abs(pixels - expected).max(axis=-1) < 6).sum())


def test_the_word_that_raises_the_prediction_stands_on_red(tmp_path: Path) -> None:
    words = ["ScCo3C", "is", "$cubic$"]
    strong = word_figure("a", effects(words, [0.3, 0.0, -0.1]), GAP, 0, tmp_path / "a.png")
    none = word_figure("a", effects(words, [-0.3, 0.0, -0.1]), GAP, 0, tmp_path / "b.png")
    assert reddish(strong) > 200
    assert reddish(none) == 0


def test_longer_texts_make_taller_pictures_up_to_a_limit(tmp_path: Path) -> None:
    heights = []
    for number in (10, 100, 400, 900):
        words = [f"word{place}" for place in range(number)]
        path = word_figure("a", effects(words, [0.1] * number), GAP, 0, tmp_path / f"{number}.png")
        heights.append(Image.open(path).height)
    assert heights[0] < heights[1] < heights[2]
    assert heights[3] - heights[2] < 40  # cut at 400 words


def test_a_text_without_words_or_changes_is_drawn(tmp_path: Path) -> None:
    assert word_figure("a", effects([], []), GAP, 0, tmp_path / "a.png").is_file()
    assert word_figure("a", effects(["a"], [0.0]), GAP, 0, tmp_path / "b.png").is_file()


def test_the_table_names_the_strongest_words_first() -> None:
    means = word_means([effects(["bond", "is", "bond"], [-0.4, 0.1, -0.2])], 0)
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(word_table(means, GAP, texts=1))
    lines = capture.get().splitlines()
    (bond,) = [line for line in lines if line.strip().startswith("bond")]
    assert bond.split() == ["bond", "1", "2", "0.300", "-0.3"]
    assert "at least" not in capture.get()
    with console.capture() as capture:
        console.print(word_table(means, GAP, texts=21))
    assert "words of at least 2 texts" in capture.get()
    assert "bond" not in capture.get()
    assert lines.index(bond) < next(number for number, line in enumerate(lines) if line.strip().startswith("is"))
