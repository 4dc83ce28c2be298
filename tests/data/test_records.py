"""Record tables: content hash, selection, rejections."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.data.records import (
    Rejection,
    enforce_rejection_limit,
    group_numbers,
    represent,
    write_rejected,
)


def test_equal_content_has_an_equal_hash(make_table):
    assert make_table(5).content_hash == make_table(5).content_hash


def test_hash_ignores_spec_and_rejected_rows(make_table):
    table = make_table(5)
    other = replace(table, rejected=[Rejection("x", "bad")], spec=replace(table.spec, name="other"))
    assert other.content_hash == table.content_hash


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"ids": np.array(["a", "b", "c"])},
        lambda t: {"fields": {"smiles": ["C", "CC", "N"]}},
        lambda t: {"fields": {"smiles": ["C", "CC", None]}},
        lambda t: {"fields": {"smiles": ["C", "CC", ""]}},
        lambda t: {"fields": {"smiles": ["CC", "C", "CCC"]}},
        lambda t: {"targets": t.targets + 1e-12},
        lambda t: {"targets": np.array([[0.0], [1.0], [np.nan]])},
        lambda t: {"target_specs": (TargetSpec("gap", "hartree"),)},
    ],
)
def test_hash_changes_with_every_part(make_table, change):
    table = make_table(3)
    assert replace(table, **change(table)).content_hash != table.content_hash


def test_hash_tells_a_missing_field_from_an_empty_one(make_table):
    assert make_table(smiles=["C", None]).content_hash != make_table(smiles=["C", ""]).content_hash


def test_hash_does_not_depend_on_the_kind_of_nan_or_zero(make_table):
    table = make_table(2)
    quiet, signed = (np.array([bits], dtype=np.uint64).view(np.float64)[0] for bits in (0x7FF8 << 48, 0xFFF8 << 48))
    first = replace(table, targets=np.array([[quiet], [0.0]]))
    second = replace(table, targets=np.array([[signed], [-0.0]]))
    assert first.content_hash == second.content_hash


def test_select_by_positions_keeps_their_order(make_table):
    chosen = make_table(5).select([3, 1])
    assert chosen.ids.tolist() == ["m3", "m1"]
    assert chosen.fields["smiles"] == ["CCCC", "CC"]
    assert chosen.targets[:, 0].tolist() == [3.0, 1.0]
    assert len(chosen.groups) == len(chosen) == 2


def test_select_by_mask_and_nothing(make_table):
    table = make_table(3)
    assert table.select(np.array([True, False, True])).ids.tolist() == ["m0", "m2"]
    assert len(table.select([])) == 0


def test_official_parts_follow_their_rows(make_table):
    table = replace(make_table(4), parts=np.array(["train", "val", "test", "train"]))
    assert table.select([2, 0]).parts.tolist() == ["test", "train"]
    assert table.without([RowProblem(0, "impossible", "C")]).parts.tolist() == ["val", "test", "train"]
    assert make_table(4).select([0]).parts is None
    assert table.content_hash == make_table(4).content_hash


def test_columns_of_different_length_are_a_programming_error(make_table):
    table = make_table(3)
    with pytest.raises(ValueError, match="3 ids, but"):
        replace(table, fields={"smiles": ["C"]})
    with pytest.raises(ValueError, match="targets have shape"):
        replace(table, targets=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="3 ids, but"):
        replace(table, parts=np.array(["train"]))


def test_without_turns_problems_into_rejections(make_table):
    table = replace(make_table(4), rejected=[Rejection("old", "earlier")])
    left = table.without([RowProblem(1, "impossible", "CC")])
    assert left.ids.tolist() == ["m0", "m2", "m3"]
    assert left.rejected == [Rejection("old", "earlier"), Rejection("m1", "impossible", "CC")]
    assert table.without([]) is table


def test_represent_drops_rows_that_selfies_cannot_encode(make_table):
    table, values = represent(make_table(smiles=["CCO", "CI(=O)=O", "CN"]), ["smiles", "selfies"])
    assert table.ids.tolist() == ["m0", "m2"]
    assert values == {"smiles": ["CCO", "CN"], "selfies": ["[C][C][O]", "[C][N]"]}
    assert [item.id for item in table.rejected] == ["m1"]


def test_represent_rejects_rows_without_any_chosen_modality(make_table):
    bare = make_table(smiles=["CCO", None, None])
    described = replace(bare, fields={**bare.fields, "description": [None, "a gas", None]})
    table, values = represent(described, ["smiles", "description"])
    assert values == {"smiles": ["CCO", None], "description": [None, "a gas"]}
    assert table.rejected == [Rejection("m2", "has none of the modalities smiles, description")]


def test_represent_without_modalities_keeps_every_row(make_table):
    table, values = represent(make_table(smiles=["C", None]), [])
    assert len(table) == 2
    assert values == {}


def test_groups_are_equal_for_equal_keys_and_alone_without_key():
    groups = group_numbers(["a", "b", "a", None, None]).tolist()
    assert groups[0] == groups[2]
    assert len(set(groups)) == 4


def test_rejected_file_survives_commas_quotes_and_line_breaks(tmp_path):
    rows = [Rejection("a,1", 'said "no"', "C\nC"), Rejection("b", "no target")]
    write_rejected(tmp_path / "run" / "rejected.csv", rows)
    with (tmp_path / "run" / "rejected.csv").open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [
            ["id", "reason", "value"],
            ["a,1", 'said "no"', "C\nC"],
            ["b", "no target", ""],
        ]


def test_rejected_file_is_written_for_no_rows(tmp_path):
    write_rejected(tmp_path / "rejected.csv", [])
    assert (tmp_path / "rejected.csv").read_text() == "id,reason,value\n"


def test_limit_is_inclusive_and_empty_data_pass():
    rejected = [Rejection("1", "bad")]
    enforce_rejection_limit(rejected, 100, 0.01)
    enforce_rejection_limit([], 0, 0.0)
    with pytest.raises(UserError):
        enforce_rejection_limit(rejected, 99, 0.01)


def test_limit_error_shows_the_first_rows_and_the_way_out():
    rejected = [Rejection(str(row), "not a SMILES", "C1CC" * 50) for row in range(8)]
    with pytest.raises(UserError) as caught:
        enforce_rejection_limit(rejected, 64, 0.01)
    text = str(caught.value)
    assert "8 of 64 rows (12.5%)" in text
    assert "0: not a SMILES [C1CC" in text
    assert "… and 3 more" in text
    assert "max_rejected_fraction=0.13" in text
    assert all(len(line) < 120 for line in text.splitlines())
    enforce_rejection_limit(rejected, 64, 0.13)
