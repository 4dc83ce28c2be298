"""Crystals: exact JSON, formula and volume, every reason for which one is refused, and which are the same."""

from itertools import product

import numpy as np
import pytest
from crystal_samples import CUBE, rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystals import (
    SYMBOLS,
    Crystal,
    CrystalError,
    Problem,
    atomic_number,
    checked,
    closest_pair,
    group_key,
    make_crystal,
)

floats = st.floats(allow_nan=False, allow_infinity=False, width=64)


@settings(max_examples=50, deadline=None)
@given(st.lists(floats, min_size=9, max_size=9), st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=5))
def test_json_gives_the_same_bits_back(cell, coords):
    crystal = make_crystal(np.reshape(cell, (3, 3)), [1] * len(coords), coords)
    again = Crystal.from_json(crystal.to_json())
    for name in ("lattice", "atomic_numbers", "frac_coords"):
        mine, its = getattr(crystal, name), getattr(again, name)
        assert mine.dtype == its.dtype
        assert mine.tobytes() == its.tobytes()
    assert again.to_json() == crystal.to_json()


def test_json_is_compact():
    assert rock_salt().to_json() == (
        '{"lattice":[[4.0,0.0,0.0],[0.0,4.0,0.0],[0.0,0.0,4.0]],"numbers":[11,17],'
        '"coords":[[0.0,0.0,0.0],[0.5,0.5,0.5]]}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "[" * 100_000,
        '{"lattice": 1}',
        '{"lattice":[[1,0],[0,1]],"numbers":[1],"coords":[[0,0,0]]}',
        '{"lattice":[[1,0,0],[0,1,0],[0,0,1]],"numbers":[1,2],"coords":[[0,0,0]]}',
        '{"lattice":[[1,0,0],[0,1,0],[0,0,"x"]],"numbers":[1],"coords":[[0,0,0]]}',
        '{"lattice":[[1,0,0],[0,1,0],[0,0,1]],"numbers":["Si"],"coords":[[0,0,0]]}',
        '{"lattice":[[1,0,0],[0,1,0],[0,0,1]],"numbers":[1],"coords":[[0,0,0],[1]]}',
    ],
)
def test_other_json_is_unreadable(text):
    with pytest.raises(CrystalError) as caught:
        Crystal.from_json(text)
    assert caught.value.problem is Problem.UNREADABLE
    assert caught.value.reason.startswith("unreadable structure: ")


@pytest.mark.parametrize(
    ("numbers", "formula"),
    [([11, 17], "ClNa"), ([8, 8, 14], "O2Si"), ([6, 6, 1, 1, 8, 8], "CHO"), ([1, 1, 8], "H2O"), ([26] * 4, "Fe")],
)
def test_formula_is_reduced_and_in_hills_order(numbers, formula):
    coords = np.arange(len(numbers))[:, None] * np.ones(3) / len(numbers)
    assert make_crystal(CUBE, numbers, coords).formula == formula


def test_volume_and_number_of_atoms():
    crystal = make_crystal([[0, 2, 2], [2, 0, 2], [2, 2, 0]], [14, 14], [[0, 0, 0], [0.25, 0.25, 0.25]])
    assert crystal.volume == pytest.approx(16.0)
    assert crystal.num_atoms == 2


def test_symbols_and_isotopes():
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 118
    assert (SYMBOLS[5], SYMBOLS[25], SYMBOLS[91], SYMBOLS[117]) == ("C", "Fe", "U", "Og")
    assert [atomic_number(symbol) for symbol in ("H", "D", "T", "O", "Og")] == [1, 1, 1, 8, 118]


@pytest.mark.parametrize("symbol", ["X", "Xx", "", "si", "Q", "A1"])
def test_other_symbols_are_unknown(symbol):
    with pytest.raises(CrystalError) as caught:
        atomic_number(symbol)
    assert caught.value.problem is Problem.UNKNOWN_ELEMENT


FLAT = ((4, 0, 0), (8, 0, 0), (0, 0, 4))
LEFT = ((0, 4, 0), (4, 0, 0), (0, 0, 4))
NEEDLE = ((4, 0, 0), (400, 0.04, 0), (0, 0, 4))


@pytest.mark.parametrize(
    ("lattice", "numbers", "coords", "problem", "words"),
    [
        (CUBE, [], [], Problem.NO_ATOMS, "no atoms"),
        (CUBE, [1], [[0, 0, np.nan]], Problem.NOT_FINITE, "not numbers"),
        (CUBE, [1], [[0, 0, np.inf]], Problem.NOT_FINITE, "not numbers"),
        (((np.nan, 0, 0), *CUBE[1:]), [1], [[0, 0, 0]], Problem.NOT_FINITE, "not numbers"),
        (CUBE, [0], [[0, 0, 0]], Problem.UNKNOWN_ELEMENT, "atomic number 0"),
        (CUBE, [119], [[0, 0, 0]], Problem.UNKNOWN_ELEMENT, "atomic number 119"),
        (np.zeros((3, 3)), [1], [[0, 0, 0]], Problem.NO_VOLUME, "0 cubic angstrom"),
        (FLAT, [1], [[0, 0, 0]], Problem.NO_VOLUME, "0 cubic angstrom"),
        (NEEDLE, [1], [[0, 0, 0]], Problem.NO_VOLUME, "0.64 cubic angstrom"),
        (LEFT, [1], [[0, 0, 0]], Problem.NO_VOLUME, "left-handed: exchange two"),
        (CUBE, [1, 1], [[0, 0, 0], [0, 0, 0]], Problem.OVERLAP, "H 1 and H 2, 0.00 angstrom"),
        (CUBE, [14, 8], [[0.01, 0, 0], [0.99, 0, 0]], Problem.OVERLAP, "Si 1 and O 2, 0.08 angstrom"),
        (CUBE, [14, 8], [[0.0, 0, 0], [3.1, -7, 5]], Problem.OVERLAP, "Si 1 and O 2, 0.40 angstrom"),
        (((0.4, 0, 0), *CUBE[1:]), [14], [[0, 0, 0]], Problem.OVERLAP, "Si 1 and its image, 0.40 angstrom"),
        (((4, 0, 0), (4, 0.3, 0), (0, 0, 4)), [14], [[0, 0, 0]], Problem.OVERLAP, "Si 1 and its image, 0.30"),
    ],
)
def test_every_problem_has_a_kind_and_details(lattice, numbers, coords, problem, words):
    with pytest.raises(CrystalError) as caught:
        checked(make_crystal(lattice, numbers, coords))
    assert caught.value.problem is problem
    assert caught.value.reason.startswith(problem.value)
    assert words in caught.value.reason


