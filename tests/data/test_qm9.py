"""QM9: both layouts, limits, the parsed table's cache, and the real files where they are cached."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from crystalfm.contracts import UserError
from crystalfm.data import parsed_cache, qm9
from crystalfm.data.qm9 import QM9
from crystalfm.data.splits import check_leakage, make_splits, read_splits, write_splits

TARGETS = ["A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv"]
WHEEL_TARGETS = (
    "RotA_GHz,RotB_GHz,RotC_GHz,Dipole_debye,Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,R2_bohr2,ZPVE_au,"
    "InternalEnergy_0K_au,InternalEnergy_298K_au,Enthalphy_298K_au,GibbsFreeEnergy_298K_au,Heatcapacity_Cv_cal_mol_K"
)
MOLECULES = ["CCO", "C", "CN", "OCC", "CC#N", "C1CC1"]


def numbers(row):
    return ",".join(str(row + column / 100) for column in range(15))


def write_wheel(folder, smiles=MOLECULES, parts=2):
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        lines = [f"XYZ_file,Index,SMILES,XYZ_Ang,{WHEEL_TARGETS}"]
        lines += [
            f'"dsgdb9nsd_{row}.xyz",{row + 1},"{smiles[row]}","[[0.1,0.2],[0.3]]",{numbers(row)}'
            for row in range(part, len(smiles), parts)
        ]
        (folder / f"qm9_part{part + 1}.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_moleculenet(path, smiles=MOLECULES):
    lines = [f"mol_id,smiles,{','.join(TARGETS)},u0_atom"]
    lines += [f"gdb_{row + 1},{text},{numbers(row)},-1.5" for row, text in enumerate(smiles)]
    path.write_text("\n".join(lines) + "\n")
    return path


class Store:
    """The part of the asset store that data sets use."""

    def __init__(self, cache, **folders):
        self.cache = cache
        self.folders = folders
        self.content = "1" * 64

    def fetch(self, name):
        return SimpleNamespace(folder=self.folders[name], sha256=name + self.content)


@pytest.fixture
def store(tmp_path):
    write_wheel(tmp_path / "wheel")
    (tmp_path / "net").mkdir()
    write_moleculenet(tmp_path / "net" / "qm9.csv", [*MOLECULES, "F"])
    return Store(tmp_path / "cache", qm9=tmp_path / "wheel", qm9_moleculenet=tmp_path / "net")


def test_spec_names_targets_with_units_and_reads_nothing():
    spec = QM9().spec()
    units = {target.name: target.unit for target in spec.targets}
    assert list(units) == TARGETS
    assert {units[name] for name in ("homo", "lumo", "gap", "zpve", "u0", "g298")} == {"hartree"}
    assert units["mu"] == "debye"
    assert units["cv"] == "cal/(mol K)"
    assert spec.default_targets == ("homo", "lumo", "gap")
    assert spec.modalities == ("smiles", "selfies", "fingerprint", "molecular_graph")


def test_both_layouts_give_the_same_records(tmp_path):
    wheel = QM9(path=str(write_wheel(tmp_path / "wheel", parts=1))).load()
    net = QM9(path=str(write_moleculenet(tmp_path / "qm9.csv"))).load()
    assert wheel.ids.tolist() == [f"gdb_{row}" for row in range(1, 7)]
    assert wheel.content_hash == net.content_hash
    np.testing.assert_allclose(net.targets[2], [2.05, 2.06, 2.07])


def test_parts_follow_each_other(store):
    assert QM9(store=store).load().ids.tolist() == ["gdb_1", "gdb_3", "gdb_5", "gdb_2", "gdb_4", "gdb_6"]


def test_chosen_targets_come_in_the_order_asked_for(store):
    table = QM9(store=store, targets=["cv", "A"]).load()
    assert [spec.name for spec in table.target_specs] == ["cv", "A"]
    np.testing.assert_allclose(table.targets[0], [0.14, 0.0])
    assert table.targets.dtype == np.float64


def test_unknown_target_names_those_there_are(store):
    with pytest.raises(UserError, match="no target homu") as caught:
        QM9(store=store, targets=["homu"]).load()
    assert "homo" in str(caught.value)


def test_source_chooses_the_asset(store):
    assert len(QM9(store=store).load()) == 6
    assert len(QM9(store=store, source="moleculenet").load()) == 7


def test_same_molecule_is_one_group(store):
    table = QM9(store=store).load()
    ids = table.ids.tolist()
    assert table.groups[ids.index("gdb_1")] == table.groups[ids.index("gdb_4")]
    assert len(set(table.groups.tolist())) == 5


def test_bad_smiles_are_rejected_with_their_reason(tmp_path):
    path = write_moleculenet(tmp_path / "qm9.csv", ["C", "C1CC", "CC(C)(C)(C)C", "N"])
    table = QM9(path=str(path)).load()
    assert table.ids.tolist() == ["gdb_1", "gdb_4"]
    assert [(item.id, item.value) for item in table.rejected] == [("gdb_2", "C1CC"), ("gdb_3", "CC(C)(C)(C)C")]
    assert "ring" in table.rejected[0].reason


def test_second_load_reads_the_cache(store, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    first = QM9(store=store).load()
    assert "no parsed table" in caplog.text
    monkeypatch.setattr(qm9, "_parse", None)
    again = QM9(store=store, targets=["homo", "lumo", "gap"]).load()
    assert "from the cache" in caplog.text
    assert again.content_hash == first.content_hash
    assert again.groups.tolist() == first.groups.tolist()


@pytest.mark.parametrize("what", ["content", "reader", "rdkit"])
def test_cache_is_not_used_for_other_content_reader_or_rdkit(store, monkeypatch, what):
    QM9(store=store).load()
    if what == "content":
        store.content = "2" * 64
    elif what == "reader":
        monkeypatch.setattr(qm9, "READER_VERSION", 99)
    else:
        monkeypatch.setattr(qm9.metadata, "version", lambda name: "1999.1")
    write_wheel(store.folders["qm9"], ["F", "O"], parts=2)
    assert len(QM9(store=store).load()) == 2
    assert len(list((store.cache / "tables").glob("*.parquet"))) == 2


def test_damaged_cache_is_rebuilt(store, caplog):
    expected = QM9(store=store).load().content_hash
    (cached,) = (store.cache / "tables").glob("*.parquet")
    cached.write_bytes(cached.read_bytes()[:100])
    assert QM9(store=store).load().content_hash == expected
    assert "damaged" in caplog.text
    assert cached.stat().st_size > 100


def test_cache_that_cannot_be_written_is_done_without(store, caplog, monkeypatch):
    def refuse(*_args, **_keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(parsed_cache, "file_lock", refuse)
    assert len(QM9(store=store).load()) == 6
    assert "cannot be written" in caplog.text


def test_limit_draws_the_same_rows_for_the_same_seed(store):
    def ids(limit, seed=1, **settings):
        return QM9(store=store, limit=limit, seed=seed, **settings).load().ids.tolist()

    assert ids(3) == ids(3)
    assert len(ids(3)) == 3
    assert set(ids(2)) < set(ids(4))
    assert any(ids(3, seed=seed) != ids(3) for seed in range(2, 8))
    assert ids(3, seed=9, split_seed=1) == ids(3)
    everything = QM9(store=store).load().ids.tolist()
    assert ids(100) == everything
    assert [item for item in everything if item in ids(4)] == ids(4)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"limit": 0}, "data.limit=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"targets": []}, "is empty"),
        ({"targets": ["gap", "gap"]}, "names a target twice"),
    ],
)
def test_settings_out_of_range(settings, key):
    with pytest.raises(UserError, match=key):
        QM9(**settings)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        QM9(path=str(tmp_path / "none.csv")).load()
    with pytest.raises(UserError, match="holds no QM9"):
        QM9(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="needs an asset store"):
        QM9().load()


def test_other_tables_are_not_taken_for_qm9(tmp_path):
    (tmp_path / "other.csv").write_text("mol_id,smiles,gap\ngdb_1,C,0.5\n")
    with pytest.raises(UserError, match="is not QM9: it has no column A, B, C, alpha"):
        QM9(path=str(tmp_path / "other.csv")).load()


def test_source_must_fit_the_file(tmp_path):
    path = str(write_moleculenet(tmp_path / "qm9.csv"))
    assert len(QM9(path=path, source="moleculenet").load()) == 6
    with pytest.raises(UserError, match="no column Dipole_debye"):
        QM9(path=path, source="wheel").load()


def test_text_among_the_numbers_is_an_error(tmp_path):
    path = write_moleculenet(tmp_path / "qm9.csv")
    path.write_text(path.read_text().replace("2.05", "two"))
    with pytest.raises(UserError, match="cannot be read as QM9"):
        QM9(path=str(path)).load()


def test_import_loads_nothing_heavy():
    import subprocess

    code = (
        "import sys, crystalfm.data.qm9, crystalfm.data.chebi, crystalfm.data.table;"
        "import crystalfm.data.splits, crystalfm.data.check;"
        "print([m for m in ('torch', 'pandas', 'rdkit', 'pyarrow', 'selfies', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real_data
def test_real_molecules_of_the_wheel(tmp_path, asset_cache):
    from crystalfm.assets.store import AssetStore

    assets = AssetStore(asset_cache, offline=True)
    if not assets.is_cached("qm9"):
        pytest.skip(f"{asset_cache} holds no QM9: python -m crystalfm.fetch qm9")
    table = QM9(store=assets).load()
    assert len(table) == 130_831
    assert table.rejected == []
    assert table.ids[:2].tolist() == ["gdb_1", "gdb_2"]
    np.testing.assert_allclose(table.targets[0], [-0.3877, 0.1171, 0.5048])
    np.testing.assert_allclose(table.targets[:, 1] - table.targets[:, 0], table.targets[:, 2], atol=1.1e-4)
    assert len(np.unique(table.groups)) == 130_744
    splits = make_splits(table)
    assert splits.sizes == {"train": 105_972, "val": 11_775, "test": 13_084}
    check_leakage(table, splits)
    write_splits(tmp_path / "split.json", table, splits, seed=42)
    assert np.array_equal(read_splits(tmp_path / "split.json", table).test, splits.test)
