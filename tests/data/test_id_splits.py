"""Published lists of ids: the layouts in use, and lists that do not fit."""

import json
import logging
import zipfile

import pytest

from crystalfm.contracts import UserError
from crystalfm.data.id_splits import parts_of_ids, read_id_splits

IDS = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.mark.parametrize(
    "content",
    [
        IDS,
        {f"id_{part}": ids for part, ids in IDS.items()},
        {part: dict.fromkeys(ids, 0.5) for part, ids in IDS.items()},
    ],
    ids=["plain", "alignn", "leaderboard"],
)
def test_layouts(tmp_path, content):
    (tmp_path / "ids.json").write_text(json.dumps(content))
    assert read_id_splits(tmp_path / "ids.json") == IDS


def test_zipped_and_without_validation(tmp_path):
    with zipfile.ZipFile(tmp_path / "ids.json.zip", "w") as archive:
        archive.writestr("ids.json", json.dumps({"train": {"1": 0.1}, "test": {"2": 0.2}}))
    assert read_id_splits(tmp_path / "ids.json.zip") == {"train": ["1"], "val": [], "test": ["2"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no list of ids for train"),
        ('{"train": ["a"]}', "no list of ids for test"),
        ('{"train": "a", "test": []}', "no list of ids for train"),
        ('{"train": ["a"], "val": [], "test": ["a"]}', "names a in train and in test"),
        ("{", "no JSON"),
    ],
)
def test_files_that_are_no_lists(tmp_path, content, words):
    (tmp_path / "ids.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_id_splits(tmp_path / "ids.json")


def test_parts(caplog):
    with caplog.at_level(logging.WARNING, "crystalfm"):
        parts = parts_of_ids(IDS, ["d", "x", "a"], "the list")
    assert parts.tolist() == ["test", "", "train"]
    assert "the list names 4 ids, of which the data have 2" in caplog.text
    with pytest.raises(UserError, match=r"names none of the 1 ids(?s:.*)its first is a, theirs x"):
        parts_of_ids(IDS, ["x"], "the list")