def test_a_good_crystal_passes_unchanged():
    crystal = rock_salt()
    assert checked(crystal) is crystal
    near = make_crystal(CUBE, [1, 1], [[0, 0, 0], [0.13, 0, 0]])
    assert checked(near) is near


def test_error_shortens_what_it_shows():
    error = CrystalError("disordered sites:  two\nlines", "x" * 500 + "\ny")
    assert error.reason == "disordered sites: two lines"
    assert error.problem is Problem.DISORDERED
    assert len(error.value) == 80
    assert CrystalError("something else").problem is Problem.UNREADABLE


def brute_force(crystal, cutoff, reach=12):
    """Smallest distance over many images, where it is below the cut-off."""
    cart = crystal.frac_coords @ crystal.lattice
    images = np.array(list(product(range(-reach, reach + 1), repeat=3))) @ crystal.lattice
    between = np.linalg.norm((cart[:, None] - cart[None])[:, :, None] + images, axis=-1)
    between[np.arange(len(cart)), np.arange(len(cart)), len(images) // 2] = np.inf
    return between.min() if between.min() < cutoff else np.inf


@pytest.mark.parametrize("seed", range(40))
def test_closest_pair_agrees_with_many_images(seed):
    random = np.random.default_rng(seed)
    lattice = np.diag(random.uniform(0.5, 2.0, 3)) + np.tril(random.uniform(-1.5, 1.5, (3, 3)), -1)
    crystal = make_crystal(lattice, [1, 2], random.uniform(-2, 2, (2, 3)))
    distance, _, _ = closest_pair(crystal, 0.7)
    assert distance == pytest.approx(brute_force(crystal, 0.7), rel=1e-9)


def test_closest_pair_of_many_atoms():
    steps = np.arange(12) / 12
    grid = np.array(list(product(steps, steps, steps)))
    grid[1727] = grid[5] + [0.0, 0.0, 0.003]
    crystal = make_crystal(np.eye(3) * 36, [6] * len(grid), grid)
    distance, first, second = closest_pair(crystal, 0.5)
    assert distance == pytest.approx(0.108)
    assert {first, second} == {5, 1727}


def turned(crystal):
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return make_crystal(crystal.lattice @ turn, crystal.atomic_numbers, crystal.frac_coords)


def doubled(crystal):
    lattice = crystal.lattice * np.array([[2.0], [1.0], [1.0]])
    coords = np.concatenate([crystal.frac_coords, crystal.frac_coords + np.array([1, 0, 0])]) / [2, 1, 1]
    return make_crystal(lattice, np.tile(crystal.atomic_numbers, 2), coords)


def reordered(crystal):
    return make_crystal(crystal.lattice, crystal.atomic_numbers[::-1], crystal.frac_coords[::-1])


def moved(crystal):
    return make_crystal(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords + np.array([0.31, -2.7, 5.01]))


@pytest.mark.parametrize("change", [turned, doubled, reordered, moved], ids=lambda change: change.__name__)
def test_the_same_crystal_has_the_same_key(change):
    crystal = make_crystal(
        [[5.13, 0, 0], [1.2, 4.87, 0], [0.3, 0.4, 6.01]], [13, 8, 8], [[0, 0, 0], [0.31, 0.2, 0.6], [0.7, 0.77, 0.1]]
    )
    assert group_key(change(crystal)) == group_key(crystal)


def test_other_crystals_have_other_keys():
    keys = {
        group_key(rock_salt()),
        group_key(rock_salt(4.1)),
        group_key(rock_salt(numbers=(19, 17))),
        group_key(rock_salt(numbers=(17, 11))),
        group_key(make_crystal(CUBE, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.4]])),
    }
    assert len(keys) == 4  # sodium and chlorine change places in the same structure


def test_large_cells_are_compared_as_written():
    steps = np.arange(6) / 6
    crystal = make_crystal(np.eye(3) * 12, [6] * 216, list(product(steps, steps, steps)))
    moved_by_a_cell = make_crystal(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords + 1.0)
    assert group_key(crystal).startswith("C|")
    assert len(group_key(crystal)) == 66
    assert group_key(Crystal.from_json(crystal.to_json())) == group_key(crystal)
    assert group_key(moved_by_a_cell) != group_key(crystal)


def test_one_atom_has_a_key():
    assert group_key(make_crystal(CUBE, [26], [[0, 0, 0]])).startswith("Fe|64.00|26:4.00:")
