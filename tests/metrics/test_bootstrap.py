"""Bootstrap intervals of means."""

from __future__ import annotations

import numpy as np

from crystalfm.metrics.bootstrap import Interval, mean_interval


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = mean_interval(rng.normal(1.0, 2.0, size=60), resamples=200)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_values_that_are_not_known_take_no_part() -> None:
    assert mean_interval(np.array([1.0, np.nan, 3.0])).value == 2.0
    nothing = mean_interval(np.array([np.nan]))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5) != mean_interval(values, seed=6)


def test_what_is_more_than_noise() -> None:
    assert Interval(1.0, 0.5, 1.5).excludes_zero
    assert Interval(-1.0, -1.5, -0.5).excludes_zero
    assert not Interval(0.1, -0.5, 0.5).excludes_zero
