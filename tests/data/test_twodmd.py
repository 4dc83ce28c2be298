"""2DMD's release: layouts, energies that must fit, contradictions that are refused, splits by type."""

import gzip
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from crystal_files import MIRROR, fake_store, real_store

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.crystals import Crystal
from crystalfm.chem.defects.configurations import read_configuration
from crystalfm.chem.defects.hosts import HOSTS, Host, Supercell
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError
from crystalfm.data.check import check_table
from crystalfm.data.twodmd import TwoDMD, split_by_type
from defect_release import PRISTINE_EV, configurations, write_part, write_release

pytest.importorskip("pymatgen", reason="needs pymatgen")
pytest.importorskip("spglib", reason="needs spglib")

LOW = "low_density_defects"
HIGH = "high_density_defects"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release"))


def records(table):
    return [DefectRecord.from_json(text) for text in table.fields["defects"]]


def changed(**values):
    """Change columns of the third row."""

    def change(rows):
        rows[2].update(values)
        return rows

    return change


def test_records_hold_structures_and_their_defects(release):
    table = TwoDMD(path=str(release), targets=["homo_lumo_gap", "formation_energy"]).load()
    assert (len(table), table.rejected, table.ids[3]) == (40, [], "id0003")
    supercell = Supercell(HOSTS["MoS2"], (4, 4, 1))
    expected = configurations(supercell)
    assert [record.configuration for record in records(table)] == expected
    for text, record in zip(table.fields["structure"], records(table), strict=True):
        assert read_configuration(Crystal.from_json(text), record.supercell) == record.configuration
    assert table.targets[3, 0] == pytest.approx(0.8 - 0.1 * len(expected[3]) - 0.006)
    assert [spec.label for spec in table.target_specs] == ["homo_lumo_gap_eV", "formation_energy_eV"]


def test_layouts_read_the_same(release, tmp_path):
    expected = TwoDMD(path=str(release)).load()
    plain = write_release(tmp_path / "plain", packed=False)
    part = plain / LOW / "MoS2"
    assert TwoDMD(path=str(part)).load().content_hash == expected.content_hash
    (part / "defects").mkdir()
    (part / "targets.csv").rename(part / "defects" / "targets.csv")
    (part / "descriptors.csv.gz").write_bytes(gzip.compress((part / "descriptors.csv").read_bytes()))
    (part / "descriptors.csv").unlink()
    (part / "unit_cells").rename(plain / "unit_cells")
    assert TwoDMD(path=str(plain)).load().content_hash == expected.content_hash


def test_the_table_is_kept_until_a_file_changes(tmp_path):
    folder = write_release(tmp_path / "r", count=6, packed=False)
    store = fake_store(tmp_path, {"2dmd": folder})
    first = TwoDMD(store=store).load()
    assert len(list((tmp_path / "cache" / "tables").glob("*.parquet"))) == 1
    assert TwoDMD(store=store).load().content_hash == first.content_hash
    next((folder / LOW / "MoS2" / "initial").glob("id0002.cif")).unlink()
    table = TwoDMD(store=store).load()
    assert [(item.id, item.value) for item in table.rejected] == [("id0002", "id0002.cif")]
    assert len(records(table)) == 5


def test_missing_formation_energies_are_computed(release, tmp_path):
    def without(rows):
        return [{name: value for name, value in row.items() if "formation" not in name} for row in rows]

    names = ["formation_energy_per_site", "formation_energy"]
    computed = TwoDMD(path=str(write_release(tmp_path / "r", rows=without)), targets=names).load()
    np.testing.assert_allclose(computed.targets, TwoDMD(path=str(release), targets=names).load().targets, atol=1e-12)


@pytest.mark.parametrize(("name", "off", "refused"), [
    ("formation_energy", 0.0021, False),
    ("formation_energy", 0.01, True),
    ("formation_energy_per_site", 0.0009, False),
    ("formation_energy_per_site", -0.0011, True),
    ("energy_per_atom", 0.002, True),
])  # fmt: skip
def test_energies_that_do_not_follow_are_refused(tmp_path, name, off, refused):
    def change(rows):
        rows[8][name] += off  # v_Mo + 2 v_S
        return rows

    dataset = TwoDMD(path=str(write_release(tmp_path / "r", rows=change)), targets=[name])
    if not refused:
        assert len(dataset.load()) == 40
        return
    with pytest.raises(
        UserError, match=rf"low_density_defects/MoS2: id0008: {name} is -?\d+\.\d+ eV in the table, and"
    ):
        dataset.load()


def test_pristine_energies_of_another_release_are_refused(tmp_path):
    folder = write_release(tmp_path / "r", pristine=PRISTINE_EV + 0.5)
    with pytest.raises(UserError) as caught:
        TwoDMD(path=str(folder)).load()
    assert "id0000: formation_energy is 2.9000 eV in the table, and 2.4000 eV out of its energy" in caught.value.message
    assert "the pristine energy -199.5000 eV" in caught.value.message
    assert "WSe2's do" in caught.value.remedy


