"""JARVIS: missing values, releases, splits by id, the sample out of a package, and the real files where they are."""

import gzip
import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from crystal_files import fake_store, jarvis_atoms, poscar, real_store, write_json

from crystalfm.chem.crystals import Crystal
from crystalfm.contracts import UserError
from crystalfm.data.jarvis import HYBRID_SPLITS, Jarvis

SUBSET = "jdft_3d-subset.json.zip"


def record(row, **changes):
    """Formation energies of all crystals, gaps of the even ones."""
    values = {
        "jid": f"JVASP-{row}",
        "formula": "NaCl",
        "atoms": jarvis_atoms(row),
        "formation_energy_peratom": -0.1 * row,
        "mbj_bandgap": 0.5 * row if row % 2 == 0 else "na",
        "slme": "na",
        "epsx": "12.5",
    }
    return values | changes


@pytest.fixture
def records():
    return [record(row) for row in range(12)]


@pytest.fixture
def folders(tmp_path, records):
    """Folders of the assets that a mirror may hold."""
    for name in ("subset", "splits"):
        (tmp_path / name).mkdir()
    with zipfile.ZipFile(tmp_path / "subset" / SUBSET, "w") as archive:
        archive.writestr("jdft_3d-subset.json", json.dumps(records))
    ids = {
        "id_train": [f"JVASP-{n}" for n in (0, 1, 2, 4, 99)],
        "id_val": ["JVASP-6"],
        "id_test": ["JVASP-8", "JVASP-9"],
    }
    packed = gzip.compress(json.dumps(ids).encode())
    (tmp_path / "splits" / "dataset_split_mbj_bandgap.json.gz").write_bytes(packed)
    return {"jarvis_dft_3d_subset": tmp_path / "subset", HYBRID_SPLITS: tmp_path / "splits"}


@pytest.fixture
def file(tmp_path, records):
    return write_json(tmp_path / "jdft_3d.json", records)


def load(path, **settings):
    return Jarvis(path=str(path), **settings).load()


def test_all_crystals_with_the_default_target(file):
    table = load(file)
    assert table.ids.tolist() == [f"JVASP-{row}" for row in range(12)]
    np.testing.assert_allclose(table.targets[:, 0], -0.1 * np.arange(12))
    assert [spec.label for spec in table.target_specs] == ["formation_energy_peratom_eV_per_atom"]
    assert Crystal.from_json(table.fields["structure"][1]).lattice[0, 0] == 4.07
    assert table.parts is None


def test_na_is_missing(file):
    assert load(file, targets=["mbj_bandgap"]).ids.tolist() == [f"JVASP-{row}" for row in range(0, 12, 2)]
    both = load(file, targets=["mbj_bandgap", "formation_energy_peratom"])
    assert len(both) == 12
    assert np.isnan(both.targets[1, 0])
    assert load(file, targets=["epsx"]).targets[0, 0] == 12.5
    with pytest.raises(UserError, match="none of its 12 crystals has a value of slme"):
        load(file, targets=["slme"])
    with pytest.raises(UserError, match="none of its 12 crystals has a value of ehull"):
        load(file, targets=["ehull"])


def test_limit_draws_among_crystals_with_the_target(file):
    few = load(file, targets=["mbj_bandgap"], limit=4)
    assert len(few) == 4
    assert not np.isnan(few.targets).any()


def test_bad_records_are_rejected(tmp_path, records):
    records[1]["atoms"] = jarvis_atoms(1) | {"elements": ["X", "Cl"]}
    records[2]["atoms"] = jarvis_atoms(2) | {"lattice_mat": np.zeros((3, 3)).tolist()}
    records[3]["atoms"] = None
    records[4]["formation_energy_peratom"] = [1, 2]
    records[5]["formation_energy_peratom"] = True
    table = load(write_json(tmp_path / "x.json", records))
    kinds = {item.id: item.reason.split(":")[0] for item in table.rejected}
    assert kinds == {
        "JVASP-1": "unknown element",
        "JVASP-2": "cell without a positive volume",
        "JVASP-3": "unreadable structure",
        "JVASP-4": "target 'formation_energy_peratom' is not a number",
        "JVASP-5": "target 'formation_energy_peratom' is not a number",
    }
    assert len(table) == 7


def test_auto_takes_the_whole_release_else_its_part(tmp_path, folders, caplog):
    store = fake_store(tmp_path, folders)
    assert len(Jarvis(store=store).load()) == 12
    assert store.fetched == ["jarvis_dft_3d_subset"]
    assert "jarvis_dft_3d_2022 is not at hand" in caplog.text
    whole = tmp_path / "whole"
    whole.mkdir()
    (folders["jarvis_dft_3d_subset"] / SUBSET).rename(whole / "jdft_3d-12-12-2022.json.zip")
    store = fake_store(tmp_path, folders | {"jarvis_dft_3d_2022": whole})
    Jarvis(store=store).load()
    assert store.fetched == ["jarvis_dft_3d_2022"]


