"""A user's own crystals: folders, tables and JSON lines; what is wrong with them is said."""

import json

import numpy as np
import pytest
from crystal_files import cif, fake_store, jarvis_atoms, poscar, table_text

from crystalfm.chem.crystals import Crystal
from crystalfm.contracts import UserError
from crystalfm.data import crystal_table as shared
from crystalfm.data.crystal_folder import CrystalFolder

structures = pytest.importorskip("pymatgen.core.structure", reason="needs pymatgen")
pytest.importorskip("ase", reason="needs ASE")


def load(path, targets=("gap",), **settings):
    return CrystalFolder(path=str(path), targets=list(targets), **settings).load()


@pytest.fixture
def folder(tmp_path):
    """Four structures in four formats."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / "one.cif").write_text(cif(0))
    (root / "two.vasp").write_text(poscar(1))
    atoms = 'Lattice="4.14 0 0 0 4.14 0 0 0 4.14" Properties=species:S:1:pos:R:3'
    (root / "three.xyz").write_text(f"2\n{atoms}\nCs 0 0 0\nI 2.07 2.07 2.07\n")
    (root / "POSCAR").write_text(poscar(3))
    (root / "id_prop.csv").write_text("one.cif,1.5\ntwo.vasp,2.5\nthree.xyz,3.5\nPOSCAR,4.5\n")
    return root


def formulas(table):
    return [Crystal.from_json(text).formula for text in table.fields["structure"]]


def test_folder_with_every_format(folder):
    table = load(folder, units={"gap": "eV"})
    assert table.ids.tolist() == ["one.cif", "two.vasp", "three.xyz", "POSCAR"]
    assert formulas(table) == ["ClNa", "BrK", "CsI", "MgO"]
    assert table.targets[:, 0].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert table.target_specs[0].label == "gap_eV"


def test_names_without_suffix_and_several_targets(folder):
    (folder / "id_prop.csv").write_text("one,1,na\ntwo,,2\n\nthree,,\n")
    table = load(folder, ("gap", "bulk"))
    assert table.ids.tolist() == ["one", "two"]
    np.testing.assert_array_equal(table.targets, [[1, np.nan], [np.nan, 2]])


def test_header_lets_targets_be_chosen(folder):
    (folder / "id_prop.csv").write_text("file,bulk,gap\none.cif,10,1\ntwo.vasp,20,2\n")
    assert load(folder).targets[:, 0].tolist() == [1, 2]
    assert load(folder, ("gap", "bulk")).targets.tolist() == [[1, 10], [2, 20]]
    with pytest.raises(UserError, match=r"has no column colour(?s:.*)columns: bulk, gap"):
        load(folder, ("colour",))


def test_bad_files_are_rejected_with_their_reason(folder):
    (folder / "bad.cif").write_text("nothing")
    (folder / "empty.vasp").write_text("")
    lines = "one.cif,1\nbad.cif,2\nempty.vasp,3\nabsent.cif,4\ntwo.vasp,high\n"
    (folder / "id_prop.csv").write_text(lines)
    table = load(folder)
    assert table.ids.tolist() == ["one.cif"]
    reasons = {item.id: item.reason for item in table.rejected}
    assert reasons["empty.vasp"] == "unreadable structure: the file is empty"
    assert reasons["absent.cif"] == "unreadable structure: no such file"
    assert reasons["bad.cif"].startswith("unreadable structure: CIF")
    assert reasons["two.vasp"] == "target 'gap' is not a number"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"has no id_prop\.csv"),
        ("", "is empty"),
        ("one.cif,1,2\n", "row 0: 2 targets where 1 are expected"),
        ("one.cif,1\ntwo.vasp\n", "row 1: 0 targets where 1 are expected"),
        ("one.cif,1\none.cif,2\n", r"1 ids occur more than once: one\.cif"),
        ("one.cif,\n", "none of its 1 crystals has a value of gap"),
        (
            "absent.cif,1\n",
            r"all 1 crystals of 'folder' were rejected; absent\.cif: unreadable structure: no such file",
        ),
    ],
)
def test_lists_that_do_not_fit(folder, text, words):
    (folder / "id_prop.csv").unlink()
    if text is not None:
        (folder / "id_prop.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        load(folder)


@pytest.mark.parametrize(("column", "make"), [("cif", cif), ("poscar", poscar), ("structure", cif)])
def test_table_with_a_column_of_structures(tmp_path, column, make):
    rows = [{"name": f"n{n}", column: make(n), "gap": n} for n in range(4)]
    (tmp_path / "t.csv").write_text(table_text(rows))
    table = load(tmp_path / "t.csv", id_column="name")
    assert table.ids.tolist() == ["n0", "n1", "n2", "n3"]
    assert formulas(table) == ["ClNa", "BrK", "CsI", "MgO"]
    assert load(tmp_path / "t.csv", structure_column=column).ids.tolist() == ["0", "1", "2", "3"]


def test_table_mistakes(tmp_path):
    (tmp_path / "t.csv").write_text(table_text([{"name": "a", "geometry": cif(0), "gap": 1}]))
    with pytest.raises(UserError, match=r"no column is called structure, cif, poscar, atoms(?s:.*)name, geometry, gap"):
        load(tmp_path / "t.csv")
    with pytest.raises(UserError, match="has no column band"):
        load(tmp_path / "t.csv", ("band",), structure_column="geometry")
    with pytest.raises(UserError, match="has no column label"):
        load(tmp_path / "t.csv", structure_column="geometry", id_column="label")
    (tmp_path / "t.doc").write_text("x")
    with pytest.raises(UserError, match="files of this kind cannot be read"):
        load(tmp_path / "t.doc")


def test_json_lines_of_every_kind(tmp_path):
    structure = structures.Structure.from_str(cif(2), fmt="cif")
    records = [
        {"id": "a", "structure": cif(0), "gap": 1},
        {"id": "b", "atoms": jarvis_atoms(1), "gap": 2.5},
        {"id": "c", "structure": structure.as_dict(), "gap": "na", "bulk": 3},
        {"id": "d", "gap": 4},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    table = load(tmp_path / "t.jsonl", ("gap", "bulk"), id_column="id")
    assert table.ids.tolist() == ["a", "b", "c"]
    assert formulas(table) == ["ClNa", "BrK", "CsI"]
    assert [(item.id, item.reason) for item in table.rejected] == [("d", "unreadable structure: there is none")]
    (tmp_path / "t.json").write_text(json.dumps(records))
    assert load(tmp_path / "t.json").ids.tolist() == ["0", "1"]


def test_mistakes_in_settings(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        CrystalFolder(path=str(tmp_path / "absent"), targets=["gap"]).spec()
    with pytest.raises(UserError, match=r"data\.units names bulk"):
        CrystalFolder(path=str(tmp_path), targets=["gap"], units={"bulk": "GPa"})


def test_changed_files_are_read_again(folder, tmp_path, monkeypatch):
    store = fake_store(tmp_path, {})
    first = load(folder, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "parse_crystals", lambda *_: pytest.fail("read again"))
        assert load(folder, store=store).content_hash == first.content_hash
    (folder / "two.vasp").write_text(poscar(7))
    again = load(folder, store=store)
    assert Crystal.from_json(again.fields["structure"][1]).lattice[0, 0] == 4.49
    (folder / "id_prop.csv").write_text("one.cif,9\n")
    assert load(folder, store=store).targets.tolist() == [[9.0]]


def test_copies_form_a_group(folder):
    (folder / "copy.vasp").write_text(poscar(1))
    (folder / "id_prop.csv").write_text("one.cif,1\ntwo.vasp,2\ncopy.vasp,2\n")
    groups = load(folder).groups
    assert groups[1] == groups[2] != groups[0]


def test_other_names_for_the_same_columns(folder, tmp_path):
    store = fake_store(tmp_path, {})
    first, renamed = load(folder, store=store), load(folder, ("energy",), store=store)
    assert renamed.target_specs[0].name == "energy"
    np.testing.assert_array_equal(renamed.targets, first.targets)
