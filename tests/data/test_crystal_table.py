"""What data sets of crystals share: numbers, missing and wrong ones, and the first asset at hand."""

import logging

import numpy as np
import pytest
from crystal_files import fake_store, jarvis_atoms

from crystalfm.chem.crystal_io import crystal_from_jarvis
from crystalfm.contracts import UserError
from crystalfm.data.crystal_table import (
    RawCrystal,
    extended_splits,
    first_at_hand,
    number_of,
    official_parts,
    parse_crystals,
)


@pytest.mark.parametrize("value", [None, "", " ", "na", "NaN", "n/a", "null", float("nan"), "-"])
def test_missing_numbers(value):
    assert np.isnan(number_of(value))


@pytest.mark.parametrize(("value", "number"), [(1, 1.0), (2.5, 2.5), ("-3e-2", -0.03), (" 4 ", 4.0)])
def test_numbers(value, number):
    assert number_of(value) == number


@pytest.mark.parametrize("value", ["high", "1_000", True, [1.0], {"a": 1}, float("inf"), "-inf", 10**400])
def test_no_numbers(value):
    assert number_of(value) is None


def raw(row, part="", **targets):
    return RawCrystal(f"r{row}", jarvis_atoms(row), targets, part)


def test_parsed_table_holds_all_that_is_needed():
    rows = [raw(0, "train", id=1, gap="x"), raw(1, "test", id="na"), RawCrystal("bad", {}, {"id": 2})]
    table = parse_crystals(rows, ["id", "gap"], crystal_from_jarvis, "toy")
    assert table["id"].to_pylist() == ["r0", "r1", "bad"]
    assert table["reason"].to_pylist()[:2] == [None, None]
    assert table["reason"].to_pylist()[2].startswith("unreadable structure: no JARVIS atoms")
    assert table["unreadable"].to_pylist() == ["gap", "", ""]
    assert table["structure"].to_pylist()[2] is None
    assert official_parts(table).tolist() == ["train", "test", ""]
    assert official_parts(parse_crystals([raw(0)], [], crystal_from_jarvis, "toy")) is None


def test_no_rows_and_repeated_ids():
    with pytest.raises(UserError, match="toy: no rows"):
        parse_crystals([], ["gap"], crystal_from_jarvis, "toy")
    with pytest.raises(UserError, match="toy: 1 ids occur more than once: r0"):
        parse_crystals([raw(0), raw(0)], ["gap"], crystal_from_jarvis, "toy")


def test_first_asset_at_hand(tmp_path, caplog):
    folders = {"mp_20": tmp_path, "jarvis_dft_3d_subset": tmp_path}
    names = ("mp_20", "jarvis_dft_3d_subset")
    with caplog.at_level(logging.WARNING, "crystalfm"):
        assert first_at_hand(fake_store(tmp_path, folders), names).name == "mp_20"
        assert caplog.text == ""
        found = first_at_hand(fake_store(tmp_path, folders, at_hand=names[1:]), names)
    assert found.name == "jarvis_dft_3d_subset"
    assert "mp_20 is not at hand" in caplog.text
    assert first_at_hand(fake_store(tmp_path, folders, at_hand=()), names).name == "mp_20"


def test_extended_split_needs_official_parts(make_table):
    with pytest.raises(UserError, match="no official split"):
        extended_splits(make_table(4), val_fraction=0.1, seed=1)
