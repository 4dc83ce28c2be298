"""Scores of designed defects: the talk's quarter beside the full sample, equivalence, shares, hits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.metrics.crystals.counts import Share
from crystalfm.metrics.defects import (
    canonical_forms,
    count_defects,
    design_score,
    first_equivalents,
    match_configurations,
    quarter_score,
    rules_kept,
)

CELL = Supercell(HOSTS["MoS2"], (4, 4, 1))
MO, TOP_S = CELL.site(0, 0, 0), CELL.site(2, 0, 0)
VACANCY = Configuration(((TOP_S, 0),))
MOVED = Configuration(((CELL.site(1, 2, 3), 0),))
"""The same vacancy somewhere else, on the other side."""
SELENIUM = Configuration(((TOP_S, 34),))
METAL = Configuration(((MO, 0),))


# ------------------------------------------------------------------------ R²25 and RMSE25


def test_the_quarter_is_chosen_by_the_error_and_scored_by_its_own_mean():
    true = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    predicted = true + np.array([0.1, -3.0, 0.2, 2.0, -1.0, 1.5, -2.5, 0.9])
    found = quarter_score(true, predicted)
    # By hand: the 25 % quantile of the squared errors lies between 0.04 and 0.81; 0.1 and 0.2 are below it.
    assert found.num == 8
    assert found.num_25 == 2
    assert found.rmse_25 == pytest.approx(math.sqrt((0.01 + 0.04) / 2))
    assert found.r2_25 == pytest.approx(1 - 0.05 / 2)  # of the values 0 and 2 around their mean
    squares = 0.01 + 9 + 0.04 + 4 + 1 + 2.25 + 6.25 + 0.81
    assert found.rmse == pytest.approx(math.sqrt(squares / 8))
    assert found.mae == pytest.approx(11.2 / 8)
    assert found.r2 == pytest.approx(1 - squares / 42)


def test_ties_at_the_quantile_are_kept():
    found = quarter_score(np.arange(8.0), np.arange(8.0) + 0.5)
    assert found.num_25 == 8
    assert found.rmse_25 == found.rmse == pytest.approx(0.5)


def test_the_quarter_flatters_answers_that_know_nothing():
    rng = np.random.default_rng(0)
    found = quarter_score(rng.normal(size=2000), rng.normal(size=2000))
    assert found.r2 < -0.5
    assert found.r2_25 > 0.8


def test_pairs_without_a_number_are_left_out_and_one_target_has_no_r2():
    found = quarter_score(np.array([0.3, 0.3, 0.3, np.nan]), np.array([0.4, 0.1, np.nan, 0.0]))
    assert found.num == 2
    assert math.isnan(found.r2)
    assert math.isnan(found.r2_25)
    assert found.rmse_25 == pytest.approx(0.1)
    assert found.as_dict()["r2"] is None
    assert quarter_score(np.array([np.nan]), np.array([1.0])).num == 0


# ------------------------------------------------------------------------ rules, equivalence, shares


@pytest.mark.parametrize(
    ("configuration", "limits", "kept"),
    [
        (VACANCY, {}, True),
        (METAL, {}, False),
        (Configuration(()), {}, False),
        (Configuration(()), {"min_defects": 0}, True),
        (Configuration.of([*VACANCY.defects, *MOVED.defects]), {"max_defects": 1}, False),
        (Configuration.of([*VACANCY.defects, *MOVED.defects]), {"max_defects": 2}, True),
    ],
)
def test_rules_and_numbers(configuration, limits, kept):
    assert rules_kept(configuration, CELL, parse_rules(["v_S", "Se_S"]), **limits) is kept


def test_equivalents_are_found_whatever_operation_moved_them():
    pair = Configuration(((MO, 74), (TOP_S, 0)))
    moved = [pair.moved(permutation) for permutation in site_permutations(CELL)[::17]]
    forms = canonical_forms([None, *moved, VACANCY, MOVED], CELL)
    assert forms[0] is None
    assert len(set(forms[1 : len(moved) + 1])) == 1
    last = len(moved) + 1
    assert first_equivalents(forms) == [None, *([1] * len(moved)), last, last]


def test_every_share_has_its_denominator():
    forms = canonical_forms([VACANCY, MOVED, SELENIUM, METAL, None], CELL)
    known = {form for form in canonical_forms([SELENIUM], CELL) if form is not None}
    found = count_defects(forms, [True, True, True, False, False], CELL, known)
    assert found.valid == Share(4, 5)
    assert found.allowed == Share(3, 5)
    assert found.unique == Share(2, 5)
    assert found.unique_among_allowed == Share(2, 3)
    assert found.novel == Share(1, 2)
    assert found.types == {"v_S": 2, "Se_S": 1}
    assert count_defects(forms, [True] * 5, CELL).as_dict()["novel"] is None


def test_matches_count_defects_alone():
    pristine = Configuration(())
    found = match_configurations(
        [VACANCY, MOVED, SELENIUM, None, pristine], [VACANCY, VACANCY, VACANCY, VACANCY, VACANCY], [CELL] * 5
    )
    assert found.exact == Share(1, 5)
    assert found.equivalent == Share(2, 5)
    assert found.same_type == Share(2, 5)


def test_matches_of_different_supercells():
    other = Supercell(HOSTS["WSe2"], (4, 4, 1))
    site = other.site(1, 0, 0)
    moved = other.site(2, 1, 1)
    found = match_configurations(
        [Configuration(((site, 0),)), METAL], [Configuration(((moved, 0),)), VACANCY], [other, CELL]
    )
    assert (found.exact.count, found.equivalent.count, found.same_type.count) == (0, 1, 1)
    assert found.as_dict()["equivalent"] == {"count": 1, "total": 2, "fraction": 0.5}


# ------------------------------------------------------------------------ hits


def test_hits_count_samples_and_the_best_count_once():
    keys = ["a", "a", "b", "c", None, "d"]
    errors = np.array([0.01, 0.01, 0.04, 0.2, 0.0, math.nan])
    found = design_score(keys, errors, tolerance=0.05, top=2)
    assert found.hits == Share(3, 6)
    assert found.unique_hits == Share(2, 6)
    assert found.best_error == 0.01
    assert found.top_hits == Share(2, 2)
    assert found.top_error.value == pytest.approx(0.025)
    all_of_them = design_score(keys, errors, tolerance=0.05, top=10)
    assert all_of_them.top_hits == Share(2, 3)


def test_nothing_scored_is_no_hit():
    found = design_score([None, "a"], np.array([math.nan, math.nan]), tolerance=1.0, top=3)
    assert found.hits == Share(0, 2)
    assert found.as_dict()["best_error"] is None
    assert found.as_dict()["top_error"] == {"value": None, "total": 0}
