"""Host, size and defects out of a bare structure."""

import numpy as np
import pytest

from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.chem.defects.hosts import HOSTS, Host, Supercell
from crystalfm.chem.defects.recognition import recognise
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.contracts import UserError


def defective(name, size, count=3, seed=0):
    supercell = Supercell(HOSTS[name], size)
    rules = parse_rules([f"v_{HOSTS[name].elements[0]}", f"Te_{HOSTS[name].elements[-1]}"])
    configuration = random_configuration(supercell, rules, count, np.random.default_rng(seed))
    return configuration, configuration.crystal(supercell)


@pytest.mark.parametrize("name", sorted(HOSTS))
@pytest.mark.parametrize("size", [(4, 4, 1), (5, 3, 1)])
def test_a_structure_says_its_host_and_defects(name, size):
    configuration, crystal = defective(name, size)
    found = recognise(crystal)
    assert (found.host, found.size, found.configuration) == (name, size, configuration)


def test_neither_order_nor_orientation_matters():
    configuration, crystal = defective("MoS2", (4, 4, 1))
    order = np.random.default_rng(3).permutation(crystal.num_atoms)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    other = Crystal(crystal.lattice @ turn, crystal.atomic_numbers[order], crystal.frac_coords[order] + 2)
    assert recognise(other).configuration == configuration


def test_a_host_given_comes_before_those_that_are_known():
    cell = HOSTS["MoS2"].cell
    own = Host("MoS2", Crystal(cell.lattice * 1.01, cell.atomic_numbers, cell.frac_coords), (4, 4, 1))
    _, crystal = defective("MoS2", (4, 4, 1))
    assert recognise(crystal, [own]).cell == own.cell.to_json()
    assert recognise(crystal).cell == cell.to_json()


def test_atoms_off_the_sites_are_refused():
    _, crystal = defective("MoS2", (4, 4, 1))
    crystal.frac_coords[7] += 0.04
    with pytest.raises(UserError, match="MoS2: atom 8 is on no site"):
        recognise(crystal)


def test_another_material_is_refused_and_every_host_named():
    rock_salt = make_crystal(np.eye(3) * 5.6, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(UserError, match="no unrelaxed structure") as caught:
        recognise(rock_salt)
    assert all(f"{name}: " in caught.value.message for name in HOSTS)


def test_a_cell_with_every_element_exchanged_is_another_material():
    cell = Supercell(HOSTS["MoS2"], (4, 4, 1))
    numbers = np.where(cell.numbers == 16, 52, 74)
    with pytest.raises(UserError, match="48 of its 48 sites are others"):
        recognise(Crystal(cell.lattice, numbers, cell.frac_coords))
