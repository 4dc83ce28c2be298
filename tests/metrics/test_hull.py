"""Convex hulls: energies above them by hand, what is undefined, files of entries, and the cache."""

import gzip
import json

import numpy as np
import pytest

from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import UserError
from crystalfm.metrics.stability import hull as module
from crystalfm.metrics.stability.elements import fit_elements
from crystalfm.metrics.stability.hull import ConvexHull, HullEntry, entry_of, file_hull, read_entries, reference_hull

ELEMENTS = [HullEntry({"Na": 2}, -1.0), HullEntry({"Na": 1}, -0.5), HullEntry({"Cl": 4}, -2.0)]
ROCK_SALT = HullEntry({"Na": 4, "Cl": 4}, -3.5)


@pytest.fixture
def hull():
    return ConvexHull([*ELEMENTS, ROCK_SALT], "by hand")


@pytest.mark.parametrize(
    ("entry", "above"),
    [
        (HullEntry({"Na": 1, "Cl": 1}, -3.5), 0.0),
        (HullEntry({"Na": 3, "Cl": 3}, -3.3), 0.2),
        (HullEntry({"Na": 1, "Cl": 1}, -4.0), -0.5),
        (HullEntry({"Na": 1}, -0.5), 0.5),
        (HullEntry({"Na": 3, "Cl": 1}, -2.0), 0.25),  # half sodium, half rock salt: (-1 - 3.5) / 2 = -2.25
    ],
)
def test_energy_above_the_hull(hull, entry, above):
    assert hull.energy_above(entry) == pytest.approx(above, abs=1e-9)


def test_of_a_composition_only_the_lowest_entry_counts(hull):
    assert (hull.num_entries, hull.num_compositions) == (4, 3)
    assert hull.energy_above(HullEntry({"Na": 5}, -1.0)) == pytest.approx(0.0)


def test_an_element_without_a_phase_leaves_the_energy_undefined(hull):
    entry = HullEntry({"Na": 1, "Cs": 1, "Cl": 2}, -9.0)
    assert hull.energy_above(entry) is None
    assert hull.missing(entry) == ["Cs"]
    assert hull.elements == {"Na", "Cl"}


def test_an_element_that_is_only_in_a_compound_is_missing():
    hull = ConvexHull([ELEMENTS[0], ROCK_SALT], "without chlorine")
    assert hull.missing(ROCK_SALT) == ["Cl"]


def test_phases_of_smaller_systems_belong_to_the_hull_of_larger_ones():
    entries = [*ELEMENTS, ROCK_SALT, HullEntry({"K": 1}, -1.0), HullEntry({"K": 1, "Cl": 1}, -3.0)]
    found = ConvexHull(entries, "").energy_above(HullEntry({"Na": 1, "K": 1, "Cl": 2}, -3.0))
    assert found == pytest.approx(0.25)


def test_entry_of_a_crystal():
    crystal = make_crystal(np.eye(3) * 4, [11, 17, 17], np.random.default_rng(0).random((3, 3)))
    entry = entry_of(crystal, -9.0)
    assert (dict(entry.counts), entry.energy_per_atom) == ({"Na": 1.0, "Cl": 2.0}, -3.0)


# --------------------------------------------------------------------------- files

PLAIN = {"composition": {"Na": 1, "Cl": 1}, "energy": -7.0}


@pytest.mark.parametrize(
    ("item", "per_atom"),
    [
        (PLAIN, -3.5),
        ({"composition": "Na2Cl2", "energy_per_atom": -3.0}, -3.0),
        (PLAIN | {"correction": 1.0}, -3.0),
        (
            PLAIN | {"correction": 1.0, "energy_adjustments": [{"value": -1.0}, {"adj_per_atom": 0.5, "n_atoms": 4}]},
            -3.0,
        ),
        (PLAIN | {"energy_adjustments": []}, -3.5),
    ],
)
@pytest.mark.parametrize("layout", ["list", "entries", "pandas"])
def test_layouts_of_files(tmp_path, item, per_atom, layout):
    content = {"list": [item], "entries": {"entries": [item]}, "pandas": {"id": {"0": "a"}, "entry": {"0": item}}}[
        layout
    ]
    path = tmp_path / "entries.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    (entry,) = read_entries(path)
    assert entry.energy_per_atom == pytest.approx(per_atom)
    assert entry.fractions == (("Cl", 0.5), ("Na", 0.5))


def test_entries_as_pymatgen_writes_them(tmp_path):
    from pymatgen.entries.computed_entries import ComputedEntry, ConstantEnergyAdjustment

    entry = ComputedEntry("Fe2O3", -40.0, energy_adjustments=[ConstantEnergyAdjustment(-2.0)])
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([entry.as_dict()], default=str))
    assert read_entries(path)[0].energy_per_atom == pytest.approx(entry.energy_per_atom) == pytest.approx(-8.4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "cannot be read"),
        ("[]", "no entries"),
        ("{}", "no entries"),
        ('[{"composition": {"Na": 1}}]', "entry 0.*energy"),
        ('[{"composition": {"Xx": 1}, "energy": 1}]', "entry 0.*unknown element"),
        ('[{"composition": {}, "energy": 1}]', "entry 0.*without atoms"),
        ('[{"composition": {"Na": 1}, "energy": NaN}]', "entry 0.*no number"),
        ('["NaCl"]', "entry 0"),
    ],
)
def test_files_that_are_none(tmp_path, text, said):
    path = tmp_path / "entries.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_entries(path)
    assert "energy_per_atom" in error.value.remedy


def test_missing_file_and_the_source_of_a_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        file_hull(tmp_path / "absent.json")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([PLAIN]))
    assert file_hull(path).source.startswith("mine.json, SHA-256 ")


