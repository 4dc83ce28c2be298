"""What ``input=`` may be, and how predictions are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.run.api import Predictions, RejectedInput, molecule_table_of
from crystalfm.run.inputs import Inputs, crystals_of, molecules_of, read_molecules
from crystalfm.run.predict import predictions_csv

GAP = TargetSpec("gap", "hartree")
LOGP = TargetSpec("logp", "1")


def read(source: object, smiles_column: str = "smiles", **columns: str | None) -> Inputs:
    return read_molecules(str(source), smiles_column, columns.get("id"), columns.get("description"))


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
    table = molecule_table_of(inputs, [GAP], ["smiles"])
    assert table.ids.tolist() == ["0", "2"]
    assert [(item.id, item.value) for item in table.rejected] == [("1", "C1CC")]
    assert np.isnan(table.targets).all()


def test_a_model_of_texts_can_be_asked_about_a_bare_molecule() -> None:
    table = molecule_table_of(Inputs(["x"], {"smiles": ["CCO"]}), [GAP], ["smiles", "description"])
    assert table.fields["description"] == [None]


def test_predictions_are_written_molecule_by_molecule_with_units() -> None:
    values = np.array([[0.123456789, -1.0], [np.nan, np.nan], [2e-5, 3.0]])
    text = predictions_csv(Predictions(["a", "bad", "b,c"], (GAP, LOGP), values, [RejectedInput(1, "broken")]))
    assert text.splitlines() == [
        "id,target,value,unit",
        "a,gap,0.123457,hartree",
        "a,logp,-1,1",
        '"b,c",gap,2e-05,hartree',
        '"b,c",logp,3,1',
    ]


def test_a_list_of_molecules_may_mix_strings_and_fields() -> None:
    inputs = molecules_of(["CCO", {"smiles": "C", "description": "a gas"}, 7, {"smile": "C"}, {"description": "x"}])
    assert inputs.fields == {"smiles": ["CCO", "C", "", "", ""], "description": [None, "a gas", None, None, "x"]}
    assert [(problem.row, problem.reason) for problem in inputs.problems] == [
        (2, "smiles is a int, not a string"),
        (3, "unknown field smile"),
    ]
    table = molecule_table_of(inputs, [GAP], ["smiles"])
    assert table.ids.tolist() == ["0", "1"]
    assert [item.id for item in table.rejected] == ["2", "3", "4"]


POSCAR = "NaCl\n1\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def rock_salt(kind: str, folder: Path) -> Any:
    """The same crystal in one of the forms that are understood."""
    path = folder / "POSCAR"
    path.write_text(POSCAR)
    if kind in {"path", "name of a path", "text"}:
        return {"path": path, "name of a path": str(path), "text": POSCAR}[kind]
    structure = pytest.importorskip("pymatgen.core.structure").Structure.from_str(POSCAR, fmt="poscar")
    if kind == "pymatgen":
        return structure
    if kind == "pymatgen's dictionary":
        return structure.as_dict()
    if kind == "ase":
        ase = pytest.importorskip("ase")
        return ase.Atoms("NaCl", cell=[4, 4, 4], scaled_positions=[[0, 0, 0], [0.5] * 3], pbc=True)
    return pytest.importorskip("jarvis.core.atoms").Atoms(
        lattice_mat=[[4, 0, 0], [0, 4, 0], [0, 0, 4]], coords=[[0, 0, 0], [0.5] * 3], elements=["Na", "Cl"]
    )


@pytest.mark.parametrize(
    "kind", ["path", "name of a path", "text", "pymatgen", "pymatgen's dictionary", "ase", "jarvis"]
)
def test_a_crystal_in_any_form_is_the_same_row(kind: str, tmp_path: Path) -> None:
    value = rock_salt(kind, tmp_path)
    inputs = crystals_of([value, {"structure": value, "description": "rock salt"}])
    assert not inputs.problems
    first, second = (json.loads(str(text)) for text in inputs.fields["structure"])
    assert first == second
    assert first["numbers"] == [11, 17]
    np.testing.assert_allclose(first["lattice"], 4 * np.eye(3), atol=1e-12)
    assert inputs.fields["description"] == [None, "rock salt"]


def test_what_is_no_crystal_says_why() -> None:
    inputs = crystals_of(["nowhere.cif", POSCAR.replace("Na", "Qq"), None, {"structure": POSCAR, "description": 3}, ""])
    assert inputs.fields["structure"] == [None] * 5
    reasons = {problem.row: problem.reason for problem in inputs.problems}
    assert sorted(reasons) == [0, 1, 2, 3, 4]
    assert "no such file" in reasons[0]
    assert reasons[1].startswith("unknown element")
    assert reasons[3] == "description is a int, not a string"
