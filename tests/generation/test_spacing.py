"""Distances of a new atom: what is allowed is what a search over all images says, for cells of any shape."""

import time

import numpy as np
import pytest

from crystalfm.chem.crystal_text import CrystalTextFormat, is_cell
from crystalfm.chem.crystals import Crystal, closest_pair
from crystalfm.generation.spacing import SiteSpacing

FORMAT = CrystalTextFormat()
VALUES = 100


def random_cell(rng, *, least_angle=20, shortest=1.0):
    """Return a lattice read from a text, of any angles that make a cell."""
    while True:
        angles = rng.integers(least_angle, 180 - least_angle, 3).tolist()
        if is_cell(*angles):
            break
    lengths = " ".join(f"{length:.1f}" for length in rng.uniform(shortest, 9.0, 3))
    return FORMAT.read_cell([lengths, " ".join(map(str, angles))])


def allowed_set(lattice, distance, before, first, second):
    bits, found = SiteSpacing(lattice, distance, VALUES).allowed(before, first, second)
    return {value for value in range(VALUES) if bits >> value & 1}, found


def nearest(lattice, before, site, reach=12.0):
    """Return the distance of a site to the nearest atom, by a search over its images."""
    found = []
    for other in before:
        difference = np.subtract(site, other) / VALUES
        steps = np.ceil(reach * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int) + 1
        images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in steps), indexing="ij"), -1).reshape(-1, 3)
        found.append(np.linalg.norm((difference + images) @ lattice, axis=1).min())
    return min(found)


@pytest.mark.parametrize("seed", range(12))
def test_allowed_values_are_those_of_a_search_over_all_images(seed):
    rng = np.random.default_rng(seed)
    lattice = random_cell(rng)
    before = rng.integers(0, VALUES, (4, 3)).tolist()
    first, second = rng.integers(0, VALUES, 2).tolist()
    distances = np.array([nearest(lattice, before, [first, second, k], reach=4.0) for k in range(VALUES)])
    for distance in (0.5, 0.8, 2.5):
        far = set(np.flatnonzero(distances >= distance).tolist())
        values, found = allowed_set(lattice, distance, before, first, second)
        assert found == bool(far)
        assert values == (far or {int(distances.argmax())})


def test_allowed_values_are_those_of_the_closest_pair_where_no_atom_meets_itself():
    rng = np.random.default_rng(5)
    restricted = 0
    for _ in range(25):
        lattice = random_cell(rng, least_angle=60, shortest=3.0)
        other = rng.integers(0, VALUES, 3)
        first, second = ((other[:2] + rng.integers(-9, 10, 2)) % VALUES).tolist()
        values, _ = allowed_set(lattice, 0.8, [other.tolist()], first, second)
        assert closest_pair(Crystal(lattice, np.array([1]), np.zeros((1, 3))), 0.8)[0] == np.inf
        far = set()
        for third in range(VALUES):
            coords = np.array([other, [first, second, third]]) / VALUES
            if closest_pair(Crystal(lattice, np.array([1, 1]), coords), 0.8)[0] >= 0.8:
                far.add(third)
        assert values == far
        restricted += 0 < len(far) < VALUES
    assert restricted > 10


def test_pymatgen_finds_the_same_distances():
    pymatgen = pytest.importorskip("pymatgen.core", reason="needs pymatgen")
    rng = np.random.default_rng(3)
    for _ in range(10):
        lattice = random_cell(rng, least_angle=40, shortest=2.0)
        before = rng.integers(0, VALUES, (3, 3)).tolist()
        new = np.array([[7, 93, k] for k in range(VALUES)]) / VALUES
        expected = pymatgen.Lattice(lattice).get_all_distances(new, np.array(before) / VALUES).min(axis=1)
        values, found = allowed_set(lattice, 1.5, before, 7, 93)
        assert values == (set(np.flatnonzero(expected >= 1.5).tolist()) if found else {int(expected.argmax())})


def test_images_across_every_face_count():
    lattice = np.eye(3) * 10.0
    near = {*range(96, 100), *range(5)}
    for first, second, third in [(0, 0, 0), (99, 0, 0), (0, 99, 0), (99, 99, 0)]:
        values, found = allowed_set(lattice, 0.45, [[0, 0, 0]], first, second)
        assert found
        assert third not in values
        assert set(range(VALUES)) - values == near


def test_a_distance_that_is_just_kept_is_not_lost_to_rounding_when_it_is_read_back():
    for side in np.arange(10, 100) / 10:
        lattice = np.eye(3) * side
        values, _ = allowed_set(lattice, side * 0.1, [[0, 0, 0]], 0, 0)
        for third in (value for value in (9, 10, 11) if value in values):
            coords = np.array([[0, 0, 0], [0, 0, third]]) / VALUES
            assert closest_pair(Crystal(lattice, np.array([1, 1]), coords), side * 0.1)[0] >= side * 0.1
        assert 9 not in values
        assert 11 in values


def test_without_atoms_or_distance_everything_is_allowed():
    lattice = np.eye(3) * 4.0
    assert allowed_set(lattice, 3.0, [], 0, 0) == (set(range(VALUES)), True)
    assert allowed_set(lattice, 0.0, [[0, 0, 0]], 0, 0) == (set(range(VALUES)), True)


def test_where_nothing_is_far_enough_the_farthest_is_left():
    values, found = allowed_set(np.diag([1.0, 1.0, 3.0]), 2.0, [[0, 0, 20]], 0, 0)
    assert (values, found) == ({70}, False)


@pytest.mark.parametrize("distance", [0.8, 1000.0])
@pytest.mark.parametrize("cell", [["1.0 1.0 1.0", "1 1 1"], ["999.9 1.0 1.0", "1 2 2"], ["1.0 1.0 1.0", "90 90 90"]])
def test_the_flattest_and_smallest_cells_take_no_time_worth_mentioning(cell, distance):
    lattice = FORMAT.read_cell(cell)
    started = time.process_time()
    values, _ = allowed_set(lattice, distance, [[k, k, k] for k in range(20)], 50, 0)
    assert values
    assert time.process_time() - started < 2.0
