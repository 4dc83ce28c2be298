"""MP-20 and saved API documents: columns, parts, copies, rejected rows, and the real files where they are."""

import gzip
import json
import logging
from collections import Counter

import numpy as np
import pytest
from crystal_files import cif, fake_store, real_store, table_text, write_json, write_parts

from crystalfm.chem.crystals import Crystal
from crystalfm.contracts import UserError
from crystalfm.data import crystal_table as shared
from crystalfm.data.materials_project import MaterialsProject
from crystalfm.data.splits import check_leakage, make_splits, read_splits, write_splits

structures = pytest.importorskip("pymatgen.core.structure", reason="needs pymatgen")


def row(number, **changes):
    values = {
        "material_id": f"mp-{number}",
        "formation_energy_per_atom": -0.1 * number,
        "band_gap": 0.5 * number,
        "pretty_formula": "NaCl",
        "e_above_hull": 0.01 * number,
        "elements": "['Na', 'Cl']",
        "cif": cif(number),
        "spacegroup.number": 221,
    }
    return values | changes


def rows(count=16, **changes):
    return [row(number, **(changes if number == 0 else {})) for number in range(count)]


@pytest.fixture
def folder(tmp_path):
    return write_parts(tmp_path / "mp", rows())


def load(path, **settings):
    return MaterialsProject(path=str(path), **settings).load()


@pytest.mark.parametrize("compressed", [False, True])
def test_official_parts_structures_and_default_target(tmp_path, compressed):
    table = load(write_parts(tmp_path / "mp", rows(), compressed=compressed))
    assert Counter(table.parts.tolist()) == {"train": 8, "val": 4, "test": 4}
    assert [spec.label for spec in table.target_specs] == ["formation_energy_per_atom_eV_per_atom"]
    np.testing.assert_allclose(table.targets[:, 0], -0.1 * np.arange(16))
    crystal = Crystal.from_json(table.fields["structure"][3])
    assert (table.ids[3], crystal.formula) == ("mp-3", "MgO")
    assert crystal.lattice[0, 0] == pytest.approx(4.21)


def test_targets_in_the_order_asked_for(folder):
    table = load(folder, targets=["e_above_hull", "band_gap"])
    np.testing.assert_allclose(table.targets[4], [0.04, 2.0])
    with pytest.raises(UserError, match="has no target colour"):
        load(folder, targets=["colour"])
    with pytest.raises(UserError, match="none of its 16 crystals has a value of efermi"):
        load(folder, targets=["efermi"])


def test_bad_rows_are_rejected_with_their_reason(tmp_path):
    bad = rows()
    bad[1] = row(1, cif=cif(1).replace("0.5 0.5 0.5", "0.0 0.01 0.0"))
    bad[2] = row(2, cif="")
    bad[3] = row(3, cif="data_nothing")
    bad[4] = row(4, formation_energy_per_atom="low")
    bad[5] = row(5, formation_energy_per_atom="inf")
    bad[6] = row(6, formation_energy_per_atom="", band_gap="")
    table = load(write_parts(tmp_path / "mp", bad))
    reasons = {item.id: item.reason for item in table.rejected}
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "mp-1": "overlapping atoms",
        "mp-2": "unreadable structure",
        "mp-3": "unreadable structure",
        "mp-4": "target 'formation_energy_per_atom' is not a number",
        "mp-5": "target 'formation_energy_per_atom' is not a number",
    }
    assert len(table) == 10
    assert "mp-6" not in table.ids
    assert len(load(tmp_path / "mp", targets=["band_gap"])) == 12


def test_all_rows_bad(tmp_path):
    bad = [row(number, cif="x") for number in range(16)]
    with pytest.raises(UserError, match="all 16 crystals of 'mp' were rejected; mp-0: unreadable structure"):
        load(write_parts(tmp_path / "mp", bad))


@pytest.mark.parametrize("split", ["official", "extended"])
def test_prescribed_splits(folder, split):
    dataset = MaterialsProject(path=str(folder), split=split, val_fraction=0.5)
    table = dataset.load()
    splits = dataset.splits_of(table)
    assert splits.sizes == {
        "train": 8 if split == "official" else 10,
        "val": 4 if split == "official" else 2,
        "test": 4,
    }
    assert set(table.ids[splits.test]) == {f"mp-{number}" for number in range(12, 16)}


def test_random_split_keeps_copies_together(tmp_path):
    twins = [row(number, cif=cif(number % 5)) for number in range(16)]
    dataset = MaterialsProject(path=str(write_parts(tmp_path / "mp", twins)), split="random")
    table = dataset.load()
    assert dataset.splits_of(table) is None
    assert len(np.unique(table.groups)) == 5
    for seed in range(5):
        check_leakage(table, make_splits(table, test_fraction=0.2, val_fraction=0.2, seed=seed))


