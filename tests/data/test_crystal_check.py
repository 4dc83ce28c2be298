"""``crystalfm data check`` on crystals: folders, tables and JSON lines before training."""

import io
import json
import shlex

import pytest
from crystal_files import cif, jarvis_atoms, poscar, table_text
from rich.console import Console

from crystalfm.cli.main import main
from crystalfm.contracts import UserError
from crystalfm.data.check import check_table, render
from crystalfm.data.crystal_check import holds_crystals
from crystalfm.data.crystal_folder import CrystalFolder

pytest.importorskip("pymatgen", reason="needs pymatgen")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my crystals"
    root.mkdir()
    for row in range(4):
        (root / f"POSCAR-{row}").write_text(poscar(row))
    (root / "POSCAR-4").write_text("nothing")
    (root / "POSCAR-5").write_text(poscar(0))
    lines = ["file,gap,bulk", *(f"POSCAR-{row},{row},na" for row in range(6)), "POSCAR-0-again,na,na"]
    (root / "id_prop.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def lines(tmp_path):
    records = [{"name": f"n{n}", "atoms": jarvis_atoms(n), "gap": n, "tags": [1], "metal": True} for n in range(4)]
    path = tmp_path / "crystals.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def shown(report):
    console = Console(file=io.StringIO(), width=160)
    console.print(render(report))
    return console.file.getvalue()


def test_folder_is_reported_as_training_would_use_it(folder):
    report = check_table(folder)
    assert [target.name for target in report.targets] == ["gap", "bulk"]
    assert (report.num_rows, len(report.table), report.num_molecules) == (6, 5, 4)
    assert list(report.reasons) == ["unreadable structure"]
    table = CrystalFolder(path=str(folder), targets=["gap", "bulk"]).load()
    assert table.content_hash == report.table.content_hash
    text = shown(report)
    assert "structures listed in id_prop.csv; 1 rows without any target are left out; 4 different crystals" in text
    assert "(1 repeated rows)" in text


def test_command_of_the_report_can_be_pasted(folder):
    words = shlex.split(check_table(folder, targets=["gap"]).command)
    assert words[:4] == ["crystalfm", "train", "model=alignn", "data=folder"]
    assert words[4:] == [f"data.path='{folder}'", "data.targets=[gap]"]


def test_json_lines_and_tables(lines, tmp_path):
    report = check_table(lines, id_column="name")
    assert [target.name for target in report.targets] == ["gap"]
    assert report.table.ids.tolist() == ["n0", "n1", "n2", "n3"]
    assert report.command.endswith("data.id_column=name")
    (tmp_path / "t.csv").write_text(table_text([{"cif": cif(n), "gap": n, "note": "x"} for n in range(3)]))
    assert [target.name for target in check_table(tmp_path / "t.csv").targets] == ["gap"]


def test_which_paths_hold_crystals(folder, lines, tmp_path):
    assert holds_crystals(folder)
    assert holds_crystals(lines)
    (tmp_path / "both.csv").write_text("SMILES,structure,y\nC,x,1\n")
    assert not holds_crystals(tmp_path / "both.csv")
    (tmp_path / "neither.csv").write_text("name,y\nC,1\n")
    assert not holds_crystals(tmp_path / "neither.csv")


def test_header_is_not_needed(folder):
    (folder / "id_prop.csv").write_text("POSCAR-0,1,2\nPOSCAR-1,3,4\n")
    assert [target.name for target in check_table(folder).targets] == ["target_1", "target_2"]
    (folder / "id_prop.csv").write_text("POSCAR-0,1\n")
    assert [target.name for target in check_table(folder).targets] == ["target"]


def test_everything_rejected_is_still_reported(folder):
    (folder / "id_prop.csv").write_text("POSCAR-4,1\n")
    report = check_table(folder)
    assert report.rejected_fraction == 1.0
    assert "unreadable structure" in shown(report)


def test_nothing_to_learn(tmp_path):
    (tmp_path / "t.csv").write_text(table_text([{"cif": cif(0), "note": "x"}]))
    with pytest.raises(UserError, match="there is no number to learn"):
        check_table(tmp_path / "t.csv")


def test_from_the_command_line(folder, capsys):
    assert main(["data", "check", str(folder), "--max-rejected-fraction", "0.5"]) == 0
    assert "unreadable structure" in capsys.readouterr().out
    assert main(["data", "check", str(folder)]) == 2