def test_structures_that_contradict_their_descriptors_are_refused(tmp_path):
    folder = write_release(tmp_path / "a", rows=changed(descriptor_id="d0005"))
    with pytest.raises(UserError, match=r"id0002 has 2 v_S, and its descriptor says v_Mo"):
        TwoDMD(path=str(folder)).load()
    folder = write_release(tmp_path / "b", packed=False)
    descriptors = folder / LOW / "MoS2" / "descriptors.csv"
    descriptors.write_text(descriptors.read_text().replace("[4, 4, 1]", "[3, 4, 1]"))
    with pytest.raises(UserError, match=r"id0000: its cell is not that of MoS2 \[3,4,1\]"):
        TwoDMD(path=str(folder)).load()
    with pytest.raises(UserError, match="id0002 names the descriptor absent, which is not there"):
        TwoDMD(path=str(write_release(tmp_path / "c", rows=changed(descriptor_id="absent")))).load()


def test_what_is_missing_is_named(tmp_path):
    folder = write_release(tmp_path / "r", count=6)
    part = folder / LOW / "MoS2"
    stated = (part / "initial_structures.csv").read_text()
    (part / "initial_structures.csv").write_text(stated.replace("[4, 4, 1]", "[8, 8, 1]"))
    with pytest.raises(UserError, match=r"no pristine energy of MoS2 \[4, 4, 1\] is known") as caught:
        TwoDMD(path=str(folder)).load()
    assert "MoS2 [8, 8, 1]" in caught.value.remedy
    (part / "initial_structures.csv").unlink()
    with pytest.raises(UserError, match=r"has no initial_structures\.csv"):
        TwoDMD(path=str(folder)).load()
    (part / "initial_structures.csv").write_text(stated)
    (part / "unit_cells" / "MoS2.cif").unlink()
    with pytest.raises(UserError, match="has no unit cell of MoS2"):
        TwoDMD(path=str(folder)).load()
    (part / "initial.tar.gz").write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(UserError, match=r"initial\.tar\.gz cannot be read"):
        list(TwoDMD(path=str(folder))._parts()[0].texts)
    with pytest.raises(UserError, match="holds no part of 2DMD"):
        TwoDMD(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="needs an asset store"):
        TwoDMD().load()


def test_high_density_parts_use_the_tables_beside_them(tmp_path):
    folder = write_release(tmp_path / "r", count=6)
    supercell = Supercell(HOSTS["MoS2"], (3, 3, 1))
    many = [one.of((*one.defects, *((site, 34) for site in (20, 24, 26)))) for one in configurations(supercell, 4)]
    part = write_part(folder / HIGH / "MoS2_500", size=(3, 3, 1), found=many, packed=False)
    for stem in ("elements", "initial_structures"):
        (part / f"{stem}.csv").rename(folder / f"{stem}_high_density.csv")
    for path in (part / "initial", *(part / "initial").iterdir()):
        if path.suffix == ".cif":
            path.rename(path.with_name(path.name.replace("id", "h")))
    targets = (part / "targets.csv").read_text().replace("\nid", "\nh")
    (part / "targets.csv").write_text(targets)
    assert len(TwoDMD(path=str(folder)).load()) == 10
    table = TwoDMD(path=str(folder), density="high").load()
    assert [name[0] for name in table.ids.tolist()] == ["h"] * 4
    assert records(table)[0].concentration == pytest.approx(4 / 27)
    # The low-density part has no use for them: each release has its own pristine energies.
    (folder / LOW / "MoS2" / "initial_structures.csv").unlink()
    with pytest.raises(UserError, match=r"MoS2 has no initial_structures\.csv"):
        TwoDMD(path=str(folder), density="low").load()


def test_hosts_are_chosen_by_name(release):
    assert len(TwoDMD(path=str(release), hosts=["MoS2"]).load()) == 40
    with pytest.raises(UserError, match="has no part of WSe2 of density all") as caught:
        TwoDMD(path=str(release), hosts=["MoS2", "WSe2"]).load()
    assert "low_density_defects/MoS2 (MoS2)" in caught.value.remedy
    with pytest.raises(UserError, match="has no part of density high"):
        TwoDMD(path=str(release), density="high").load()


