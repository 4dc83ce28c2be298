"""Perov-5 and Carbon-24: CSV and Parquet layouts, official, extended and drawn splits."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crystal_files import cif, fake_store, poscar, real_store, write_parts

from crystalfm.contracts import UserError
from crystalfm.data.cdvae import Carbon24, Perov5

pytest.importorskip("pymatgen", reason="needs pymatgen")


def csv_rows(count=16):
    return [{"material_id": n, "heat_all": 0.1 * n, "dir_gap": n, "cif": cif(n)} for n in range(count)]


def write_parquet(path, targets_of=("val", "test"), **changes):
    """Ten training rows, six validation rows, four test rows in one file."""
    split = ["train"] * 10 + ["val"] * 6 + ["test"] * 4
    columns = {
        "split": split,
        "material_id": [f"C-{n}" for n in range(20)],
        "poscar": [poscar(n) for n in range(20)],
        "energy_per_atom": [float(n) if part in targets_of else None for n, part in enumerate(split)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns | changes), path)
    return path


def sizes(dataset):
    return dataset.splits_of(dataset.load()).sizes


def test_csv_release(tmp_path):
    dataset = Perov5(path=str(write_parts(tmp_path / "p", csv_rows())), targets=["dir_gap", "heat_all"])
    table = dataset.load()
    assert table.targets[3].tolist() == pytest.approx([3, 0.3])
    assert dataset.splits_of(table).sizes == {"train": 8, "val": 4, "test": 4}
    assert Perov5(path=str(tmp_path / "p")).load().target_specs[0].label == "heat_all_eV"


def test_parquet_with_all_targets_keeps_the_official_split(tmp_path):
    path = write_parquet(tmp_path / "c.parquet", targets_of=("train", "val", "test"))
    assert sizes(Carbon24(path=str(path))) == {"train": 10, "val": 6, "test": 4}


def test_without_training_targets_the_validation_part_trains(tmp_path, caplog):
    path = str(write_parquet(tmp_path / "c.parquet"))
    dataset = Carbon24(path=path, val_fraction=0.5)
    table = dataset.load()
    assert Counter(table.parts.tolist()) == {"val": 6, "test": 4}
    assert dataset.splits_of(table).sizes == {"train": 3, "val": 3, "test": 4}
    assert "data.split=extended is used" in caplog.text
    with pytest.raises(UserError, match=r"leaves no row to train on here \(0 train, 6 val, 4 test\)"):
        sizes(Carbon24(path=path, split="official"))
    random = Carbon24(path=path, split="random")
    assert random.splits_of(random.load()) is None


def test_release_goes_before_what_stands_in(tmp_path, caplog):
    parquet = write_parquet(tmp_path / "perov_carbon" / "carbon_24.parquet").parent
    store = fake_store(tmp_path, {"carbon_24_parquet": parquet})
    assert len(Carbon24(store=store).load()) == 10
    assert "carbon_24 is not at hand; in its place: Carbon-24 as one Parquet file" in caplog.text
    rows = [{"material_id": n, "energy_per_atom": n, "cif": cif(n)} for n in range(16)]
    both = {"carbon_24_parquet": parquet, "carbon_24": write_parts(tmp_path / "csv", rows)}
    assert len(Carbon24(store=fake_store(tmp_path, both)).load()) == 16
    store = fake_store(tmp_path, both, at_hand=())
    Carbon24(store=store).load()
    assert store.fetched == ["carbon_24"]


def test_bad_structures_are_rejected(tmp_path):
    texts = [poscar(n) for n in range(20)]
    texts[12] = texts[12].replace("0.5 0.5 0.5", "0 0 0.01")
    texts[13] = None
    table = Carbon24(path=str(write_parquet(tmp_path / "c.parquet", poscar=texts))).load()
    assert {item.id: item.reason.split(":")[0] for item in table.rejected} == {
        "C-12": "overlapping atoms",
        "C-13": "unreadable structure",
    }


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Perov5(path=str(tmp_path / "absent")).load()
    with pytest.raises(UserError, match="data=carbon24 needs an asset store"):
        Carbon24().load()
    (tmp_path / "x.csv").write_text("material_id,heat_all\n1,2\n")
    with pytest.raises(UserError, match="has no column cif"):
        Perov5(path=str(tmp_path / "x.csv")).load()


@pytest.mark.real_data
def test_real_files(tmp_path):
    table = Carbon24(store=real_store(tmp_path)).load()
    assert Counter(table.parts.tolist()) == {"val": 2032, "test": 2030}
    assert table.rejected == []
