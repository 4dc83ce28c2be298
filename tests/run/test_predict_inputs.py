"""What ``input=`` may be, and how predictions are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.run.predict import Inputs, input_table, predictions_csv, read_inputs

GAP = TargetSpec("gap", "hartree")
LOGP = TargetSpec("logp", "1")


def read(source: object, smiles_column: str = "smiles", **columns: str | None) -> Inputs:
    return read_inputs(str(source), smiles_column, columns.get("id"), columns.get("description"))


def test_a_string_that_is_no_file_is_a_smiles() -> None:
    inputs = read("CC(=O)/C=C\\C")
    assert inputs.ids == ["0"]
    assert inputs.fields == {"smiles": ["CC(=O)/C=C\\C"]}


@pytest.mark.parametrize("name", ["gone.csv", "gone.smi", "gone.txt", "gone.tsv"])
def test_a_name_that_looks_like_a_file_must_exist(name: str) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(name)


def test_a_list_has_a_smiles_and_perhaps_a_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.smi"
    path.write_text("CCO ethanol\n\nC\nCC  a name with blanks \n")
    inputs = read(path)
    assert inputs.ids == ["ethanol", "1", "a name with blanks"]
    assert inputs.fields["smiles"] == ["CCO", "C", "CC"]


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_has_named_columns(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"table{suffix}"
    rows = [["key", "SMILES", "text"], ["a", "CCO", "an alcohol"], ["b", "C", ""]]
    path.write_text("\n".join(separator.join(row) for row in rows))
    inputs = read(path, "SMILES", id="key", description="text")
    assert inputs.ids == ["a", "b"]
    assert inputs.fields == {"smiles": ["CCO", "C"], "description": ["an alcohol", None]}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("smiles\nCCO\n", encoding="utf-8-sig")
    assert read(path).fields["smiles"] == ["CCO"]


@pytest.mark.parametrize(
    ("content", "match"),
    [("", "is empty"), ("smiles\n", "no rows"), ("SMILES,y\nC,1\n", "has no such column"), ("smi,y\nC,1\n", "smi, y")],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=match):
        read(path)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("smiles,name\nC,größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read(path)


def test_bad_smiles_become_rejections_under_their_row() -> None:
    inputs = Inputs(["x", "y", "z"], {"smiles": ["CCO", "C1CC", "N"]})
    table = input_table(inputs, [GAP], ["smiles"])
    assert table.ids.tolist() == ["0", "2"]
    assert [(item.id, item.value) for item in table.rejected] == [("1", "C1CC")]
    assert np.isnan(table.targets).all()


def test_a_model_of_texts_can_be_asked_about_a_bare_molecule() -> None:
    table = input_table(Inputs(["x"], {"smiles": ["CCO"]}), [GAP], ["smiles", "description"])
    assert table.fields["description"] == [None]


def test_predictions_are_written_molecule_by_molecule_with_units() -> None:
    text = predictions_csv(["a", "b,c"], [GAP, LOGP], np.array([[0.123456789, -1.0], [2e-5, 3.0]]))
    assert text.splitlines() == [
        "id,target,value,unit",
        "a,gap,0.123457,hartree",
        "a,logp,-1,1",
        '"b,c",gap,2e-05,hartree',
        '"b,c",logp,3,1',
    ]
