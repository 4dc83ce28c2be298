"""Splits: sizes, groups, files, leakage."""

import json
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalfm.contracts import UserError
from crystalfm.data.records import Rejection
from crystalfm.data.splits import (
    Splits,
    carry_over,
    check_leakage,
    make_splits,
    official_splits,
    read_splits,
    split_sizes,
    write_splits,
)

PROPERTY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write_file(path, **parts):
    path.write_text(json.dumps({"version": 1, "train": [], "val": [], "test": [], **parts}))
    return path


def test_paper_sizes_of_qm9():
    assert split_sizes(133_885, 0.1, 0.1) == (108_446, 12_050, 13_389)


def test_sizes_do_not_suffer_from_floating_point():
    assert 0.07 * 100 > 7
    assert split_sizes(100, 0.07, 0.0) == (93, 0, 7)


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (1.0, 0.1), (0.1, 1.5), (float("nan"), 0.1)])
def test_fractions_outside_their_range(fractions):
    with pytest.raises(UserError, match=r"not in \[0, 1\)"):
        split_sizes(100, *fractions)


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_too_few_rows(num_rows):
    with pytest.raises(UserError, match="none to train on"):
        split_sizes(num_rows, 0.1, 0.1)


@PROPERTY
@given(num_rows=st.integers(3, 300), seed=st.integers(0, 2**32))
def test_different_molecules_are_split_exactly(make_table, num_rows, seed):
    splits = make_splits(make_table(num_rows), seed=seed)
    num_test = ceil(round(num_rows * 0.1, 9))
    num_val = ceil(round((num_rows - num_test) * 0.1, 9))
    assert splits.sizes == {"train": num_rows - num_test - num_val, "val": num_val, "test": num_test}
    together = np.concatenate(list(splits.parts.values()))
    assert sorted(together.tolist()) == list(range(num_rows))
    assert all(np.all(np.diff(rows) > 0) for rows in splits.parts.values())


@PROPERTY
@given(keys=st.lists(st.integers(0, 40), min_size=30, max_size=120), seed=st.integers(0, 1000))
def test_a_molecule_is_never_on_two_sides(make_table, keys, seed):
    table = make_table(smiles=["C"] * len(keys), groups=[str(key) for key in keys])
    try:
        splits = make_splits(table, seed=seed)
    except UserError:
        return  # so few molecules that a part would be empty
    check_leakage(table, splits)
    _, wanted_val, wanted_test = split_sizes(len(keys), 0.1, 0.1)
    largest = max(np.unique(keys, return_counts=True)[1])
    assert wanted_test - largest < splits.sizes["test"] <= wanted_test
    assert wanted_val - largest < splits.sizes["val"] <= wanted_val
    assert sum(splits.sizes.values()) == len(keys)


def test_pairs_do_not_change_the_sizes_while_there_are_single_rows(make_table):
    table = make_table(smiles=["C"] * 100, groups=[str(max(row, 10)) if row % 2 else str(row) for row in range(100)])
    for seed in range(20):
        assert make_splits(table, seed=seed).sizes == {"train": 81, "val": 9, "test": 10}


def test_seed_decides_the_split(make_table):
    table = make_table(50)
    first, again, other = (make_splits(table, seed=seed) for seed in (1, 1, 2))
    assert first.test.tolist() == again.test.tolist()
    assert first.test.tolist() != other.test.tolist()


def test_split_is_the_documented_permutation(make_table):
    order = np.random.default_rng(7).permutation(40)
    splits = make_splits(make_table(40), seed=7)
    assert splits.test.tolist() == sorted(order[:4].tolist())
    assert splits.val.tolist() == sorted(order[4:8].tolist())


def test_one_molecule_cannot_be_split(make_table):
    with pytest.raises(UserError, match="20 rows hold 1 molecules"):
        make_splits(make_table(smiles=["C"] * 20, groups=["x"] * 20))


def test_zero_fractions_leave_parts_empty(make_table):
    splits = make_splits(make_table(9), test_fraction=0.0, val_fraction=0.0)
    assert splits.sizes == {"train": 9, "val": 0, "test": 0}


def test_file_round_trip(make_table, tmp_path):
    table = make_table(30)
    splits = make_splits(table, seed=3)
    write_splits(tmp_path / "split.json", table, splits, seed=3)
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["version"], content["split_seed"]) == (1, 3)
    assert content["content_hash"] == table.content_hash
    again = read_splits(tmp_path / "split.json", table)
    assert all(np.array_equal(splits[name], again[name]) for name in ("train", "val", "test"))
    assert again.num_unused == 0


