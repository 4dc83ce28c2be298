"""Scores against hand-computed numbers and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from crystalfm.contracts import HARTREE_TO_EV, TargetSpec
from crystalfm.metrics.scores import (
    best_model,
    by_target,
    ev_per_unit,
    known_pairs,
    score_model,
    score_target,
    unit_symbol,
)

GAP = TargetSpec("gap", "hartree")
DIPOLE = TargetSpec("dipole", "debye")


def test_score_by_hand():
    score = score_target(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]), GAP)
    assert score.mae == pytest.approx(2 / 3)
    assert score.rmse == pytest.approx(math.sqrt(4 / 3))
    assert score.r2 == pytest.approx(1 - 4 / 2)
    assert score.num_rows == 3
    assert score.mae_ev == pytest.approx(2 / 3 * HARTREE_TO_EV)


def test_score_agrees_with_scikit_learn():
    generator = np.random.default_rng(3)
    true, predicted = generator.standard_normal((2, 500)).astype(np.float32)
    score = score_target(true, predicted, DIPOLE)
    assert score.mae == pytest.approx(mean_absolute_error(true, predicted), rel=1e-6)
    assert score.rmse == pytest.approx(root_mean_squared_error(true, predicted), rel=1e-6)
    assert score.r2 == pytest.approx(r2_score(true, predicted), rel=1e-6)
    assert score.mae_ev is None


def test_unknown_values_do_not_count():
    true = np.array([1.0, np.nan, 3.0])
    known, predicted = known_pairs(true, np.array([2.0, 99.0, 3.0]))
    assert known.tolist() == [1.0, 3.0]
    assert predicted.tolist() == [2.0, 3.0]
    assert score_target(true, np.array([2.0, 99.0, 3.0]), GAP).mae == pytest.approx(0.5)


def test_mean_square_error_is_reported():
    score = score_target(np.array([1.0, 2.0]), np.array([1.0, 4.0]), TargetSpec("logp", "1"))
    assert score.mse == pytest.approx(2.0)
    assert score.as_dict()["mse"] == pytest.approx(2.0)


def test_nothing_known_gives_nan_and_json_null():
    score = score_target(np.array([np.nan]), np.array([1.0]), GAP)
    assert score.num_rows == 0
    assert math.isnan(score.mae)
    assert score.as_dict()["mae"] is None


def test_constant_truth_has_no_r2():
    score = score_target(np.array([2.0, 2.0]), np.array([2.0, 3.0]), GAP)
    assert math.isnan(score.r2)
    assert score.as_dict()["r2"] is None
    assert score.mae == pytest.approx(0.5)


def test_score_model_checks_shapes():
    with pytest.raises(ValueError, match="expected two arrays"):
        score_model("m", np.zeros((4, 2)), np.zeros((4, 2)), [GAP])
    with pytest.raises(ValueError, match="expected two arrays"):
        score_model("m", np.zeros((4, 1)), np.zeros((3, 1)), [GAP])


def test_by_target_keeps_order_and_best_ignores_nan():
    true = np.array([[1.0], [2.0]])
    results = [
        score_model("far", true, true + 2, [GAP]),
        score_model("near", true, true + 1, [GAP]),
        score_model("broken", true, true * np.nan, [GAP]),
    ]
    scores = by_target(results)[GAP]
    assert list(scores) == ["far", "near", "broken"]
    assert best_model(scores) == "near"
    assert best_model({"broken": scores["broken"]}) is None


@pytest.mark.parametrize(
    ("unit", "factor", "symbol"),
    [
        ("hartree", HARTREE_TO_EV, "Ha"),
        ("eV", 1.0, "eV"),
        ("meV", 1e-3, "meV"),
        ("debye", None, "debye"),
        ("1", None, ""),
    ],
)
def test_units(unit, factor, symbol):
    assert ev_per_unit(unit) == factor
    assert unit_symbol(unit) == symbol
