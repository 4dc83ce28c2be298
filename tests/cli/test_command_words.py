"""Places and options of commands that compose no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystalfm.cli.words import read_words
from crystalfm.contracts import UserError


def test_places_options_and_settings_are_told_apart() -> None:
    argv = ["runs/a", "output=there", "logger.project=p", "runs/b"]
    words = read_words("compare", argv, {"split": "test", "output": ""}, ("logger",))
    assert words.places == ["runs/a", "runs/b"]
    assert words.options == {"split": "test", "output": "there"}
    assert words.overrides == ["logger.project=p"]


def test_the_last_of_an_option_counts_and_may_hold_an_equals_sign() -> None:
    assert read_words("card", ["output=a", "output=b=c"], {"output": ""}).options == {"output": "b=c"}


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="crystalfm card has no option format") as found:
        read_words("card", ["format=svg"], {"output": ""}, ("logger",))
    assert found.value.remedy == "options: output, logger"


def test_a_folder_whose_name_has_an_equals_sign_is_a_place(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    assert read_words("compare", [str(folder)], {"output": ""}).places == [str(folder)]