def test_equivalent_configurations_stay_together(tmp_path):
    supercell = Supercell(HOSTS["MoS2"], (4, 4, 1))
    first, other = configurations(supercell, 8)[3:8:4]
    operations = site_permutations(supercell)
    found = [first, other, first.moved(operations[37]), other.moved(operations[5])]
    groups = TwoDMD(path=str(write_release(tmp_path / "r", found=found))).load().groups.tolist()
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_whole_types_are_held_out(release):
    dataset = TwoDMD(path=str(release), split="type", test_fraction=0.2, val_fraction=0.2, split_seed=3)
    table = dataset.load()
    splits = dataset.splits_of(table)
    types = np.array([record.type_name for record in records(table)])
    parts = {name: set(types[rows].tolist()) for name, rows in splits.parts.items()}
    assert not parts["train"] & parts["test"] | parts["train"] & parts["val"] | parts["val"] & parts["test"]
    assert sum(map(len, parts.values())) == len(set(types.tolist()))
    assert abs(splits.sizes["test"] - 8) <= 2
    again = TwoDMD(path=str(release), split="type", test_fraction=0.2, val_fraction=0.2, split_seed=4)
    assert again.splits_of(table).test.tolist() != splits.test.tolist()
    chosen = TwoDMD(path=str(release), split="type", test_types=["2v_S", "W_Mo + v_S"])
    assert set(types[chosen.splits_of(table).test].tolist()) == {"2 v_S", "W_Mo + v_S"}
    assert TwoDMD(path=str(release)).splits_of(table) is None


def test_large_types_are_not_forced_into_small_parts():
    types = ["a"] * 50 + ["b"] * 30 + ["c"] * 15 + ["d"] * 5
    for seed in range(8):
        sizes = split_by_type(types, test_types=None, test_fraction=0.1, val_fraction=0.1, seed=seed).sizes
        assert sizes["test"] in {5, 15}
        assert sizes["train"] >= 30
    whole = split_by_type(types, test_types=["a"], test_fraction=0.1, val_fraction=0.0, seed=0)
    assert whole.sizes == {"train": 50, "val": 0, "test": 50}


def test_mistakes_in_settings(release):
    with pytest.raises(UserError, match="is not read by"):
        TwoDMD(test_types=["2v_S"])
    dataset = TwoDMD(path=str(release), split="type", test_types=["3v_S"])
    with pytest.raises(UserError, match="no structure has the defects 3v_S") as caught:
        dataset.splits_of(dataset.load())
    assert "2Se_S, 2v_S" in caught.value.remedy
    with pytest.raises(UserError, match="leaves no type to train on: 2 types"):
        split_by_type(["a"] * 5 + ["b"] * 5, test_types=None, test_fraction=0.1, val_fraction=0.1, seed=0)
    with pytest.raises(UserError, match="has no target band_gap"):
        TwoDMD(path=str(release), targets=["band_gap"]).load()


def test_data_check_reads_a_release(release):
    report = check_table(release, targets=["homo"])
    assert (report.num_rows, report.num_molecules) == (40, 40)
    assert "17 types of defects" in report.contents
    assert f"model=alignn data=2dmd data.path={release}" in report.command.replace("'", "")
    every = check_table(release)
    assert {target.name for target in every.targets} >= {"formation_energy_per_site", "total_mag"}
    assert all(target.known == 40 for target in every.targets)


def test_archives_need_no_folder_inside(tmp_path):
    folder = write_release(tmp_path / "r", count=6, packed=False)
    part = folder / LOW / "MoS2"
    with tarfile.open(part / "initial.tar.gz", "w:gz") as archive:
        for file in (part / "initial").iterdir():
            archive.add(file, file.name)
            file.unlink()
    (part / "initial").rmdir()
    assert len(TwoDMD(path=str(folder)).load()) == 6


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_pilot(tmp_path):
    store = real_store(tmp_path)
    dataset = TwoDMD(store=store, targets=["formation_energy_per_site", "formation_energy", "energy"], split="type")
    table = dataset.load()
    assert (len(table), table.rejected, len(set(table.groups.tolist()))) == (200, [], 200)
    found = records(table)
    assert Counter(record.type_name for record in found)["W_Mo + v_S + Se_S"] == 53
    counts = np.array([len(record.configuration) for record in found])
    np.testing.assert_allclose(table.targets[:, 1] / counts, table.targets[:, 0], atol=1e-9)
    assert sum(dataset.splits_of(table).sizes.values()) == 200


@pytest.mark.real_data
@pytest.mark.parametrize("name", list(HOSTS))
def test_real_unit_cells_are_the_hosts(tmp_path, name):
    real_store(tmp_path)
    cell = read_crystal_file(Path(MIRROR) / "2dmd" / "unit_cells" / f"{name}.cif")
    own = HOSTS[name].cell
    assert cell.atomic_numbers.tolist() == own.atomic_numbers.tolist()
    np.testing.assert_allclose(cell.lattice, own.lattice, atol=1e-3)
    operations = [site_permutations(Supercell(Host(name, unit, (2, 2, 1)), (2, 2, 1))) for unit in (cell, own)]
    assert len(operations[0]) == len(operations[1])
