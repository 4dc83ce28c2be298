"""CHGNet on small crystals: energies, relaxation, failures with reasons, the cache."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from crystalfm.chem.crystals import CrystalError, make_crystal
from crystalfm.contracts import UserError
from crystalfm.data import descriptions
from crystalfm.metrics.stability import calculator, relaxation
from crystalfm.metrics.stability.relaxation import RelaxationSettings, relax_crystals, single_point_energies

needs_chgnet = pytest.mark.skipif(find_spec("chgnet") is None, reason="needs the package chgnet")
SETTINGS = RelaxationSettings(device="cpu", jobs=1, steps=100, time_limit_seconds=60)


def rock_salt(edge, numbers=(11, 17)):
    lattice = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]) * edge
    return make_crystal(lattice, list(numbers), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


LONELY = make_crystal(np.eye(3) * 20, [11], [[0.0, 0.0, 0.0]])
CURIUM = rock_salt(5.0, (96, 8))


@needs_chgnet
def test_relaxation_finds_rock_salt_from_a_stretched_cell():
    found = json.loads(calculator.relax(rock_salt(5.9), max_force=0.02, max_steps=200))
    relaxed = make_crystal(*(json.loads(found["structure"])[name] for name in ("lattice", "numbers", "coords")))
    edge = (4 * relaxed.volume) ** (1 / 3)
    assert edge == pytest.approx(5.64, abs=0.1)  # 5.64 angstrom in experiment
    assert found["converged"]
    assert found["energy"] < found["initial_energy"]


@needs_chgnet
def test_steps_are_limited_and_that_is_told():
    found = json.loads(calculator.relax(rock_salt(6.4), max_force=0.001, max_steps=2))
    assert (found["num_steps"], found["converged"]) == (2, False)


@needs_chgnet
def test_energies_in_batches_are_those_of_crystals_alone_whatever_else_fails():
    crystals = [rock_salt(5.6), LONELY, rock_salt(6.3, (19, 17)), CURIUM, rock_salt(5.6)]
    together = calculator.energies(crystals, batch_size=2)
    alone = [calculator.energies([crystal])[0] for crystal in crystals]
    for first, second in zip(together, alone, strict=True):
        if isinstance(first, CrystalError):
            assert first.reason == second.reason
        else:
            assert first == pytest.approx(second, abs=1e-4)
    assert together[0] == pytest.approx(together[4], abs=1e-4)
    assert "isolated atom" in together[1].reason
    assert together[3].reason == "the calculator does not know the element Cm"
    assert -8.0 < together[0] < -6.0  # about -3.4 eV/atom


@needs_chgnet
def test_energy_of_a_supercell_is_that_of_its_cells():
    small = rock_salt(5.6)
    coords = np.concatenate([small.frac_coords, np.add(small.frac_coords, [1, 0, 0])]) / [2, 1, 1]
    large = make_crystal(small.lattice * [[2], [1], [1]], [*small.atomic_numbers] * 2, coords)
    one, two = calculator.energies([small, large])
    assert two == pytest.approx(2 * one, abs=1e-3)


@pytest.mark.slow
@needs_chgnet
def test_many_relaxations_are_kept_with_their_failures(tmp_path, monkeypatch):
    crystals = [rock_salt(5.7), LONELY, rock_salt(5.7), CURIUM]
    first = relax_crystals(crystals, tmp_path, SETTINGS)
    assert first[0].energy == first[2].energy
    assert first[0].energy_per_atom == pytest.approx(first[0].energy / 2)
    assert first[0].crystal.formula == "ClNa"
    assert "isolated atom" in first[1]
    assert first[1].startswith("not relaxed: ValueError")
    assert first[3] == "the calculator does not know the element Cm"
    monkeypatch.setattr(descriptions, "DescriberProcess", None)
    second = relax_crystals(crystals[::-1], tmp_path, SETTINGS)
    assert [one if isinstance(one, str) else one.energy for one in second[::-1]] == [
        one if isinstance(one, str) else one.energy for one in first
    ]


@pytest.mark.slow
@needs_chgnet
def test_a_relaxation_beyond_the_time_limit_is_a_named_failure(tmp_path):
    found = relax_crystals([rock_salt(6.5)], tmp_path, replace(SETTINGS, steps=4, time_limit_seconds=0.001))
    assert found == ["not relaxed within 0.001 seconds"]


@needs_chgnet
def test_single_points_are_computed_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(relaxation, "_CHUNK_CRYSTALS", 2)
    crystals = [rock_salt(5.6), LONELY, rock_salt(6.3, (19, 17))]
    first = single_point_energies(
        crystals, tmp_path, device="cpu", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]
    assert isinstance(first[0], float)
    assert "isolated atom" in first[1]
    monkeypatch.setattr(calculator, "energies", None)
    assert single_point_energies(crystals[::-1], tmp_path, device="cpu") == first[::-1]


def test_settings_and_versions_are_part_of_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(calculator, "relaxation_versions", lambda: {"chgnet": "1"})
    monkeypatch.setattr(descriptions, "find_spec", lambda name: name)
    kept = [
        descriptions.DescriptionCache(tmp_path, relaxation._relaxer(settings).identity()).folder
        for settings in (
            SETTINGS,
            replace(SETTINGS, max_force=0.1),
            replace(SETTINGS, steps=7),
            replace(SETTINGS, jobs=9),
        )
    ]
    assert len(set(kept)) == 3
    assert kept[0] == kept[3]
    assert kept[0].parent == Path(tmp_path)


def test_a_missing_package_is_told_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptions, "find_spec", lambda name: None if name == "chgnet" else name)
    with pytest.raises(UserError, match="stability=chgnet: chgnet is not installed") as error:
        relax_crystals([rock_salt(5.7)], tmp_path, SETTINGS)
    assert "crystalfm[generate]" in error.value.remedy
    with pytest.raises(UserError, match="chgnet is not installed"):
        single_point_energies([rock_salt(5.7)], tmp_path)