def test_file_of_a_reordered_table_finds_the_same_molecules(make_table, tmp_path):
    table = make_table(30)
    splits = make_splits(table, seed=3)
    write_splits(tmp_path / "split.json", table, splits)
    turned = table.select(np.arange(30)[::-1])
    again = read_splits(tmp_path / "split.json", turned)
    assert set(turned.ids[again.test]) == set(table.ids[splits.test])
    assert np.all(np.diff(again.test) > 0)


def test_rows_that_the_file_does_not_name_are_counted(make_table, tmp_path):
    path = write_file(tmp_path / "s.json", train=["m0", "m1"], test=["m2"])
    splits = read_splits(path, make_table(10))
    assert splits.sizes == {"train": 2, "val": 0, "test": 1}
    assert splits.num_unused == 7


def test_absent_ids(make_table, tmp_path):
    path = write_file(tmp_path / "s.json", train=["m0", "other"], test=["m1"])
    with pytest.raises(UserError, match="1 ids that the data do not have: other"):
        read_splits(path, make_table(5))
    assert read_splits(path, make_table(5), allow_absent=True).sizes["train"] == 1


def test_rejected_ids_may_be_in_the_file(make_table, tmp_path):
    table = make_table(5)
    table.rejected.append(Rejection("bad", "not a SMILES"))
    path = write_file(tmp_path / "s.json", train=["m0", "bad"], test=["m1"])
    assert read_splits(path, table).sizes == {"train": 1, "val": 0, "test": 1}


@pytest.mark.parametrize("parts", [{"train": ["m0", "m0"]}, {"train": ["m0"], "test": ["m0"]}])
def test_repeated_ids(make_table, tmp_path, parts):
    with pytest.raises(UserError, match="lists id m0 twice"):
        read_splits(write_file(tmp_path / "s.json", **parts), make_table(3))


def test_leakage_in_a_file_is_refused_with_both_ids(make_table, tmp_path):
    table = make_table(smiles=["CCO", "OCC", "C"], groups=["CCO", "CCO", "C"])
    path = write_file(tmp_path / "s.json", train=["m0", "m2"], test=["m1"])
    with pytest.raises(UserError, match="m0 in train and m1 in test"):
        read_splits(path, table)


def test_numeric_ids_in_a_hand_written_file(make_table, tmp_path):
    table = make_table(3)
    renamed = type(table)(**{**table.__dict__, "ids": np.array(["0", "1", "2"])})
    path = write_file(tmp_path / "s.json", train=[0, 1], test=[2])
    assert read_splits(path, renamed).sizes == {"train": 2, "val": 0, "test": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "is not a split file"),
        ('{"train": [], "val": []}', "no list of ids for test"),
        ('{"version": 9, "train": [], "val": [], "test": []}', "version 9"),
        ('{"train": [], "val": [], "test": []}', "names none of the 3 rows"),
    ],
)
def test_malformed_files(make_table, tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_splits(path, make_table(3))


def test_missing_file(make_table, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_splits(tmp_path / "none.json", make_table(3))


def test_file_that_is_not_text(make_table, tmp_path):
    (tmp_path / "s.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_splits(tmp_path / "s.json", make_table(3))


def test_carry_over_keeps_molecules_in_their_part(make_table):
    table = make_table(20)
    splits = make_splits(table, seed=5)
    remaining = table.select([row for row in range(20) if row % 3])
    carried = carry_over(splits, table, remaining)
    for name in ("train", "val", "test"):
        expected = [item for item in table.ids[splits[name]] if item in set(remaining.ids)]
        assert remaining.ids[carried[name]].tolist() == expected
        assert carried[name].dtype == np.int64
    assert carried.num_unused == 0


def test_carry_over_counts_rows_in_no_part(make_table):
    table = make_table(4)
    none = np.empty(0, dtype=np.int64)
    carried = carry_over(Splits(np.array([0, 1]), none, np.array([2]), 1), table, table.select([0, 2, 3]))
    assert carried.sizes == {"train": 1, "val": 0, "test": 1}
    assert carried.num_unused == 1


def test_official_split_is_the_one_of_the_records(make_table):
    table = replace(make_table(5), parts=np.array(["test", "train", "val", "train", ""]))
    splits = official_splits(table)
    assert {name: rows.tolist() for name, rows in splits.parts.items()} == {"train": [1, 3], "val": [2], "test": [0]}
    assert splits.num_unused == 1


def test_official_split_that_is_not_there_or_empty(make_table):
    with pytest.raises(UserError, match="has no official split"):
        official_splits(make_table(3))
    with pytest.raises(UserError, match=r"no row to train on here \(0 train, 1 val, 1 test\)"):
        official_splits(replace(make_table(2), parts=np.array(["val", "test"])))