def test_a_named_release_has_no_stand_in(tmp_path, folders):
    store = fake_store(tmp_path, folders)
    with pytest.raises(KeyError, match="jarvis_dft_3d_2021"):
        Jarvis(store=store, release="2021.8.18").load()


def test_hybrid_split_of_the_only_target(tmp_path, folders):
    dataset = Jarvis(store=fake_store(tmp_path, folders), split="hybrid", targets=["mbj_bandgap"])
    table = dataset.load()
    splits = dataset.splits_of(table)
    named = {part: table.ids[rows].tolist() for part, rows in splits.parts.items()}
    assert named == {"train": ["JVASP-0", "JVASP-2", "JVASP-4"], "val": ["JVASP-6"], "test": ["JVASP-8"]}


def test_hybrid_split_needs_one_target_it_knows(tmp_path, folders):
    store = fake_store(tmp_path, folders)
    with pytest.raises(UserError, match=r"several targets are chosen(?s:.*)mbj_bandgap, spillage"):
        Jarvis(store=store, split="hybrid", targets=["mbj_bandgap", "formation_energy_peratom"]).load()
    with pytest.raises(UserError, match="there is none for epsx"):
        Jarvis(store=store, split="hybrid", targets=["epsx"]).load()
    two = Jarvis(store=store, split="hybrid", targets=["mbj_bandgap", "epsx"], split_target="mbj_bandgap").load()
    assert Counter(two.parts.tolist()) == {"train": 4, "val": 1, "test": 2}


def test_split_by_a_file_of_ids(tmp_path, file):
    benchmark = {"train": {"JVASP-3": 1.0}, "val": {"JVASP-4": 1.0}, "test": {"JVASP-5": 1.0}}
    ids = write_json(tmp_path / "dft_3d_formation_energy_peratom.json", benchmark)
    dataset = Jarvis(path=str(file), split="ids", ids_file=str(ids))
    table = dataset.load()
    assert dataset.splits_of(table).sizes == {"train": 1, "val": 1, "test": 1}
    assert table.ids.tolist() == ["JVASP-3", "JVASP-4", "JVASP-5"]
    with pytest.raises(UserError, match="the prescribed split names none of the 6 crystals with targets"):
        load(
            file,
            split="ids",
            ids_file=str(write_json(ids, {"train": ["JVASP-1"], "test": []})),
            targets=["mbj_bandgap"],
        )


def test_ids_and_split_go_together(file):
    with pytest.raises(UserError, match=r"data\.split=ids needs data\.ids_file"):
        Jarvis(path=str(file), split="ids")
    with pytest.raises(UserError, match=r"data\.split=random does not read data\.ids_file"):
        Jarvis(path=str(file), ids_file="x.json")


def test_copies_form_a_group_in_drawn_splits(tmp_path, records):
    records[7]["atoms"] = jarvis_atoms(3)
    table = load(write_json(tmp_path / "x.json", records))
    assert table.groups[7] == table.groups[3]
    assert len(np.unique(table.groups)) == 11


def test_sample_release(tmp_path):
    folder = tmp_path / "sample"
    folder.mkdir()
    for row in range(5):
        (folder / f"POSCAR-JVASP-{row}.vasp").write_text(poscar(row))
    (folder / "id_prop.csv").write_text("POSCAR-JVASP-2.vasp,0.500000\nPOSCAR-JVASP-0.vasp,1.25\n")
    pytest.importorskip("pymatgen", reason="needs pymatgen")
    dataset = Jarvis(store=fake_store(tmp_path, {"jarvis_sample": folder}), release="sample")
    assert dataset.spec().default_targets == ("optb88vdw_bandgap",)
    table = dataset.load()
    assert table.ids.tolist() == ["JVASP-0", "JVASP-2"]
    assert table.targets[:, 0].tolist() == [1.25, 0.5]
    with pytest.raises(UserError, match="no target ehull"):
        Jarvis(store=dataset.store, release="sample", targets=["ehull"]).load()


def test_files_that_are_no_release(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "absent.json")
    with pytest.raises(UserError, match="JARVIS-DFT: no rows"):
        load(write_json(tmp_path / "x.json", []))
    with pytest.raises(UserError, match="needs an asset store"):
        Jarvis().load()


@pytest.mark.real_data
def test_real_part_of_the_release(tmp_path):
    store = real_store(tmp_path)
    for target, known in (("formation_energy_peratom", 3255), ("mbj_bandgap", 1059), ("Tc_supercon", 553)):
        table = Jarvis(store=store, targets=[target]).load()
        assert (len(table), table.rejected) == (known, [])
    dataset = Jarvis(store=store, targets=["mbj_bandgap"], split="hybrid")
    sizes = dataset.splits_of(dataset.load()).sizes
    assert sizes == {"train": 834, "val": 104, "test": 108}


def test_every_target_is_documented_with_its_unit(repository):
    page = (repository / "docs" / "crystals.md").read_text(encoding="utf-8")
    missing = [t.name for t in Jarvis().spec().targets if f"| `{t.name}` | {t.unit} |" not in page]
    assert missing == []
