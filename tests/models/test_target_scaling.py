import numpy as np
import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.models.scaling import TargetScaling


def test_mean_and_std_of_known_training_values():
    targets = np.array([[1.0, 10.0], [3.0, np.nan], [100.0, 100.0], [5.0, 14.0]])
    scaling = TargetScaling.fit(targets, np.array([0, 1, 3]))
    np.testing.assert_allclose(scaling.mean, [3.0, 12.0])
    np.testing.assert_allclose(scaling.std, [np.sqrt(8 / 3), 2.0])


def test_rows_outside_the_training_split_have_no_influence():
    targets = np.random.default_rng(0).normal(size=(20, 3))
    rows = np.arange(12)
    before = TargetScaling.fit(targets, rows).state()
    targets[12:] = 1e9
    assert TargetScaling.fit(targets, rows).state() == before
    targets[3] += 1.0
    assert TargetScaling.fit(targets, rows).state() != before


def test_constant_target_keeps_its_unit():
    scaling = TargetScaling.fit(np.full((5, 1), 0.1), np.arange(5))
    np.testing.assert_array_equal(scaling.std, [1.0])
    np.testing.assert_allclose(scaling.mean, [0.1])


def test_small_spread_beside_a_large_mean_survives():
    values = -400.0 + 1e-3 * np.random.default_rng(0).normal(size=(2000, 1))
    np.testing.assert_allclose(TargetScaling.fit(values, np.arange(2000)).std, values.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transform_and_inverse_undo_each_other(dtype):
    scaling = TargetScaling(np.array([-3.0, 0.25]), np.array([2.0, 0.05]))
    values = torch.tensor([[1.0, 0.3], [-3.0, 0.25]], dtype=dtype)
    standardised = scaling.transform(values)
    assert standardised.dtype == dtype
    torch.testing.assert_close(standardised, torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=dtype))
    torch.testing.assert_close(scaling.inverse(standardised), values)


def test_state_round_trip_is_exact():
    scaling = TargetScaling(np.array([1 / 3]), np.array([np.pi]))
    restored = TargetScaling.from_state(scaling.state())
    assert restored.mean[0] == scaling.mean[0]
    assert restored.std[0] == scaling.std[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_training_targets_are_refused(bad):
    with pytest.raises(UserError):
        TargetScaling.fit(np.full((4, 1), bad), np.arange(4))
