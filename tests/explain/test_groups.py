"""Errors by groups."""

from __future__ import annotations

import numpy as np
import pytest

from crystalfm.explain.groups import REST, group_errors, value_ranges


def test_each_group_has_its_own_error_count_and_share_of_the_best() -> None:
    errors = np.array([0.1] * 10 + [1.0] * 90 + [np.nan])
    names = ["easy"] * 10 + ["hard"] * 80 + ["rare"] * 5 + ["odd"] * 5 + ["hard"]
    hard, easy = group_errors(errors, {"kind": names[:90] + ["easy"] * 10 + ["hard"]}, "gap_eV")
    assert (hard.group, hard.count, hard.mae.value, hard.best_share) == ("hard", 80, 1.0, 0.0)
    assert (easy.group, easy.count, easy.best_share) == ("easy", 20, 0.5)
    assert easy.mae.value == pytest.approx(0.55)
    assert easy.mae.low < 0.55 < easy.mae.high
    found = group_errors(errors, {"kind": names}, "gap_eV")
    assert [(item.group, item.count) for item in found] == [("hard", 80), ("easy", 10), (REST, 10)]
    assert sum(item.best_share * item.count for item in found) == pytest.approx(10)


def test_an_order_of_its_own() -> None:
    names = ["b"] * 30 + ["a"] * 20 + ["c"] * 50
    found = group_errors(np.ones(100), {"kind": names}, "x", order={"kind": ["a", "b", "c"]})
    assert [item.group for item in found] == ["a", "b", "c"]


def test_nothing_known_of_a_group() -> None:
    errors = np.array([1.0] * 20 + [np.nan] * 20)
    found = group_errors(errors, {"kind": ["a"] * 20 + ["b"] * 20}, "x")
    assert [(item.group, item.count) for item in found] == [("a", 20)]


def test_ranges_hold_equal_numbers_and_every_value() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    ranges, names = value_ranges(values)
    assert len(names) == 5
    assert {name: ranges.count(name) for name in names} == dict.fromkeys(names, 200)
    assert ranges[int(values.argmax())] == names[-1]
    assert ranges[int(values.argmin())] == names[0]


def test_a_frequent_value_is_a_range_of_its_own() -> None:
    values = np.array([0.0] * 700 + np.linspace(0.1, 3.0, 300).tolist() + [np.nan])
    ranges, names = value_ranges(values)
    assert names[0] == "0"
    assert ranges.count("0") == 700
    assert len(names) == 6
    assert {ranges.count(name) for name in names[1:]} <= {60, 61}
    assert ranges[700] == names[1]
    assert ranges[999] == names[-1]


def test_few_distinct_values_have_few_ranges() -> None:
    assert value_ranges(np.array([0.0] * 90 + [1.0] * 10)) == (["0"] * 90 + ["1"] * 10, ["0", "1"])
    assert value_ranges(np.zeros(5)) == (["0"] * 5, ["0"])
