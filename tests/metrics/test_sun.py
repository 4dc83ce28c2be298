"""Stable, unique and novel samples: every count out of all samples, failures among them."""

import json

import pytest

from crystalfm.metrics.stability.sun import SampleStability, summarize

SAMPLES = [
    SampleStability(energy_above_hull=-0.01, converged=True, relaxation_energy=0.1, unique=True, novel=True),
    SampleStability(energy_above_hull=0.0, converged=True, relaxation_energy=0.3, unique=True, novel=False),
    SampleStability(energy_above_hull=-0.01, converged=True, unique=False, novel=True),
    SampleStability(energy_above_hull=0.05, unique=True, novel=True),
    SampleStability(energy_above_hull=0.1, unique=True, novel=True),
    SampleStability(energy_above_hull=-0.7, unique=True, novel=True),
    SampleStability(missing_elements=("Xe",), unique=True, novel=True),
    SampleStability(reason="not relaxed within 5 seconds"),
    SampleStability(reason="not relaxed: ValueError: a detail"),
    SampleStability(reason="overlapping atoms: Na 1 and Cl 2, 0.10 angstrom apart"),
]


@pytest.fixture
def report():
    return summarize(SAMPLES, num_asked=25)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("relaxed", 7),
        ("converged", 3),
        ("undefined", 1),
        ("stable", 4),
        ("metastable", 5),
        ("unique", 6),
        ("stable_unique", 3),
        ("metastable_unique", 4),
        ("sun", 2),
        ("metastable_sun", 3),
        ("implausible", 1),
    ],
)
def test_counts_are_out_of_all_samples_judged(report, name, count):
    assert getattr(report, f"num_{name}") == count
    assert report.as_dict()[name] == {"count": count, "total": 10, "fraction": count / 10}


def test_an_undefined_energy_is_neither_stable_nor_zero():
    (sample,) = [one for one in SAMPLES if one.missing_elements]
    assert (sample.stable, sample.metastable, sample.energy_above_hull) == (False, False, None)


def test_failures_are_named_by_kind(report):
    assert report.failures == {
        "not relaxed within 5 seconds": 1,
        "not relaxed: ValueError": 1,
        "overlapping atoms": 1,
    }
    assert report.missing_elements == {"Xe": 1}


def test_energies(report):
    assert report.median_energy_above_hull == pytest.approx(-0.005)
    assert report.mean_relaxation_energy == pytest.approx(0.2)


def test_without_a_training_set_novelty_is_unknown():
    report = summarize([SampleStability(energy_above_hull=-1.0, unique=True)], num_asked=1)
    assert (report.num_stable_unique, report.num_sun, report.num_metastable_sun) == (1, None, None)
    assert report.as_dict()["sun"] is None


def test_nothing_relaxed_at_all():
    report = summarize([SampleStability(reason="empty")], num_asked=1)
    assert (report.num_stable, report.num_sun, report.median_energy_above_hull) == (0, 0, None)
    assert report.as_dict()["sun"] == {"count": 0, "total": 1, "fraction": 0.0}
    assert json.loads(json.dumps(summarize([], num_asked=0).as_dict()))["stable"]["fraction"] is None


def test_rows_name_every_count_with_its_denominator(report):
    rows = dict(report.rows())
    assert rows["S.U.N.: stable, unique, novel"].count == 2
    assert {share.total for share in rows.values()} == {10}


def test_more_judged_than_asked_for_is_a_mistake():
    with pytest.raises(ValueError, match="10 samples judged of 9"):
        summarize(SAMPLES, num_asked=9)
