"""The crystal of the defects alone: their distances are those in the layer, their numbers say what was done."""

from itertools import permutations

import numpy as np
import pytest

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import Crystal
from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.features import site_table
from crystalfm.chem.defects.hosts import HOSTS, Host, Supercell
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.sparse_graph import ADDED_CODES, NUM_CODES, elements_of_codes, sparse_crystal
from crystalfm.chem.defects.symmetry import site_permutations

MOS2 = Supercell(HOSTS["MoS2"], (5, 5, 1))
THREE = Configuration.of([(MOS2.site(0, 1, 2), 74), (MOS2.site(1, 1, 3), 0), (MOS2.site(2, 4, 0), 34)])


def lengths(configuration, supercell=MOS2, neighbors=6):
    graph = GraphSettings("k_nearest", neighbors).build([sparse_crystal(DefectRecord.of(supercell, configuration))])
    return graph, np.linalg.norm(graph.vector, axis=1)


def test_nodes_are_the_defects_with_what_was_taken_and_what_came():
    crystal = sparse_crystal(DefectRecord.of(MOS2, THREE))
    taken, added = elements_of_codes()
    assert [(taken[code], added[code]) for code in crystal.atomic_numbers] == [(42, 74), (16, 0), (16, 34)]
    assert crystal.atomic_numbers.tolist() == [42 * ADDED_CODES + 74, 16 * ADDED_CODES, 16 * ADDED_CODES + 34]
    assert len(taken) == len(added) == NUM_CODES > crystal.atomic_numbers.max()


def test_edges_are_as_long_as_the_defects_are_apart_in_the_layer():
    graph, found = lengths(THREE)
    sites = np.array([site for site, _ in THREE.defects])
    wanted = site_table(MOS2).distances[np.ix_(sites, sites)]
    for first, second in permutations(range(3), 2):
        between = found[(graph.source == first) & (graph.target == second)]
        assert between.min() == pytest.approx(wanted[first, second], abs=1e-3)


def test_images_repeat_in_the_plane_alone():
    graph, found = lengths(Configuration.of([(MOS2.site(1, 0, 0), 0)]))
    assert graph.num_atoms == 1
    assert len(found) == 6
    np.testing.assert_allclose(found, 5 * 3.19, atol=1e-3)
    np.testing.assert_allclose(graph.vector[:, 2], 0, atol=1e-5)


def test_equivalent_configurations_have_graphs_of_the_same_lengths():
    wanted = np.sort(lengths(THREE)[1])
    for permutation in site_permutations(MOS2)[::37]:
        np.testing.assert_allclose(np.sort(lengths(THREE.moved(permutation))[1]), wanted, atol=1e-4)


def test_a_layer_across_the_border_of_its_cell_stays_whole():
    cell = HOSTS["MoS2"].cell
    down = (cell.frac_coords - [0, 0, 0.45]) % 1.0
    across = Host("MoS2", Crystal(cell.lattice, cell.atomic_numbers, down), (5, 5, 1))
    np.testing.assert_allclose(
        np.sort(lengths(THREE, Supercell(across, (5, 5, 1)))[1]), np.sort(lengths(THREE)[1]), atol=1e-4
    )
