"""Lists of records: plain, compressed, zipped, one a line, and broken ones."""

import gzip
import json
import zipfile

import pytest

from crystalfm.contracts import UserError
from crystalfm.data.json_records import read_json_text, read_records

RECORDS = [{"a": 1, "b": [1, {"c": "]"}]}, {"a": "na"}, {}]


@pytest.mark.parametrize(
    "text", [json.dumps(RECORDS), json.dumps(RECORDS, indent=2), "\n".join(map(json.dumps, RECORDS))]
)
def test_lists_and_lines(tmp_path, text):
    (tmp_path / "a.json").write_text(f"\n {text}\n")
    assert list(read_records(tmp_path / "a.json")) == RECORDS


def test_compressed_and_zipped(tmp_path):
    raw = json.dumps(RECORDS).encode()
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(raw))
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.writestr("a.json", raw)
        archive.writestr("README", "text")
    assert list(read_records(tmp_path / "a.json.gz")) == list(read_records(tmp_path / "a.json.zip")) == RECORDS


def test_records_come_one_at_a_time(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}, oops')
    records = read_records(tmp_path / "a.json")
    assert [next(records), next(records)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match=r"a\.json, record from line 1: no JSON"):
        next(records)


@pytest.mark.parametrize(
    ("text", "words"),
    [('[{"a": 1}', "ends in the middle"), ("[1]", "holds a int"), ("3", "holds a int"), ("[", "ends in the middle")],
)
def test_other_content(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        list(read_records(tmp_path / "a.json"))


def test_empty_files_hold_no_records(tmp_path):
    (tmp_path / "a.json").write_text("")
    assert list(read_records(tmp_path / "a.json")) == []


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_json_text(tmp_path / "absent.json")
    (tmp_path / "a.json.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be read"):
        read_json_text(tmp_path / "a.json.zip")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[]" * 500)[:12])
    with pytest.raises(UserError, match="cannot be read"):
        read_json_text(tmp_path / "a.json.gz")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        read_json_text(tmp_path / "a.json")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
    with pytest.raises(UserError, match="holds 2 JSON files"):
        read_json_text(tmp_path / "two.zip")
