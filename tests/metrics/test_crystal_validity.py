"""Validity against crystals whose answer is known, and against SMACT's own function."""

import math
import random
import time

import numpy as np
import pytest
from known_crystals import (
    SETTINGS,
    bcc,
    caesium_chloride,
    fcc,
    flat,
    numbers,
    overlapping,
    perovskite,
    repeated,
    rock_salt,
    sheared,
)

from crystalfm.chem.crystals import SYMBOLS, make_crystal
from crystalfm.contracts import UserError
from crystalfm.metrics.crystals import validity as module
from crystalfm.metrics.crystals.structures import reduce_composition
from crystalfm.metrics.crystals.validity import (
    composition_valid,
    is_compositionally_valid,
    is_structurally_valid,
    validity,
)

pytest.importorskip("smact", reason="needs smact: pip install 'crystalfm[generate]'")


@pytest.mark.parametrize("crystal", [rock_salt(), caesium_chloride(), bcc(), fcc(), perovskite()])
def test_known_structures_are_valid(crystal):
    assert is_structurally_valid(crystal)
    assert all(is_structurally_valid(setting(crystal)) for setting in SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_overlap_is_found_in_every_setting(setting):
    assert not is_structurally_valid(overlapping())
    assert not is_structurally_valid(setting(overlapping()))


def test_limits_are_half_an_angstrom_and_a_tenth_of_a_cubic_one():
    def pair(distance):
        return make_crystal(np.eye(3) * 5.0, numbers(["H", "H"]), [[0, 0, 0], [0, 0, distance / 5.0]])

    assert is_structurally_valid(pair(0.501))
    assert not is_structurally_valid(pair(0.499))
    assert is_structurally_valid(fcc("H", edge=0.75))  # 0.53 angstrom apart, 0.105 cubic angstrom
    assert not is_structurally_valid(fcc("H", edge=0.70))  # 0.49 angstrom apart, 0.086 cubic angstrom


def test_an_image_of_the_atom_itself_counts():
    needle = make_crystal(np.diag([0.4, 9.0, 9.0]), numbers(["Na"]), [[0, 0, 0]])
    assert needle.volume > 1
    assert not is_structurally_valid(needle)
    assert not is_structurally_valid(sheared(needle, 40))


def test_flat_cells_are_invalid():
    assert not is_structurally_valid(flat())


def test_strange_cells_take_no_time():
    started = time.monotonic()
    assert is_structurally_valid(sheared(rock_salt(), 3000))
    thin = make_crystal(
        [[900, 0, 0], [0, 900, 0], [450, 450, 0.001]], numbers(["Na", "Cl"]), [[0, 0, 0], [0.3, 0.2, 0]]
    )
    assert not is_structurally_valid(thin)
    assert time.monotonic() - started < 5


def test_numbers_that_are_none_are_invalid():
    assert not is_structurally_valid(make_crystal(np.eye(3) * 4, [11], [[math.nan, 0, 0]]))
    assert not is_structurally_valid(make_crystal(np.full((3, 3), math.inf), [11], [[0, 0, 0]]))


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ({"Na": 1, "Cl": 1}, True),
        ({"Ba": 1, "Ti": 1, "O": 3}, True),
        ({"Na": 1, "Cl": 2}, False),  # no charge of chlorine is minus one half
        ({"Na": 3, "Cl": 1}, False),
        ({"Fe": 4}, True),  # an element
        ({"He": 1}, True),
        ({"Cu": 5, "Zn": 8}, True),  # an alloy
        ({"O": 1, "F": 2}, True),
        ({"Ar": 1, "Na": 1}, False),
        ({"Rf": 1, "O": 2}, False),  # beyond SMACT's table
    ],
)
def test_known_compositions(formula, valid):
    counts = {SYMBOLS.index(symbol) + 1: count for symbol, count in formula.items()}
    assert composition_valid(reduce_composition(counts)) is valid


def test_composition_does_not_depend_on_the_cell():
    assert is_compositionally_valid(rock_salt())
    assert is_compositionally_valid(repeated(rock_salt(), 4))


def test_agrees_with_smact():
    from smact.screening import smact_validity

    draw = random.Random(5)
    valid = 0
    for _ in range(300):
        chosen = sorted(draw.sample(range(1, 104), draw.choice([2, 2, 3, 3, 4])))
        composition = reduce_composition({number: draw.randint(1, 6) for number in chosen})
        formula = "".join(f"{SYMBOLS[number - 1]}{count}" for number, count in composition)
        ours = composition_valid(composition)
        assert ours == smact_validity(formula, oxidation_states_set="smact14"), formula
        valid += ours
    assert 50 < valid < 250


def test_twenty_elements_take_no_time():
    started = time.monotonic()
    composition = tuple((number, number % 7 + 1) for number in [1, 6, 7, 8, 9, *range(11, 18), *range(19, 36)])
    assert composition_valid(composition) in {True, False}
    assert time.monotonic() - started < 2


def test_shares_are_taken_over_all_samples():
    unbalanced = make_crystal(np.eye(3) * 5, numbers(["Na", "Cl", "Cl"]), [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    result = validity([rock_salt(), None, overlapping(), unbalanced, None])
    assert (result.parsed.count, result.parsed.total) == (3, 5)
    assert (result.structural.count, result.structural.total) == (2, 5)
    assert (result.compositional.count, result.compositional.total) == (2, 5)
    assert (result.valid.count, result.valid.total) == (1, 5)
    assert result.valid.fraction == pytest.approx(0.2)
    assert [sample.valid for sample in result.samples] == [True, False, False, False, False]


def test_nothing_has_no_share():
    result = validity([])
    assert math.isnan(result.valid.fraction)
    assert result.valid.as_dict() == {"count": 0, "total": 0, "fraction": None}


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "smact", None)
    module._elements.cache_clear()
    module.composition_valid.cache_clear()
    try:
        with pytest.raises(UserError, match="smact") as caught:
            is_compositionally_valid(rock_salt())
        assert "crystalfm[generate]" in caught.value.remedy
    finally:
        module._elements.cache_clear()
