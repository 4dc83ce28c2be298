"""Symmetry of layers, equivalent configurations, and the counts of configurations that 2DMD's design has."""

from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from crystalfm.chem.defects.configurations import Configuration, canonical, multiplicities, unique
from crystalfm.chem.defects.enumeration import (
    all_types,
    enumerate_configurations,
    low_density_types,
    num_defects,
    random_configurations,
)
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.rules import parse_rules, type_name
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError

pytest.importorskip("spglib", reason="needs spglib")

RULES = parse_rules(["v_S", "Se_S", "v_Mo", "W_Mo"])
SMALL = Supercell(HOSTS["MoS2"], (3, 3, 1))


@pytest.fixture(scope="module")
def low_density():
    """2DMD's low-density configurations of MoS2 [8, 8, 1]."""
    supercell = Supercell(HOSTS["MoS2"], (8, 8, 1))
    types = low_density_types(["v_Mo", "W_Mo"], ["v_S", "Se_S"])
    return supercell, {type_name(kind): found for kind, found in enumerate_configurations(supercell, types)}


def distances(supercell):
    difference = supercell.frac_coords[:, None] - supercell.frac_coords[None]
    images = np.array(list(product((-1, 0, 1), (-1, 0, 1), (0,))))
    shifted = (difference - np.round(difference))[:, :, None] + images
    return np.linalg.norm(shifted @ supercell.lattice, axis=3).min(axis=2)


@pytest.mark.parametrize(("name", "size", "point_operations"), [
    ("MoS2", (4, 4, 1), 12), ("WSe2", (3, 3, 1), 12), ("BN", (4, 4, 1), 6), ("GaSe", (3, 3, 1), 12),
    ("InSe", (3, 3, 1), 12), ("P", (3, 3, 1), 8), ("MoS2", (3, 4, 1), 2),
])  # fmt: skip
def test_operations_are_a_group_of_isometries(name, size, point_operations):
    supercell = Supercell(HOSTS[name], size)
    operations = site_permutations(supercell)
    assert len(operations) == point_operations * size[0] * size[1]
    assert operations[0].tolist() == list(range(supercell.num_sites))
    assert (supercell.numbers[operations] == supercell.numbers).all()
    known = {row.tobytes() for row in operations}
    generator = np.random.default_rng(0)
    for first, second in generator.integers(len(operations), size=(40, 2)):
        assert operations[first][operations[second]].tobytes() in known
    apart = distances(supercell)
    for row in operations[generator.integers(len(operations), size=5)]:
        np.testing.assert_allclose(apart[np.ix_(row, row)], apart, atol=1e-3)


def test_the_low_density_types_are_the_seventeen_of_the_release(low_density):
    counts = {name: len(found) for name, found in low_density[1].items()}
    single = {"v_S": 1, "Se_S": 1, "2 v_S": 19, "2 Se_S": 19, "v_S + Se_S": 29}
    with_metal = {"": 1, " + v_S": 15, " + Se_S": 15, " + 2 v_S": 743, " + 2 Se_S": 743, " + v_S + Se_S": 1415}
    assert counts == single | {
        metal + rest: number for metal in ("v_Mo", "W_Mo") for rest, number in with_metal.items()
    }
    assert sum(counts.values()) == 5933


def test_orbits_make_up_every_configuration(low_density):
    supercell, found = low_density
    operations = site_permutations(supercell)
    assert len(operations) == 12 * 64
    for name, ways in {"2 v_S": comb(128, 2), "v_S + Se_S": 128 * 127, "W_Mo + 2 Se_S": 64 * comb(128, 2)}.items():
        assert sum(multiplicities(found[name], operations)) == ways


def every(supercell, kind):
    """Every configuration of a type, by brute force."""
    found = set()
    for sites in product(*(supercell.sites_of(rule.removed) for rule in kind)):
        if len(set(sites)) == len(sites):
            found.add(Configuration.of(zip(sites, (rule.number for rule in kind), strict=True)))
    return found


