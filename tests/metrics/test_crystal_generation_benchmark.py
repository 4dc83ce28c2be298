"""The floor sets: training crystals, and training crystals with other elements."""

import csv
import importlib.util

import numpy as np
import pytest

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.crystals import make_crystal


@pytest.fixture(scope="module")
def benchmark(repository):
    spec = importlib.util.spec_from_file_location("crystal_generation", repository / "benchmarks/crystal_generation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cube(numbers, edge=5.0):
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]][: len(numbers)]
    return make_crystal(np.eye(3) * edge, numbers, coords)


CRYSTALS = [cube([11, 17]), cube([19, 17]), cube([11, 11, 8]), cube([12, 8]), cube([20, 8]), cube([3, 9])]


def test_every_element_is_exchanged_for_another_and_sites_stay(benchmark):
    numbers, shares = benchmark.element_shares(CRYSTALS)
    assert shares.sum() == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = benchmark.substituted(CRYSTALS[2], numbers, shares, rng)
        first, second, third = found.atomic_numbers.tolist()
        assert first == second != third
        assert not {first, third} & {11, 8}
        assert {first, third} <= set(numbers.tolist())
        np.testing.assert_array_equal(found.frac_coords, CRYSTALS[2].frac_coords)
        np.testing.assert_array_equal(found.lattice, CRYSTALS[2].lattice)


def test_volume_follows_the_radii_where_asked(benchmark):
    numbers, shares = np.array([55]), np.array([1.0])
    found = benchmark.substituted(cube([11]), numbers, shares, np.random.default_rng(0), scale_volume=True)
    assert found.lattice[0, 0] == pytest.approx(5.0 * 2.60 / 1.80)  # Slater's radii of caesium and sodium


def test_sets_are_drawn_without_replacement_by_the_seed(benchmark):
    first, again, other = (benchmark.floor_set(CRYSTALS, "train", 5, seed, scale_volume=False) for seed in (1, 1, 2))
    assert [id(one) for one in first] == [id(one) for one in again] != [id(one) for one in other]
    assert len({id(one) for one in first}) == 5
    exchanged = benchmark.floor_set(CRYSTALS, "substitution", 5, 1, scale_volume=False)
    assert [len(one.atomic_numbers) for one in exchanged] == [len(one.atomic_numbers) for one in first]


def test_folders_of_cifs_can_be_read_back(benchmark, tmp_path, capsys):
    from pymatgen.io.cif import CifWriter

    from crystalfm.metrics.crystals.structures import as_structure

    (tmp_path / "mp").mkdir()
    for part in ("train", "val", "test"):
        with (tmp_path / "mp" / f"{part}.csv").open("w", encoding="utf-8", newline="") as stream:
            rows = [[f"{part}-{row}", str(CifWriter(as_structure(one))), 0] for row, one in enumerate(CRYSTALS)]
            csv.writer(stream).writerows([["material_id", "cif", "formation_energy_per_atom"], *rows])
    words = [str(tmp_path / "out"), "--count", "4", "--path", str(tmp_path / "mp")]
    assert benchmark.main(words) == 0
    for kind in benchmark.KINDS:
        files = sorted((tmp_path / "out" / kind).iterdir())
        assert [path.name for path in files] == ["0.cif", "1.cif", "2.cif", "3.cif"]
        assert all(read_crystal_file(path).num_atoms <= 3 for path in files)
    assert "4 crystals out of 6" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main(words)
