"""What was asked for against what came."""

import math

import pytest
from known_crystals import caesium_chloride, perovskite, repeated, rock_salt

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.conditions import condition_scores

pytest.importorskip("spglib", reason="needs spglib: pip install 'crystalfm[generate]'")


def test_formula_and_space_group():
    samples = [rock_salt(), repeated(rock_salt(), 2), None, perovskite(), caesium_chloride()]
    asked = [
        {"formula": "NaCl", "spacegroup": 225},
        {"formula": "Na4Cl4"},
        {"formula": "NaCl", "spacegroup": 225},
        {"formula": "BaTiO2", "spacegroup": 221.0},
        {"band_gap": 1.0},
    ]
    found = condition_scores(samples, asked, symprec_angstrom=0.01)
    assert (found.formula.count, found.formula.total) == (2, 4)
    assert (found.space_group.count, found.space_group.total) == (2, 3)
    assert found.symprec_angstrom == 0.01
    assert found.properties == {}


def test_property_errors():
    asked = [{"band_gap": 1.0}, {"band_gap": 2.0}, {"formula": "NaCl"}, {"band_gap": 3.0}, {"band_gap": 0}]
    predicted = {"band_gap": [1.5, 1.0, 100.0, None, math.nan], "e_above_hull": [0.0] * 5}
    found = condition_scores([rock_salt()] * 4 + [None], asked, predicted=predicted)
    gap = found.properties["band_gap"]
    assert gap.absolute.value == pytest.approx(0.75)
    assert (gap.absolute.total, gap.num_asked) == (2, 4)
    assert found.properties["e_above_hull"].num_asked == 0
    assert math.isnan(found.properties["e_above_hull"].absolute.value)


def test_nothing_asked_has_no_share():
    found = condition_scores([rock_salt(), None], [{}, {}])
    assert (found.formula.total, found.space_group.total) == (0, 0)
    assert math.isnan(found.formula.fraction)


def test_a_formula_may_be_written_in_any_way():
    asked = [{"formula": "ClNa"}, {"formula": "Na2Cl2"}, {"formula": "NaCl2"}]
    assert condition_scores([rock_salt()] * 3, asked).formula.count == 2
    for wrong in ("", "NaXy", "Na0.5Cl0.5", "((", "Na-"):
        with pytest.raises(UserError):
            condition_scores([rock_salt()], [{"formula": wrong}])


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        condition_scores([rock_salt()], [])
    with pytest.raises(ValueError, match="zip"):
        condition_scores([rock_salt()], [{}], predicted={"band_gap": []})
