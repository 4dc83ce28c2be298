"""``data=csv``: which rows of a user's table are taken, and why the others are not."""

import numpy as np
import pandas as pd
import pytest

from crystalfm.contracts import UserError
from crystalfm.data.splits import make_splits
from crystalfm.data.table import MoleculeTable


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def small(tmp_path):
    return write(
        tmp_path,
        "key,smiles,gap,text,dipole\na,CCO,1.5,a liquid,0.1\nb,OCC,2.5,,na\nc,C,-3e-2,a gas,\n",
    )


def test_ids_fields_targets_and_units(small):
    data = MoleculeTable(
        path=small,
        targets=["dipole", "gap"],
        id_column="key",
        description_column="text",
        units={"gap": "eV"},
    )
    table = data.load()
    assert table.ids.tolist() == ["a", "b", "c"]
    assert table.fields == {"smiles": ["CCO", "OCC", "C"], "description": ["a liquid", None, "a gas"]}
    np.testing.assert_array_equal(table.targets, [[0.1, 1.5], [np.nan, 2.5], [np.nan, -0.03]])
    assert [(spec.name, spec.unit) for spec in table.target_specs] == [("dipole", "1"), ("gap", "eV")]
    assert table.groups[0] == table.groups[1] != table.groups[2]
    assert table.spec.modalities == ("smiles", "selfies", "fingerprint", "molecular_graph", "description")
    assert table.rejected == []


def test_row_numbers_are_ids_and_do_not_shift_with_rejections(tmp_path):
    path = write(tmp_path, "smiles,gap\nC,1\nbad smiles,2\nN,3\n")
    table = MoleculeTable(path=path, targets=["gap"]).load()
    assert table.ids.tolist() == ["0", "2"]
    assert [item.id for item in table.rejected] == ["1"]
    assert "description" not in table.spec.fields


@pytest.mark.parametrize(
    ("row", "reason", "value"),
    [
        ("x,,1,2", "no SMILES", ""),
        ("x,C1CC,1,2", "not a SMILES: a ring is opened and not closed", "C1CC"),
        ("x,CC(C)(C)(C)C,1,2", "impossible molecule: ", "CC(C)(C)(C)C"),
        ("x,C,one,2", "target 'gap' is not a number", "one"),
        ('x,C,1,"0,5"', "target 'mu' is not a number", "0,5"),
        ("x,C,inf,2", "target 'gap' is not finite", "inf"),
        ("x,C,,NA", "no target", ""),
        (",C,1,2", "no id", ""),
        ("x,C1CC,one,", "not a SMILES", "C1CC"),
    ],
)
def test_bad_rows_are_rejected_with_reason_and_value(tmp_path, row, reason, value):
    path = write(tmp_path, f"key,smiles,gap,mu\ng,CC,1,2\n{row}\n")
    table = MoleculeTable(path=path, targets=["gap", "mu"], id_column="key").load()
    assert table.ids.tolist() == ["g"]
    (rejected,) = table.rejected
    assert rejected.id == ("row 1" if reason == "no id" else "x")
    assert rejected.reason.startswith(reason)
    assert rejected.value == value


def test_row_with_a_description_alone_is_taken(tmp_path):
    path = write(tmp_path, "smiles,text,gap\nC,,1\n,a metal,2\n,a metal,3\n,,4\n")
    table = MoleculeTable(path=path, targets=["gap"], description_column="text").load()
    assert table.fields["smiles"] == ["C", None, None]
    assert table.groups[1] == table.groups[2] != table.groups[0]
    assert [item.reason for item in table.rejected] == ["no SMILES and no description"]


def test_repeated_ids_are_listed(tmp_path):
    path = write(tmp_path, "key,smiles,gap\na,C,1\nb,N,1\na,O,1\nb,F,1\nc,CC,1\n")
    with pytest.raises(UserError, match="2 ids more than once: a, b"):
        MoleculeTable(path=path, targets=["gap"], id_column="key").load()


def test_missing_columns_are_named_before_reading(small):
    with pytest.raises(UserError, match=r"no column homo"):
        MoleculeTable(path=small, targets=["homo"]).spec()
    with pytest.raises(UserError, match=r"did you mean 'smiles'"):
        MoleculeTable(path=small, targets=["gap"], smiles_column="Smile").spec()


def test_units_must_name_targets(small):
    with pytest.raises(UserError, match=r"data.units names homo"):
        MoleculeTable(path=small, targets=["gap"], units={"homo": "eV"})


def test_a_table_of_bad_rows_alone_is_an_error(tmp_path):
    path = write(tmp_path, "smiles,gap\nxx,1\nyy,2\n")
    with pytest.raises(UserError, match=r"all 2 rows .* were rejected; 0: not a SMILES"):
        MoleculeTable(path=path, targets=["gap"]).load()


def test_parquet_and_csv_give_the_same_records(tmp_path):
    frame = pd.DataFrame({"smiles": ["C", "CCO"], "gap": [0.1, 1 / 3]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    tables = [MoleculeTable(path=str(tmp_path / name), targets=["gap"]).load() for name in ("t.parquet", "t.csv")]
    assert tables[0].content_hash == tables[1].content_hash
    assert tables[0].targets[1, 0] == 1 / 3


def test_limit_looks_at_that_many_rows_and_keeps_their_ids(tmp_path):
    rows = "".join(f"{'C' * (row + 1)},{row}\n" for row in range(30))
    path = write(tmp_path, "smiles,gap\n" + rows)
    table = MoleculeTable(path=path, targets=["gap"], limit=7, seed=1).load()
    assert len(table) == 7
    assert [float(item) for item in table.ids] == table.targets[:, 0].tolist() == sorted(table.targets[:, 0])
    assert table.fields["smiles"] == ["C" * (int(item) + 1) for item in table.ids]


def test_equal_molecules_in_different_spelling_stay_together(tmp_path):
    spellings = ["CCO", "OCC", "C(C)O", "[CH3][CH2][OH]"]
    others = ["C" * (length + 3) for length in range(30)]
    path = write(tmp_path, "smiles,gap\n" + "".join(f"{text},1\n" for text in [*spellings, *others]))
    table = MoleculeTable(path=path, targets=["gap"]).load()
    for seed in range(10):
        splits = make_splits(table, seed=seed)
        assert sum(bool(set(rows.tolist()) & {0, 1, 2, 3}) for rows in splits.parts.values()) == 1
