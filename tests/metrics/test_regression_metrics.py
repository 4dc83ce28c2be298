import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from crystalfm.contracts import HARTREE_TO_EV, TargetSpec
from crystalfm.metrics.regression import regression_metrics

SPECS = (TargetSpec("gap", "hartree"), TargetSpec("mu", "D"), TargetSpec("qed", "1"))


def _arrays():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 3))
    mask = rng.random((50, 3)) < 0.8
    prediction = target + 0.2 * rng.normal(size=(50, 3))
    return prediction, np.where(mask, target, np.nan), mask


def test_scores_equal_scikit_learns_on_known_cells():
    prediction, target, mask = _arrays()
    scores = regression_metrics(prediction, target, mask, SPECS)
    for column, label in enumerate(("gap_hartree", "mu_D", "qed")):
        known = mask[:, column]
        truth, guess = target[known, column], prediction[known, column]
        assert scores[f"mae_{label}"] == pytest.approx(mean_absolute_error(truth, guess))
        assert scores[f"rmse_{label}"] == pytest.approx(root_mean_squared_error(truth, guess))
        assert scores[f"r2_{label}"] == pytest.approx(r2_score(truth, guess))
        assert scores[f"count_{label}"] == known.sum()


def test_only_hartree_is_also_given_in_electronvolt():
    scores = regression_metrics(*_arrays(), SPECS)
    assert scores["mae_gap_eV"] == pytest.approx(scores["mae_gap_hartree"] * HARTREE_TO_EV)
    assert [key for key in scores if key.endswith("_eV")] == ["mae_gap_eV"]


def test_float32_predictions_and_totals_with_a_large_offset():
    rng = np.random.default_rng(1)
    target = -400.0 + rng.normal(size=(100, 1))
    prediction = (target + 0.1).astype(np.float32)
    scores = regression_metrics(prediction, target, np.ones((100, 1), dtype=bool), SPECS[:1])
    assert scores["mae_gap_hartree"] == pytest.approx(0.1, rel=1e-3)
    assert scores["r2_gap_hartree"] == pytest.approx(r2_score(target, prediction.astype(float)), rel=1e-6)


def test_target_nobody_knows_is_nan_not_zero():
    prediction, target, mask = _arrays()
    mask[:, 1] = False
    scores = regression_metrics(prediction, target, mask, SPECS)
    assert np.isnan(scores["mae_mu_D"])
    assert scores["count_mu_D"] == 0


def test_shapes_must_agree():
    prediction, target, mask = _arrays()
    with pytest.raises(ValueError, match="shapes disagree"):
        regression_metrics(prediction[:, :2], target, mask, SPECS)
    with pytest.raises(ValueError, match="2 targets"):
        regression_metrics(prediction, target, mask, SPECS[:2])
