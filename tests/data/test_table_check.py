"""The report on a user's table before training."""

import io

import pytest
from rich.console import Console

from crystalfm.contracts import UserError
from crystalfm.data.check import check_table, render
from crystalfm.data.table import MoleculeTable

TEXT = """name,SMILES,gap,note,dipole
a,CCO,1.5,fine,0.25
b,OCC,2.5,,
c,C1CC,3.5,open ring,0.1
d,CI(=O)=O,4.5,iodine,0.5
e,,5.5,nothing,0.1
f,CN,many,words,0.1
g,CC,0.5,,0.75
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "my table.csv").write_text(TEXT)
    return tmp_path / "my table.csv"


def shown(report):
    console = Console(file=io.StringIO(), width=160)
    console.print(render(report))
    return console.file.getvalue()


def test_report_counts_what_training_would_use(path):
    report = check_table(path, smiles_column="SMILES", targets=["gap", "dipole"], id_column="name")
    assert report.num_rows == 7
    assert report.table.ids.tolist() == ["a", "b", "d", "g"]
    assert report.rejected_fraction == pytest.approx(3 / 7)
    assert {kind: [item.id for item in items] for kind, items in report.reasons.items()} == {
        "not a SMILES": ["c"], "no SMILES": ["e"], "target 'gap' is not a number": ["f"],
    }  # fmt: skip
    assert report.num_molecules == 3
    gap, dipole = report.targets
    assert (gap.known, gap.missing, gap.lowest, gap.mean, gap.highest) == (4, 0, 0.5, 2.25, 4.5)
    assert (dipole.known, dipole.missing, dipole.mean) == (3, 1, 0.5)
    modalities = {item.name: (item.available, [r.id for r in item.impossible]) for item in report.modalities}
    assert modalities == {"smiles": (4, []), "selfies": (3, ["d"]), "fingerprint": (4, []), "molecular_graph": (4, [])}


def test_report_agrees_with_training(path):
    report = check_table(path, smiles_column="SMILES", targets=["gap"], id_column="name")
    table = MoleculeTable(path=str(path), smiles_column="SMILES", targets=["gap"], id_column="name").load()
    assert report.table.content_hash == table.content_hash
    assert report.rejected == table.rejected


def test_columns_are_guessed(path):
    report = check_table(path)
    assert report.columns.smiles == "SMILES"
    assert report.columns.targets == ("dipole",)  # gap has a word among six numbers


def test_smiles_are_recognised_by_their_look(tmp_path):
    (tmp_path / "t.csv").write_text("words,molecule,y\nhello,CCO,1\nworld,CCN,2\n")
    report = check_table(tmp_path / "t.csv")
    assert (report.columns.smiles, report.columns.targets) == ("molecule", ("y",))


@pytest.mark.parametrize(
    ("text", "message"),
    [("word,y\nhello,1\n", "looks like SMILES"), ("smiles,word\nC,hello\n", "looks like numbers")],
)
def test_what_cannot_be_guessed_is_asked_for(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        check_table(tmp_path / "t.csv")


def test_wrong_column_is_the_users_error(path):
    with pytest.raises(UserError, match="no column smile"):
        check_table(path, smiles_column="smile")
    with pytest.raises(UserError, match="no column homo"):
        check_table(path, targets=["homo"])


def test_command_can_be_pasted_into_a_shell(path):
    import shlex

    report = check_table(path, smiles_column="SMILES", targets=["gap", "dipole"], id_column="name")
    words = shlex.split(report.command)
    assert words[:3] == ["crystalfm", "train", "data=csv"]
    assert "data.targets=[gap,dipole]" in words
    assert "data.smiles_column=SMILES" in words
    assert "data.id_column=name" in words


@pytest.mark.parametrize("column", ["gap", "HOMO (eV)", "a,b", "true", "12", "it's", "[x]", "a=b", "µ"])
def test_command_says_any_column_name_to_hydra(tmp_path, column):
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    (tmp_path / "t.csv").write_text(f'smiles,"{column}"\nC,1\n', encoding="utf-8")
    words = shlex.split(check_table(tmp_path / "t.csv", targets=[column]).command)
    overrides = {item.key_or_group: item.value() for item in OverridesParser.create().parse_overrides(words[2:])}
    assert overrides["data.targets"] == [column]
    assert overrides["data.path"] == str(tmp_path / "t.csv")


def test_shown_report_names_numbers_and_reasons(path):
    text = shown(check_table(path, smiles_column="SMILES", targets=["gap"], id_column="name"))
    assert "7 rows, 4 accepted, 3 rejected (42.86%)" in text
    assert "3 different molecules (1 repeated rows)" in text
    assert "c: C1CC" in text
    assert "d: CI(=O)=O" in text
    assert "crystalfm train data=csv" in text


def test_clean_table_shows_no_table_of_rejections(tmp_path):
    (tmp_path / "t.csv").write_text("smiles,y\nC,1\nCC,2\n")
    report = check_table(tmp_path / "t.csv")
    assert report.rejected_fraction == 0.0
    assert "Rejected" not in shown(report)


def test_square_brackets_survive_the_console(tmp_path):
    (tmp_path / "t.csv").write_text("smiles,y\n[nope],1\n[NH4+],2\n")
    assert "[nope]" in shown(check_table(tmp_path / "t.csv"))
