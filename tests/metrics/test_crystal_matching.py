"""Uniqueness, novelty and matches of pairs on crystals of which it is known whether they are the same."""

import math

import numpy as np
import pytest
from known_crystals import (
    SETTINGS,
    bcc,
    caesium_chloride,
    fcc,
    flat,
    moved,
    overlapping,
    perovskite,
    repeated,
    rock_salt,
    turned,
)
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from crystalfm.chem.crystals import Crystal
from crystalfm.metrics.crystals import matching
from crystalfm.metrics.crystals.matching import Tolerances, match_pairs, novelty, uniqueness
from crystalfm.metrics.crystals.structures import as_structure


def shaken(crystal, size, seed=0):
    """The crystal with atoms displaced by normal deviates, in angstrom."""
    steps = np.random.default_rng(seed).normal(0, size, crystal.frac_coords.shape)
    coords = crystal.frac_coords + steps @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, crystal.atomic_numbers, coords)


def without_a_cell():
    """Rock salt whose lattice vectors are zero."""
    return Crystal(np.zeros((3, 3)), rock_salt().atomic_numbers, rock_salt().frac_coords)


@pytest.mark.parametrize("crystal", [rock_salt(), bcc(), perovskite()])
def test_every_setting_is_the_same_crystal(crystal):
    copies = [crystal, *(setting(crystal) for setting in SETTINGS)]
    assert uniqueness(copies).first_of == (0,) * len(copies)
    assert novelty(copies, [turned(moved(crystal))]).novel == (False,) * len(copies)


def test_counts_and_denominators():
    samples = [rock_salt(), None, fcc(), moved(rock_salt()), caesium_chloride("Na", "Cl", 3.5), repeated(fcc()), None]
    found = uniqueness(samples)
    assert found.first_of == (0, None, 2, 0, 4, 2, None)
    assert (found.among_compared.count, found.among_compared.total) == (3, 5)
    assert (found.among_all.count, found.among_all.total) == (3, 7)
    assert (found.formulas.count, found.formulas.total) == (2, 5)


def test_unsound_samples_are_not_compared():
    found = uniqueness([rock_salt(), rock_salt(), fcc()], sound=[False, True, True])
    assert found.first_of == (None, 1, 2)
    new = novelty([rock_salt(), rock_salt(), fcc()], [fcc()], sound=[False, True, True])
    assert new.novel == (None, True, False)
    assert (new.among_compared.count, new.among_compared.total) == (1, 2)
    assert (new.among_all.count, new.among_all.total) == (1, 3)
    assert (new.new_formulas.count, new.new_formulas.total) == (1, 2)


def test_a_polymorph_is_novel_but_no_new_formula():
    found = novelty([caesium_chloride("Na", "Cl", 3.5)], [rock_salt()])
    assert found.novel == (True,)
    assert found.num_new_formulas == 0


def test_volume_is_no_criterion():
    assert uniqueness([fcc("Cu", 3.6), fcc("Cu", 4.1)]).num_unique == 1


def test_tolerances_count():
    pair = [perovskite(), shaken(perovskite(), 0.12)]
    assert uniqueness(pair).num_unique == 1
    assert uniqueness(pair, tolerances=Tolerances(length=0.2, site=0.02, angle_degrees=5)).num_unique == 2


def test_agrees_with_the_library_on_shaken_crystals():
    kinds = [rock_salt(), caesium_chloride("Na", "Cl", 3.5), perovskite(), repeated(rock_salt(), 3)]
    samples = [shaken(kind, size, seed) for kind in kinds for seed, size in enumerate((0.0, 0.1, 0.6, 1.0))]
    structures = [as_structure(sample) for sample in samples]
    groups = StructureMatcher().group_structures(structures)
    assert 4 < len(groups) < len(samples)
    assert uniqueness(samples).num_unique == len(groups)
    train = kinds[:3]
    fits = [any(StructureMatcher().fit(as_structure(other), one) for other in train) for one in structures]
    assert novelty(samples, train).novel == tuple(not fit for fit in fits)


@pytest.mark.parametrize("broken", [flat(), overlapping(), without_a_cell()])
def test_crystals_that_are_none_are_not_compared(broken):
    assert uniqueness([broken, rock_salt(), broken]).first_of == (None, 1, None)
    assert novelty([broken], [rock_salt()]).novel == (None,)
    assert novelty([rock_salt()], [broken]).novel == (True,)
    assert match_pairs([broken, rock_salt()], [rock_salt(), broken]).distances == (None, None)


def test_cells_that_the_library_cannot_reduce_are_not_compared(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no Niggli cell")

    monkeypatch.setattr(Structure, "get_reduced_structure", refuse)
    monkeypatch.setattr(StructureMatcher, "get_rms_dist", refuse)
    assert uniqueness([rock_salt(), rock_salt()]).first_of == (None, None)
    assert novelty([rock_salt()], [rock_salt()]).novel == (None,)
    assert match_pairs([rock_salt()], [rock_salt()]).distances == (None,)


@pytest.mark.slow
def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr(matching, "_MIN_PARALLEL", 2)
    samples = [fcc(symbol, 3.5 + 0.01 * place) for place, symbol in enumerate(["Cu", "Ag", "Au", "Cu", "Pt", "Ag"])]
    samples += [None, moved(rock_salt())]
    assert uniqueness(samples, jobs=2) == uniqueness(samples)
    train = [fcc("Ag"), bcc("Au"), rock_salt()]
    assert novelty(samples, train, jobs=2) == novelty(samples, train)


def test_pairs_by_hand():
    target = perovskite()
    coords = target.frac_coords.copy()
    coords[1, 2] += 0.05  # one atom of five, 0.2 angstrom
    off = Crystal(target.lattice, target.atomic_numbers, coords)
    found = match_pairs([target, off, None, rock_salt(), moved(target)], [target] * 5)
    expected = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3).get_rms_dist(as_structure(off), as_structure(target))
    assert (found.match_rate.count, found.match_rate.total) == (3, 5)
    assert found.distances[0] == pytest.approx(0, abs=1e-6)
    assert found.distances[1] == pytest.approx(expected[0])
    # Displacements after the common shift is taken out, by the cube root of the volume an atom.
    by_hand = math.sqrt((0.16**2 + 4 * 0.04**2) / 5) / (64 / 5) ** (1 / 3)
    assert found.distances[1] == pytest.approx(by_hand, rel=1e-3)
    assert found.distances[2] is None
    assert found.rmse.total == 3
    assert found.rmse.value == pytest.approx(by_hand / 3, rel=1e-3)


def test_only_valid_pairs_match_if_asked():
    found = match_pairs([fcc(), fcc()], [fcc(), fcc()], valid=[True, False])
    assert found.match_rate.count == 1
    assert math.isnan(match_pairs([None], [fcc()]).rmse.value)
    with pytest.raises(ValueError, match="zip"):
        match_pairs([fcc()], [fcc(), fcc()])