# --------------------------------------------------------------------------- of a reference set


def cell(number):
    return make_crystal(np.eye(3) * 4, [number], [[0.0, 0.0, 0.0]])


@pytest.fixture
def calls(monkeypatch):
    """Energies of -Z eV/atom and a count of the crystals asked for; caesium has none."""
    found = []

    def energies(crystals, cache, **_):
        found.append(len(crystals))
        sums = [float(-crystal.atomic_numbers.sum()) for crystal in crystals]
        return ["no energy" if 55 in one.atomic_numbers else total for one, total in zip(crystals, sums, strict=True)]

    monkeypatch.setattr(module, "single_point_energies", energies)
    monkeypatch.setattr(module.energy_generator().__class__, "identity", lambda self: {"generator": "fake"})
    return found


def test_reference_hull_is_kept_and_read_again(tmp_path, calls):
    crystals = [cell(11), cell(17), cell(55)]
    first = reference_hull(crystals, None, tmp_path, "three")
    second = reference_hull(crystals[::-1], None, tmp_path, "three")
    assert calls == [3]
    assert first.as_dict() == second.as_dict()
    assert first.as_dict()["crystals_without_energy"] == 1
    assert second.energy_above(HullEntry({"Cl": 1}, -16.5)) == pytest.approx(0.5)
    reference_hull(crystals[:2], None, tmp_path, "two")
    reference_hull(crystals[:2], [0.0, 0.0], tmp_path, "two, with energies of formation")
    assert calls == [3, 2, 2]


def salt(first, second, count):
    """Crystal of one atom of an element and some of another."""
    coords = np.random.default_rng(count).random((1 + count, 3))
    return make_crystal(np.eye(3) * 4, [first] + [second] * count, coords)


CATIONS, ANIONS = (3, 11, 19, 37, 12), (9, 17, 35, 53, 8)
SALTS = [salt(a, b, 1 + (a + b) % 3) for a in CATIONS for b in ANIONS]


def test_elements_without_a_crystal_are_fitted_and_told(tmp_path, calls):
    """Energies of -Z and of formation of -0.2 leave -Z + 0.2 for every element."""
    for _ in range(2):  # made, then read
        hull = reference_hull(SALTS, [-0.2] * len(SALTS), tmp_path, "salts")
        assert hull.num_fitted == len(hull.elements) == 10
        assert hull.energy_above(HullEntry({"Na": 1}, -11.0)) == pytest.approx(-0.2, abs=1e-3)
        assert hull.energy_above(entry_of(SALTS[0], float(-SALTS[0].atomic_numbers.sum()))) == pytest.approx(
            0.0, abs=1e-3
        )
        assert hull.as_dict()["fit"]["rmse"] == pytest.approx(0.0, abs=1e-3)
        assert hull.as_dict()["fit"]["compounds"] == 25
    assert calls == [25]
    assert reference_hull(SALTS, None, tmp_path, "salts").elements == set()


def test_an_element_with_a_crystal_is_not_fitted(tmp_path, calls):
    hull = reference_hull([*SALTS, cell(11)], [-0.2] * 25 + [0.0], tmp_path, "salts and sodium")
    assert hull.num_fitted == 9
    assert hull.energy_above(HullEntry({"Na": 1}, -11.0)) == pytest.approx(0.0, abs=1e-6)


# --------------------------------------------------------------------------- the regression


def test_regression_finds_energies_in_spite_of_outliers_and_unknown_values():
    rng = np.random.default_rng(0)
    true = {"Na": -1.3, "Cl": -1.8, "Mg": -1.6, "O": -4.9}
    names = list(true)
    compositions = [dict(zip(names, counts, strict=True)) for counts in rng.integers(1, 5, (200, 4)).tolist()]
    formation = rng.uniform(-3, 0, 200)
    energies = [
        sum(true[name] * count for name, count in one.items()) / sum(one.values()) + value
        for one, value in zip(compositions, formation, strict=True)
    ]
    noisy = np.array(energies) + rng.normal(0, 0.02, 200)
    noisy[:8] += 5.0
    formation[8:12] = np.nan
    fit = fit_elements(compositions, noisy.tolist(), formation.tolist())
    assert fit.num_compounds == 196
    assert {name: pytest.approx(value, abs=0.05) for name, value in true.items()} == dict(fit.energies)
    assert fit.median_residual < 0.03
    assert fit.rmse > 0.5


def test_elements_that_the_compounds_leave_free_get_no_energy():
    """In compounds of one ratio, a shift of all cations is undone by one of all anions; sulfur stands apart."""
    one_to_one = [{a: 1, b: 1} for a in ("Na", "K", "Rb", "Cs", "Li") for b in ("F", "Cl", "Br", "I", "O")]
    assert fit_elements(one_to_one, [-1.0] * 25, [-0.5] * 25) is None
    apart = [{"S": 1, "Se": count} for count in (1, 2, 3, 4, 5)]
    fit = fit_elements([*one_to_one, *apart], [-1.0] * 30, [-0.5] * 30)
    assert {name: round(energy, 6) for name, energy in fit.energies.items()} == {"S": -0.5, "Se": -0.5}


def test_elements_in_few_compounds_get_no_energy():
    compositions = [{"Na": 1, "Cl": 1}] * 3 + [{"Na": 1, "Cl": 3}] * 3 + [{"Xe": 1, "Cl": 1}] * 4
    fit = fit_elements(compositions, [-1.0] * 10, [-0.5] * 10)
    assert set(fit.energies) == {"Na", "Cl"}
    assert fit.num_compounds == 6
    assert fit_elements(compositions[6:], [-1.0] * 4, [-0.5] * 4) is None
    assert fit_elements(compositions, [-1.0] * 10, [float("nan")] * 10) is None
