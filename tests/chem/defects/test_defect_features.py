"""The vector of a configuration: right by brute force, equal for equivalent configurations, finite everywhere."""

from itertools import product

import numpy as np
import pytest

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.chem.defects.features import (
    REACHES_ANGSTROM,
    SHELLS_ANGSTROM,
    FeatureLayout,
    site_table,
)
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.chem.defects.symmetry import site_permutations

RULES = parse_rules(["v_S", "Se_S", "v_Mo", "W_Mo"])
MOS2 = Supercell(HOSTS["MoS2"], (4, 4, 1))
SULFUR, TWIN, SELENIUM = MOS2.site(1, 0, 0), MOS2.site(2, 0, 0), 34


def record(*defects, supercell=MOS2):
    return DefectRecord.of(supercell, Configuration.of(defects))


def columns(layout, of):
    return dict(zip(layout.names, layout.features(of).tolist(), strict=True))


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_equivalent_configurations_have_one_vector(name):
    host = HOSTS[name]
    supercell = Supercell(host, (3, 4, 1))
    rules = parse_rules([f"v_{element}" for element in host.elements])
    permutations, rng = site_permutations(supercell), np.random.default_rng(1)
    found = [random_configuration(supercell, rules, size, rng) for size in (1, 2, 3, 5)]
    layout = FeatureLayout.of(DefectRecord.of(supercell, one) for one in found)
    for configuration in found:
        vector = layout.features(DefectRecord.of(supercell, configuration))
        assert np.isfinite(vector).all()
        for permutation in permutations[:: max(1, len(permutations) // 25)]:
            moved = layout.features(DefectRecord.of(supercell, configuration.moved(permutation)))
            np.testing.assert_array_equal(moved.astype(np.float32), vector.astype(np.float32))


@pytest.mark.parametrize(("name", "size"), [("MoS2", (2, 3, 1)), ("P", (3, 2, 1)), ("BN", (8, 8, 1))])
def test_distances_are_those_of_all_images_in_the_plane(name, size):
    supercell = Supercell(HOSTS[name], size)
    table, rng = site_table(supercell), np.random.default_rng(0)
    cartesian = supercell.frac_coords @ supercell.lattice
    shifts = np.array(list(product(range(-6, 7), range(-6, 7), [0]))) @ supercell.lattice
    for first, second in rng.integers(supercell.num_sites, size=(20, 2)).tolist():
        found = np.linalg.norm(cartesian[second] - cartesian[first] + shifts, axis=1)
        found = found[found > 1e-6]
        assert table.distances[first, second] == pytest.approx(found.min(), abs=1e-4)
        np.testing.assert_array_equal(table.shells[first, second], np.histogram(found, SHELLS_ANGSTROM)[0])
        within = [np.count_nonzero(found <= reach) for reach in REACHES_ANGSTROM]
        np.testing.assert_array_equal(table.reaches[first, second], within)


def test_no_distance_of_a_host_is_near_a_limit():
    """Else rounding, or another release's cell, would move pairs from shell to shell."""
    for host in HOSTS.values():
        distances = np.unique(site_table(Supercell(host, (8, 8, 1))).distances)
        for limit in (*SHELLS_ANGSTROM[1:], *REACHES_ANGSTROM):
            assert np.abs(distances - limit).min() > 0.03, (host.name, limit)


def test_what_the_columns_of_a_pair_say():
    across = record((SULFUR, 0), (TWIN, SELENIUM))
    layout = FeatureLayout.of([across])
    found = columns(layout, across)
    assert (found["defects"], found["v_S"], found["Se_S"], found["defects of other rules"]) == (2, 1, 1, 0)
    assert found["defects of all sites"] == pytest.approx(2 / 48)
    assert found["defects per nm²"] == pytest.approx(2 / (16 * 0.319**2 * 3**0.5 / 2), rel=1e-3)
    pair = "Se_S and v_S"
    assert (found[f"{pair}: pairs"], found[f"{pair}: same side"], found[f"{pair}: opposite sides"]) == (1, 0, 1)
    assert 1 / found[f"{pair}: 1/d of the nearest"] == pytest.approx(3.13, abs=1e-3)
    assert found[f"{pair}: in 2.75-3.67 Å"] == 1
    assert found["mean neighbours within 3.67 Å"] == found["most neighbours within 3.67 Å"] == 1
    beside = columns(layout, record((SULFUR, 0), (MOS2.site(1, 1, 0), SELENIUM)))
    assert (beside[f"{pair}: same side"], beside[f"{pair}: opposite sides"]) == (1, 0)


def test_three_defects_have_their_three_distances():
    sites = [MOS2.site(1, 0, 0), MOS2.site(1, 1, 0), MOS2.site(2, 1, 0)]
    three = record(*((site, 0) for site in sites))
    found = columns(FeatureLayout.of([three]), three)
    wanted = sorted(site_table(MOS2).distances[np.triu(np.ones((48, 48), bool), 1) & np.isin(np.arange(48), sites)[None]
                    & np.isin(np.arange(48), sites)[:, None]])  # fmt: skip
    assert [1 / found[f"1/d, {place}. shortest"] for place in (1, 2, 3)] == pytest.approx(wanted)


def test_what_training_never_met_counts_among_all_defects_alone():
    layout = FeatureLayout.of([record((SULFUR, 0), (TWIN, 0))])
    assert layout.rules == ("v_S",)
    assert layout.pairs == (("v_S", "v_S"),)
    found = columns(layout, record((SULFUR, 0), (TWIN, SELENIUM)))
    assert found["defects of other rules"] == found["v_S"] == 1
    assert found["all: pairs"] == 1
    assert found["v_S and v_S: pairs"] == 0


def test_a_single_defect_and_none_have_finite_vectors():
    layout = FeatureLayout.of([record((SULFUR, 0), (TWIN, 0))])
    single, none = columns(layout, record((SULFUR, 0))), columns(layout, record())
    assert single["defects"] == 1
    assert single["all: 1/d of the nearest"] == 0
    assert set(none.values()) == {0}


def test_defects_of_a_small_cell_see_their_own_images():
    small = Supercell(HOSTS["MoS2"], (2, 2, 1))
    one = record((small.site(1, 0, 0), 0), supercell=small)
    found = columns(FeatureLayout.of([one]), one)
    assert found["mean neighbours within 7.76 Å"] == 6


def test_the_layout_survives_a_checkpoint():
    layout = FeatureLayout.of([record((SULFUR, 0), (TWIN, SELENIUM)), record((0, 74))])
    again = FeatureLayout.of_state(layout.state())
    assert again == layout
    assert len(again.names) == len(set(again.names)) == again.num_features
