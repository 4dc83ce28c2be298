"""Increase in perplexity under translations, with likelihoods that can be computed by hand."""

import math

import numpy as np
import pytest
from known_crystals import SETTINGS, perovskite, rock_salt

from crystalfm.metrics.crystals.ipt import translated, translation_perplexity


def first_coordinate(crystal):
    """A text that depends on the origin."""
    return f"{crystal.frac_coords[0, 0]:.6f}"


def loss(texts):
    """A likelihood that depends on it too."""
    return np.array([float(text) for text in texts])


def test_by_hand():
    steps = []
    found = translation_perplexity(
        [rock_salt(), perovskite()],
        first_coordinate,
        loss,
        num_translations=7,
        seed=4,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(1, 2), (2, 2)]
    for row in range(2):
        shifts = np.random.default_rng([4, row]).random((7, 3))[:, 0]
        perplexities = np.exp(np.round(shifts, 6))  # the first atom of both is at the origin
        assert found.lowest[row] == pytest.approx(perplexities.min())
        assert found.increase[row] == pytest.approx((perplexities - perplexities.min()).mean())
    assert found.mean.value == pytest.approx(found.increase.mean())
    assert found.mean.total == 2
    assert found.median.value == pytest.approx(np.median(found.increase))
    assert found.num_failed == 0


def test_a_model_that_knows_of_the_symmetry_has_zero():
    found = translation_perplexity([rock_salt()], lambda _: "the same", lambda texts: np.full(len(texts), 1.3))
    assert found.increase.tolist() == [0.0]
    assert found.lowest[0] == pytest.approx(math.exp(1.3))


def test_same_seed_same_answer():
    first, again, other = (
        translation_perplexity([perovskite()], first_coordinate, loss, seed=seed).increase[0] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_perplexities_that_are_none_are_counted():
    losses = iter([np.array([1.0, 2.0]), np.array([1.0, 5000.0]), np.array([math.nan, 1.0])])
    found = translation_perplexity([rock_salt()] * 3, str, lambda _: next(losses), num_translations=2)
    assert found.num_failed == 2
    assert found.mean.total == 1
    assert found.mean.value == pytest.approx((math.exp(2) - math.exp(1)) / 2)


def test_mistakes():
    with pytest.raises(ValueError, match="at least 2"):
        translation_perplexity([rock_salt()], str, loss, num_translations=1)
    with pytest.raises(ValueError, match="shape"):
        translation_perplexity([rock_salt()], str, lambda _: np.zeros(3), num_translations=2)
    assert math.isnan(translation_perplexity([], str, loss).mean.value)


@pytest.mark.parametrize("setting", SETTINGS)
def test_translation_moves_all_atoms_and_wraps(setting):
    crystal = setting(perovskite())
    there = translated(crystal, np.array([0.3, 0.999999, 1e-17]))
    assert ((there.frac_coords >= 0) & (there.frac_coords < 1)).all()
    moved = there.frac_coords - crystal.frac_coords - [0.3, 0.999999, 0]
    assert np.allclose(moved, np.round(moved), atol=1e-9)
    back = translated(crystal, np.array([-1e-18, 0, 0]))  # wraps to 1.0 in floating point
    assert (back.frac_coords < 1).all()
