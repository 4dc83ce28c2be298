"""Conformal intervals hold what they promise, and say so where they cannot."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.contracts import TargetSpec
from crystalfm.metrics.conformal import ConformalIntervals, conformal_rank, rows_needed, score_intervals

TARGETS = [TargetSpec("gap", "eV"), TargetSpec("logp", "1")]
COVERAGES = st.floats(0.05, 0.98)


@given(num_rows=st.integers(0, 500), coverage=COVERAGES)
def test_the_rank_is_the_smallest_with_the_coverage(num_rows: int, coverage: float) -> None:
    rank = conformal_rank(num_rows, coverage)
    if rank is None:
        assert num_rows / (num_rows + 1) < coverage
        assert num_rows < rows_needed(coverage)
    else:
        assert rank / (num_rows + 1) >= coverage - 1e-8
        assert (rank - 1) / (num_rows + 1) < coverage
        assert num_rows >= rows_needed(coverage)


@pytest.mark.parametrize(
    ("num_rows", "coverage", "rank"), [(9, 0.9, 9), (8, 0.9, None), (99, 0.9, 90), (99, 0.55, 55), (19, 0.95, 19)]
)
def test_ranks_by_hand(num_rows: int, coverage: float, rank: int | None) -> None:
    assert conformal_rank(num_rows, coverage) == rank


def test_rows_needed_by_hand() -> None:
    assert [rows_needed(coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(12, 60),
    coverage=st.sampled_from([0.5, 0.7, 0.8, 0.9]),
    normalized=st.booleans(),
)
def test_exchangeable_rows_are_covered_as_often_as_promised(
    seed: int, num_rows: int, coverage: float, normalized: bool
) -> None:
    """Over many draws of both parts the share inside is between the level and the level + 1 / (n + 1)."""
    rng = np.random.default_rng(seed)
    draws = 4000
    size = rng.gamma(2.0, size=(num_rows + 1, draws)) + 0.05
    true = rng.standard_cauchy((num_rows + 1, draws)) * size
    mean = np.zeros_like(true)
    std, floors = (size, np.full(draws, 0.1)) if normalized else (None, None)
    held_out = slice(0, num_rows)
    fitted = ConformalIntervals.fit(
        true[held_out], mean[held_out], coverage, std=None if std is None else std[held_out], floors=floors
    )
    lower, upper = fitted.around(mean[num_rows:], None if std is None else std[num_rows:])
    inside = float(np.mean((lower <= true[num_rows:]) & (true[num_rows:] <= upper)))
    slack = 5 * math.sqrt(0.25 / draws)
    assert coverage - slack <= inside <= coverage + 1 / (num_rows + 1) + slack


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(1, 80), coverage=COVERAGES)
def test_the_rows_of_the_fit_are_covered_and_a_higher_level_is_wider(seed: int, num_rows: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    true, mean = rng.normal(size=(num_rows, 2)), rng.normal(size=(num_rows, 2))
    fitted = ConformalIntervals.fit(true, mean, coverage)
    wider = ConformalIntervals.fit(true, mean, (1 + coverage) / 2)
    assert (wider.quantiles >= fitted.quantiles).all()
    lower, upper = fitted.around(mean)
    for score in score_intervals(true, lower - 1e-9, upper + 1e-9, TARGETS):
        assert score.coverage >= coverage
        assert score.num_rows == num_rows
    assert fitted.is_bounded == (num_rows >= rows_needed(coverage))


@given(factor=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_units_do_not_matter(factor: float, shift: float) -> None:
    rng = np.random.default_rng(3)
    true, mean, std = rng.normal(size=(3, 40, 1))
    std, floors = np.abs(std), np.array([0.2])
    lower, upper = ConformalIntervals.fit(true, mean, 0.8, std=std, floors=floors).around(mean, std)
    other = ConformalIntervals.fit(
        factor * true + shift, factor * mean + shift, 0.8, std=factor * std, floors=factor * floors
    ).around(factor * mean + shift, factor * std)
    np.testing.assert_allclose(other[0], factor * lower + shift, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other[1], factor * upper + shift, rtol=1e-7, atol=1e-7)


def test_too_few_rows_give_unbounded_intervals_and_unknown_values_do_not_count() -> None:
    true = np.zeros((12, 2))
    true[3:, 1] = np.nan
    fitted = ConformalIntervals.fit(true, true * 0 + 1, 0.9)
    assert fitted.num_rows.tolist() == [12, 3]
    assert fitted.quantiles.tolist() == [1, math.inf]
    lower, upper = fitted.around(np.zeros((1, 2)))
    assert (lower[0, 1], upper[0, 1]) == (-math.inf, math.inf)
    assert fitted.is_bounded


def test_a_prediction_that_is_no_number_counts_as_missed() -> None:
    predicted = np.zeros((10, 1))
    predicted[0] = np.nan
    assert ConformalIntervals.fit(np.zeros((10, 1)), predicted, 0.9).quantiles.tolist() == [math.inf]


def test_members_that_agree_by_chance_promise_no_more_than_the_floor() -> None:
    true, mean = np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1))
    fitted = ConformalIntervals.fit(true, mean, 0.5, std=np.array([[0.0], [1.5], [2.5]]), floors=np.array([0.5]))
    assert fitted.quantiles.tolist() == [1.0]
    lower, upper = fitted.around(mean[:1], np.zeros((1, 1)))
    assert (lower[0, 0], upper[0, 0]) == (-0.5, 0.5)


def test_the_state_is_json_and_comes_back() -> None:
    fitted = ConformalIntervals(0.9, np.array([0.1, math.inf]), np.array([0.01, 0.02]), np.array([20, 3]))
    again = ConformalIntervals.from_state(json.loads(json.dumps(fitted.state(), allow_nan=False)))
    assert again.state() == fitted.state()
    assert again.quantiles.tolist() == [0.1, math.inf]
    constant = ConformalIntervals(0.9, np.array([0.1]), None, np.array([20]))
    assert ConformalIntervals.from_state(constant.state()).floors is None


@pytest.mark.parametrize(
    "given",
    [
        {"coverage": 1.0},
        {"std": np.ones((4, 1))},
        {"floors": np.ones(1)},
        {"std": np.ones((4, 1)), "floors": np.zeros(1)},
        {"std": np.ones((3, 1)), "floors": np.ones(1)},
        {"predicted": np.zeros((4, 2))},
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"true": np.zeros((4, 1)), "predicted": np.zeros((4, 1)), "coverage": 0.5} | given
    with pytest.raises(ValueError, match=r"shape|coverage|floors"):
        ConformalIntervals.fit(**arguments)


def test_a_standard_deviation_is_needed_where_the_fit_had_one() -> None:
    constant = ConformalIntervals(0.9, np.array([0.1]), None, np.array([20]))
    with pytest.raises(ValueError, match="exactly where"):
        constant.around(np.zeros((1, 1)), np.ones((1, 1)))


def test_scores_without_known_rows_are_no_numbers() -> None:
    (score,) = score_intervals(np.full((2, 1), np.nan), np.zeros((2, 1)), np.ones((2, 1)), TARGETS[:1])
    assert score.num_rows == 0
    assert math.isnan(score.coverage)
    assert score.as_dict() == {"coverage": None, "mean_width": None, "num_rows": 0}


def test_coverage_and_width_by_hand() -> None:
    true = np.array([[0.0, 1.0], [2.0, np.nan], [3.0, 1.0]])
    gap, logp = score_intervals(true, true * 0 - 1, true * 0 + 2, TARGETS)
    assert (gap.target.name, gap.coverage, gap.mean_width, gap.num_rows) == ("gap", pytest.approx(2 / 3), 3, 3)
    assert (logp.coverage, logp.num_rows) == (1, 2)
