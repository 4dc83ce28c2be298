"""Compositions: known values of elements and compounds, what does not change them, what is refused."""

import math

import numpy as np
import pytest

from crystalfm.chem.compositions import (
    ELEMENT_PROPERTIES,
    NUM_FEATURES,
    composition_features,
    element_fractions,
    element_table,
    feature_names,
)
from crystalfm.chem.crystals import SYMBOLS, CrystalError, make_crystal


@pytest.fixture(scope="module")
def table():
    return element_table()


def crystal_of(symbols):
    """A cube with the atoms along its diagonal."""
    numbers = [SYMBOLS.index(symbol) + 1 for symbol in symbols]
    coords = [[place / len(symbols)] * 3 for place in range(len(symbols))]
    return make_crystal(np.eye(3) * 9, numbers, coords).to_json()


def features(symbols, table):
    row = composition_features(element_fractions([crystal_of(symbols)]), table)[0]
    return dict(zip(feature_names(), row, strict=True))


# ------------------------------------------------------------------------ elements


@pytest.mark.parametrize(
    ("symbol", "name", "value"),
    [
        ("Fe", "Z", 26),
        ("Fe", "group", 8),
        ("Fe", "row", 4),
        ("O", "X", 3.44),
        ("Na", "X", 0.93),
        ("Na", "ionization_energy", 5.139),
        ("Cl", "electron_affinity", 3.613),
        ("W", "melting_point", 3695),
        ("Au", "atomic_mass", 196.967),
    ],
)
def test_known_properties(table, symbol, name, value):
    assert table[SYMBOLS.index(symbol) + 1, ELEMENT_PROPERTIES.index(name)] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("symbol", "valence", "unfilled"),
    [
        ("H", (1, 0, 0, 0), (1, 0, 0, 0)),
        ("O", (2, 4, 0, 0), (0, 2, 0, 0)),
        ("Fe", (2, 0, 6, 0), (0, 0, 4, 0)),
        ("Cr", (1, 0, 5, 0), (1, 0, 5, 0)),
        ("Ga", (2, 1, 10, 0), (0, 5, 0, 0)),
        ("Gd", (2, 0, 1, 7), (0, 0, 9, 7)),
        ("Pb", (2, 2, 10, 14), (0, 4, 0, 0)),
        ("Pd", (0, 0, 10, 0), (0, 0, 0, 0)),
    ],
)
def test_electrons_outside_the_core(table, symbol, valence, unfilled):
    row = table[SYMBOLS.index(symbol) + 1]
    start = ELEMENT_PROPERTIES.index("s_valence_electrons")
    assert row[start : start + 5].tolist() == [*valence, sum(valence)]
    assert row[start + 5 :].tolist() == [*unfilled, sum(unfilled)]


def test_what_is_not_known_comes_from_the_group(table):
    assert np.isfinite(table).all()
    column = ELEMENT_PROPERTIES.index("X")
    noble = [table[SYMBOLS.index(name) + 1, column] for name in ("Kr", "Xe")]
    argon = table[SYMBOLS.index("Ar") + 1, column]
    assert min(noble) * 0.7 < argon <= max(noble)
    np.testing.assert_array_equal(element_table(), table)


# ------------------------------------------------------------------------ compounds


def test_statistics_of_a_known_compound(table):
    found = features(["Fe", "Fe", "O", "O", "O"], table)
    assert (found["Fe"], found["O"], found["Na"]) == (0.4, 0.6, 0.0)
    assert found["num_elements"] == 2
    assert found["norm"] == pytest.approx(math.sqrt(0.4**2 + 0.6**2))
    mean = 0.4 * 26 + 0.6 * 8
    assert found["Z_mean"] == pytest.approx(mean)
    assert found["Z_deviation"] == pytest.approx(0.4 * (26 - mean) + 0.6 * (mean - 8))
    assert (found["Z_minimum"], found["Z_maximum"], found["Z_range"]) == (8, 26, 18)


def test_of_an_element_all_statistics_agree(table):
    found = features(["Si"], table)
    assert found["group_mean"] == found["group_minimum"] == found["group_maximum"] == 14
    assert found["group_range"] == found["group_deviation"] == 0


@pytest.mark.parametrize(
    "same",
    [["O", "Fe", "O", "Fe", "O"], ["Fe", "Fe", "O", "O", "O"] * 3],
    ids=["other order", "supercell"],
)
def test_the_same_composition_has_the_same_vector(table, same):
    wanted = features(["Fe", "Fe", "O", "O", "O"], table)
    assert features(same, table) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_another_composition_has_another_vector(table):
    assert features(["Fe", "O"], table) != pytest.approx(features(["Fe", "Fe", "O"], table))


def test_no_compositions_have_no_rows_of_the_same_length(table):
    """All compositions missing is what ``explain=modalities`` asks about."""
    assert composition_features(np.zeros((0, 118)), table).shape == (0, NUM_FEATURES)


def test_names_and_columns_agree():
    assert len(feature_names()) == len(set(feature_names())) == NUM_FEATURES


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("number", [0, 119, -1])
def test_an_unknown_element_is_refused(number):
    text = make_crystal(np.eye(3) * 5, [number], [[0, 0, 0]]).to_json()
    with pytest.raises(CrystalError, match=f"unknown element: atomic number {number}"):
        element_fractions([text])


def test_what_is_no_crystal_is_refused():
    with pytest.raises(CrystalError, match="unreadable structure"):
        element_fractions(["NaCl"])
    with pytest.raises(CrystalError, match="no atoms"):
        element_fractions([make_crystal(np.eye(3), [], []).to_json()])