@pytest.mark.parametrize("size", [(3, 3, 1), (2, 4, 1)])
def test_no_configuration_is_missed_or_met_twice(size):
    supercell = Supercell(HOSTS["MoS2"], size)
    operations = site_permutations(supercell)
    for kind, found in enumerate_configurations(supercell, all_types(RULES, 2)):
        orbits = [{one.moved(operation) for operation in operations} for one in found]
        assert [len(orbit) for orbit in orbits] == multiplicities(found, operations)
        assert set().union(*orbits) == every(supercell, kind)
        assert not any(first & second for first, second in combinations(orbits, 2))
        assert [min(orbit) for orbit in orbits] == found


def test_three_like_defects_by_brute_force():
    (kind,) = [kind for kind in all_types(RULES, 3) if type_name(kind) == "2 v_S + Se_S"]
    ((_, found),) = enumerate_configurations(SMALL, [kind])
    assert set(canonical(sorted(every(SMALL, kind)), site_permutations(SMALL))) == set(found)


def test_equivalent_configurations_have_one_canonical_form():
    operations = site_permutations(SMALL)
    one = Configuration(((0, 74), (9, 0), (20, 34)))
    other = Configuration(((0, 74), (9, 0), (10, 34)))  # on one side of the layer
    images = [one.moved(operation) for operation in operations[:: len(operations) // 20]]
    assert len(set(images)) > 1
    assert set(canonical(images, operations)) == {min(one.moved(operation) for operation in operations)}
    mixed = [images[3], other, images[5], Configuration(()), one]
    assert [len(item) for item in unique(mixed, operations)] == [3, 3, 0]
    # Another element on the same sites is another configuration.
    swapped = Configuration(((0, 74), (9, 34), (20, 34)))
    assert len(unique([one, swapped], operations)) == 2


def test_types_that_do_not_fit():
    small = Supercell(HOSTS["MoS2"], (1, 1, 1))
    with pytest.raises(UserError, match=r"3 v_S needs 3 sites of S, and MoS2 \[1, 1, 1\] has 2") as caught:
        list(enumerate_configurations(small, all_types(parse_rules(["v_S"]), 3)))
    assert caught.value.remedy == "size=[2,2,1] or larger"
    with pytest.raises(UserError, match="v_Se takes an element that MoS2 does not have"):
        list(enumerate_configurations(small, all_types(parse_rules(["v_Se"]), 1)))


@pytest.mark.parametrize("concentration", [0.025, 0.05, 0.125])
def test_random_configurations_have_the_concentration(concentration):
    supercell = Supercell(HOSTS["MoS2"], (8, 8, 1))
    count = num_defects(supercell, concentration)
    assert count == {0.025: 5, 0.05: 10, 0.125: 24}[concentration]
    found = random_configurations(supercell, RULES, count, 12, np.random.default_rng(1))
    assert {len(item) for item in found} == {count}
    assert len(set(canonical(found, site_permutations(supercell)))) == 12
    assert found == random_configurations(supercell, RULES, count, 12, np.random.default_rng(1))
    used = Counter(rule for item in found for rule in item.rules(supercell))
    assert set(used) == set(RULES)


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(UserError, match=r"has 27 sites: 1\.00% of them is no defect") as caught:
        num_defects(SMALL, 0.01)
    assert "size=[5,5,1] or larger" in caught.value.remedy
    assert num_defects(Supercell(HOSTS["MoS2"], (5, 5, 1)), 0.01) == 1
    for concentration in (0.0, -0.1, 1.5):
        with pytest.raises(UserError, match="is out of range"):
            num_defects(SMALL, concentration)
    with pytest.raises(UserError, match="19 defects do not fit on the 18 sites"):
        random_configurations(SMALL, RULES[:1], 19, 1, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"only \d of 9 different configurations of 1 defects were found"):
        random_configurations(SMALL, RULES, 1, 9, np.random.default_rng(0))