def test_official_split_with_copies_is_kept_and_said(tmp_path, caplog):
    twins = [row(number, cif=cif(number % 5)) for number in range(16)]
    with caplog.at_level(logging.WARNING, "crystalfm"):
        dataset = MaterialsProject(path=str(write_parts(tmp_path / "mp", twins)))
        table = dataset.load()
    assert "8 training crystals have a copy in validation or test" in caplog.text
    splits = dataset.splits_of(table)
    write_splits(tmp_path / "split.json", table, splits)
    assert read_splits(tmp_path / "split.json", table).sizes == splits.sizes


def test_limit_keeps_the_parts_in_proportion(folder):
    table = load(folder, limit=8)
    assert Counter(table.parts.tolist()) == {"train": 4, "val": 2, "test": 2}
    assert set(load(folder, limit=5).ids) < set(table.ids)


def test_one_file_has_no_official_split(tmp_path):
    path = tmp_path / "mpts.csv"
    path.write_text(table_text([{"material_id": f"a{n}", "energy_above_hull": n, "cif": cif(n)} for n in range(4)]))
    dataset = MaterialsProject(path=str(path), targets=["e_above_hull"])
    table = dataset.load()
    assert table.targets[:, 0].tolist() == [0, 1, 2, 3]
    assert table.parts is None
    assert dataset.splits_of(table) is None


def document(number, **changes):
    structure = structures.Structure.from_str(cif(number), fmt="cif")
    return {
        "material_id": f"mp-{number}",
        "structure": structure.as_dict(),
        "formation_energy_per_atom": -0.5,
        "energy_above_hull": 0.25,
        "band_gap": None,
        "density": 2.5,
        "bulk_modulus": {"voigt": 3.0},
    } | changes


@pytest.mark.parametrize("compressed", [False, True])
def test_documents_of_the_api(tmp_path, compressed):
    documents = [document(number) for number in range(5)]
    documents[1]["structure"] = None
    documents[2]["material_id"] = {"@class": "MPID", "string": "mp-2"}
    del documents[3]["material_id"]
    path = tmp_path / ("documents.json.gz" if compressed else "documents.json")
    raw = json.dumps(documents).encode()
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    table = load(path, targets=["e_above_hull", "density", "band_gap"])
    assert table.ids.tolist() == ["mp-0", "mp-2", "row 3", "mp-4"]
    assert table.targets[0].tolist()[:2] == [0.25, 2.5]
    assert np.isnan(table.targets[0, 2])
    assert [(item.id, item.reason) for item in table.rejected] == [("mp-1", "unreadable structure: there is none")]


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"a": 1}', "no list of documents"), ("[1]", "no list of documents"), ("[{", "cannot be read as JSON")],
)
def test_other_json(tmp_path, content, words):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load(tmp_path / "x.json")


def test_mistakes_with_files(tmp_path, folder):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "absent")
    (folder / "val.csv").unlink()
    with pytest.raises(UserError, match=r"has no val\.csv"):
        load(folder)
    write_parts(tmp_path / "twice", [*rows(15), row(0)])
    with pytest.raises(UserError, match="1 ids occur more than once: mp-0"):
        load(tmp_path / "twice")
    (tmp_path / "no.csv").write_text("material_id,band_gap\nmp-1,2\n")
    with pytest.raises(UserError, match="has no column cif"):
        load(tmp_path / "no.csv")
    with pytest.raises(UserError, match="needs an asset store"):
        MaterialsProject().load()


def test_empty_documents(tmp_path):
    with pytest.raises(UserError, match="Materials Project: no rows"):
        load(write_json(tmp_path / "x.json", []))


def test_parsed_once_for_a_content(tmp_path, folder, monkeypatch):
    store = fake_store(tmp_path, {"mp_20": folder})
    first = MaterialsProject(store=store).load()
    monkeypatch.setattr(shared, "parse_crystals", lambda *_: pytest.fail("read again"))
    again = MaterialsProject(store=store, targets=["band_gap", "formation_energy_per_atom"]).load()
    assert again.fields == first.fields
    assert MaterialsProject(store=store).load().content_hash == first.content_hash
    assert store.fetched == ["mp_20"] * 3


def test_long_cells_are_read(tmp_path):
    long = row(0, elements="x" * 200_000)
    table = load(write_parts(tmp_path / "mp", [long, *rows()[1:]]))
    assert len(table) == 16


@pytest.mark.real_data
@pytest.mark.slow
def test_real_files(tmp_path):
    table = MaterialsProject(store=real_store(tmp_path), targets=["formation_energy_per_atom", "band_gap"]).load()
    assert Counter(table.parts.tolist()) == {"train": 6426, "val": 714, "test": 7118}
    assert table.rejected == []
    assert not np.isnan(table.targets).any()
    assert max(Crystal.from_json(text).num_atoms for text in table.fields["structure"][:200]) <= 20
