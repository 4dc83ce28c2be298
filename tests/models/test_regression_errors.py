import numpy as np
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from crystalfm.models.errors import RegressionErrors, WeightedMean


def _random(num_rows=200, offset=0.0):
    rng = np.random.default_rng(1)
    target = rng.normal(size=(num_rows, 2)) + offset
    return target + 0.3 * rng.normal(size=target.shape), target, rng.random(target.shape) < 0.7


def test_batches_add_up_to_scikit_learns_scores_of_the_known_cells():
    prediction, target, mask = _random()
    errors = RegressionErrors(torch.zeros(2))
    for start in range(0, 200, 33):
        part = slice(start, start + 33)
        errors.update(*(torch.from_numpy(array[part]) for array in (prediction, target, mask)))
    scores = errors.scores()
    for column in range(2):
        known = mask[:, column]
        truth, guess = target[known, column], prediction[known, column]
        np.testing.assert_allclose(scores["mae"][column], mean_absolute_error(truth, guess))
        np.testing.assert_allclose(scores["rmse"][column], root_mean_squared_error(truth, guess))
        np.testing.assert_allclose(scores["r2"][column], r2_score(truth, guess))


def test_r2_of_large_numbers_with_a_small_spread():
    prediction, target, mask = _random(offset=1e7)
    errors = RegressionErrors(torch.tensor([1e7, 1e7]))
    errors.update(torch.from_numpy(prediction), torch.from_numpy(target), torch.from_numpy(mask))
    known = mask[:, 0]
    expected = r2_score(target[known, 0], prediction[known, 0])
    np.testing.assert_allclose(errors.scores()["r2"][0], expected, rtol=1e-6)


def test_undefined_scores_are_nan():
    errors = RegressionErrors(torch.zeros(2))
    target = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    errors.update(target + 1, target, torch.tensor([[True, False], [True, False]]))
    scores = errors.scores()
    assert scores["mae"][0] == 1.0
    assert scores["r2"][0].isnan()  # all true values are equal
    assert all(values[1].isnan() for values in scores.values())


def test_reset_forgets_and_the_state_stays_out_of_checkpoints():
    errors = RegressionErrors(torch.zeros(1))
    errors.update(torch.ones(3, 1), torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))
    errors.reset()
    errors.update(torch.full((1, 1), 2.0), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert errors.scores()["mae"].item() == 2.0
    assert errors.state_dict() == {}


def test_unknown_targets_may_hold_nan():
    errors = RegressionErrors(torch.zeros(1))
    target = torch.tensor([[1.0], [float("nan")]])
    errors.update(torch.zeros(2, 1), target, torch.tensor([[True], [False]]))
    assert errors.scores()["mae"].item() == 1.0


def test_weighted_mean_counts_its_weights_and_keeps_nan():
    mean = WeightedMean()
    mean.update(torch.tensor(2.0), torch.tensor(3))
    mean.update(torch.tensor(1.0), torch.tensor(1))
    assert mean.compute().item() == 1.75
    mean.update(torch.tensor(float("nan")), torch.tensor(1))
    assert mean.compute().isnan()


def test_a_single_target_keeps_its_axis():
    errors = RegressionErrors(torch.zeros(1))
    errors.update(torch.ones(2, 1), torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))
    assert {kind: values.shape for kind, values in errors.scores().items()} == dict.fromkeys(
        ("mae", "rmse", "r2"), (1,)
    )
