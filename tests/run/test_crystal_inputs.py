"""What `crystalfm predict` reads where the model looks at crystals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from crystalfm.chem.crystals import Crystal
from crystalfm.contracts import UserError
from crystalfm.run.crystal_inputs import need_structures, read_crystal_inputs

POSCAR = """rock salt
1.0
4.0 0 0
0 4.0 0
0 0 4.0
Na Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""


def test_models_of_molecules_need_no_structures() -> None:
    molecules, crystals = ({"data": {"description": name}} for name in (None, "chemnlp"))
    assert need_structures(["description", "crystal_graph"], OmegaConf.create(molecules))
    texts = ["smiles", "molecular_graph", "fingerprint", "description"]
    assert not need_structures(texts, OmegaConf.create(molecules))
    assert not need_structures(["smiles"], OmegaConf.create({"data": {}}))
    assert need_structures(["description"], OmegaConf.create(crystals))


def test_every_file_of_a_folder_is_a_row_and_broken_ones_say_why(tmp_path: Path) -> None:
    (tmp_path / "b.vasp").write_text(POSCAR)
    (tmp_path / "POSCAR_a").write_text(POSCAR)
    (tmp_path / "c.cif").write_text("data_nothing\n")
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "x.vasp").write_text(POSCAR.replace("Na", "Qq"))
    (tmp_path / "id_prop.csv").write_text("b.vasp,1\n")
    (tmp_path / ".hidden").write_text("")
    ids, structures, problems = read_crystal_inputs(str(tmp_path), None)
    assert ids == ["POSCAR_a", "b.vasp", "c.cif", "notes.txt", "x.vasp"]
    assert [ids[problem.row] for problem in problems] == ["c.cif", "notes.txt", "x.vasp"]
    assert problems[2].reason.startswith("unknown element")
    assert [text is None for text in structures] == [False, False, True, True, True]
    assert Crystal.from_json(str(structures[0])).formula == Crystal.from_json(str(structures[1])).formula


def test_one_file_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR)
    ids, structures, problems = read_crystal_inputs(str(path), None)
    assert ids == ["POSCAR"]
    assert Crystal.from_json(str(structures[0])).num_atoms == 2
    assert not problems


def test_a_table_and_a_list_of_records_are_read_as_data_folder_reads_them(tmp_path: Path) -> None:
    table = tmp_path / "crystals.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["name", "poscar"], ["first", POSCAR], ["second", "nonsense"]])
    ids, _, problems = read_crystal_inputs(str(table), "name")
    assert ids == ["first", "second"]
    assert [problem.row for problem in problems] == [1]
    records = tmp_path / "crystals.jsonl"
    records.write_text(json.dumps({"structure": POSCAR}) + "\n" + json.dumps({"structure": POSCAR}) + "\n")
    ids, structures, problems = read_crystal_inputs(str(records), None)
    assert ids == ["0", "1"]
    assert structures[0] == structures[1]
    assert not problems


def test_nothing_to_read_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder") as caught:
        read_crystal_inputs(str(tmp_path / "absent"), None)
    assert "CIF" in str(caught.value.remedy)
    with pytest.raises(UserError, match="holds no structure file"):
        read_crystal_inputs(str(tmp_path), None)
