import numpy as np
import pytest
import torch

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.models.classical import ClassicalFeatures
from crystalfm.models.xgboost_model import TreeParameters, XGBoostRegressor

TARGETS = (TargetSpec("gap", "hartree"), TargetSpec("mu", "D"))


def _features(density=0.1, dtype=np.uint8, noise=0.0, num_train=400):
    rng = np.random.default_rng(0)
    x = (rng.random((600, 32)) < density).astype(dtype)
    y = x.astype(float) @ rng.normal(size=(32, 2)) * [0.05, 3.0] + [0.25, -1.0]
    y += noise * rng.normal(size=y.shape) * [0.05, 3.0]
    return ClassicalFeatures(x[:num_train], y[:num_train], x[400:500], y[400:500]), x[500:], y[500:]


def _model(**settings):
    defaults = {"num_trees": 60, "max_depth": 4, "num_threads": 1, "targets": TARGETS}
    return XGBoostRegressor(**(defaults | settings))


@pytest.fixture
def fitted():
    features, x, y = _features()
    model = _model()
    model.fit(features, seed=0)
    return model, x, y


def test_predicts_physical_values_far_better_than_the_mean(fitted):
    model, x, y = fitted
    error = np.abs(model.predict(x) - y).mean(axis=0)
    assert (error < 0.5 * np.abs(y - y.mean(axis=0)).mean(axis=0)).all()


def test_state_round_trip_predicts_bitwise_the_same(fitted, tmp_path):
    model, x, _ = fitted
    torch.save(model.state(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    twin = XGBoostRegressor.from_state(state, targets=TARGETS)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    np.testing.assert_array_equal(twin.predict(x[:0]), np.zeros((0, 2)))


def test_same_seed_same_model_other_seed_another(fitted):
    features, x, _ = _features()
    predictions = []
    for seed in (1, 1, 2):
        model = _model(subsample=0.5)
        model.fit(features, seed=seed)
        predictions.append(model.predict(x))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.array_equal(predictions[0], predictions[2])


def test_sparse_and_dense_features_build_the_same_trees(monkeypatch):
    features, x, _ = _features()
    predictions = []
    for threshold in (0.0, 1.0):
        monkeypatch.setattr("crystalfm.models.xgboost_model._SPARSE_BELOW", threshold)
        model = _model(num_trees=10)
        model.fit(features, seed=0)
        assert model.state()["sparse"] is (threshold == 1.0)
        predictions.append(model.predict(x))
    np.testing.assert_allclose(predictions[0], predictions[1], rtol=1e-5, atol=1e-7)


def test_dense_floats_with_missing_values_are_taken():
    features, x, _y = _features(density=0.9, dtype=np.float32)
    features.train_x[::7, 3] = np.nan
    model = _model()
    model.fit(features, seed=0)
    assert model.state()["sparse"] is False
    assert np.isfinite(model.predict(x)).all()


def test_early_stopping_stops_and_keeps_the_best_round():
    features, _x, _ = _features(noise=2.0)
    settings = {"num_trees": 400, "learning_rate": 0.5, "max_depth": 6}
    stopped = _model(**settings, early_stopping_rounds=5)
    stopped.fit(features, seed=0)
    trees = stopped.state()["num_trees"]
    assert all(number < 100 for number in trees)
    whole = _model(**settings, early_stopping_rounds=None)
    whole.fit(features, seed=0)
    assert whole.state()["num_trees"] == [400, 400]
    for column in range(2):
        short_error = np.abs(stopped.predict(features.val_x) - features.val_y)[:, column].mean()
        assert stopped.state()["val_mae"][column] == pytest.approx(short_error, rel=1e-4)
        assert short_error < np.abs(whole.predict(features.val_x) - features.val_y)[:, column].mean()


def test_validation_rows_choose_nothing_else(fitted):
    """Without early stopping and search the validation rows have no influence."""
    features, x, _ = _features()
    other = ClassicalFeatures(features.train_x, features.train_y, features.val_x, -features.val_y)
    predictions = []
    for data in (features, other):
        model = _model(early_stopping_rounds=None)
        model.fit(data, seed=0)
        predictions.append(model.predict(x))
    np.testing.assert_array_equal(*predictions)


def test_rows_with_an_unknown_target_are_left_out_of_that_target():
    features, x, _ = _features()
    train_y = features.train_y.copy()
    train_y[200:, 1] = np.nan
    holey = _model(early_stopping_rounds=None)
    holey.fit(ClassicalFeatures(features.train_x, train_y, features.val_x, features.val_y), seed=0)
    half, _, _ = _features(num_train=200)
    short = _model(early_stopping_rounds=None)
    short.fit(half, seed=0)
    np.testing.assert_array_equal(holey.predict(x)[:, 1], short.predict(x)[:, 1])
    assert not np.array_equal(holey.predict(x)[:, 0], short.predict(x)[:, 0])


def test_search_takes_the_best_trial_of_each_target():
    features, _x, _ = _features(noise=0.3)
    model = _model(num_trials=3, early_stopping_rounds=20, num_trees=30, max_depth=2)
    model.fit(features, seed=4)
    table = model.search_table()
    assert [(row["trial"], row["target"]) for row in table] == [
        (trial, target.label) for target in TARGETS for trial in range(4)
    ]
    assert (table[0]["num_trees"], table[0]["max_depth"]) == (30, 2)
    for column, target in enumerate(TARGETS):
        best = min((row for row in table if row["target"] == target.label), key=lambda row: row["val_mae"])
        error = np.abs(model.predict(features.val_x) - features.val_y)[:, column].mean()
        assert error == pytest.approx(best["val_mae"], rel=1e-4)
        assert model.state()["num_trees"][column] == best["best_num_trees"]


def test_search_draws_all_seven_parameters_within_their_ranges():
    rng = np.random.default_rng(0)
    draws = [TreeParameters.draw(rng) for _ in range(300)]
    for name in vars(draws[0]):
        assert len({getattr(draw, name) for draw in draws}) > 5, name
    assert min(draw.num_trees for draw in draws) >= 100
    assert {draw.max_depth for draw in draws} == set(range(3, 13))
    assert all(0.02 <= draw.learning_rate <= 0.3 for draw in draws)
    assert 0.3 < np.mean([draw.gamma == 0 for draw in draws]) < 0.7


def test_search_without_validation_rows_is_refused():
    features, _, _ = _features()
    empty = ClassicalFeatures(features.train_x, features.train_y, features.val_x[:0], features.val_y[:0])
    with pytest.raises(UserError, match="num_trials=2"):
        _model(num_trials=2).fit(empty, seed=0)
    model = _model()
    model.fit(empty, seed=0)  # fitting alone needs none
    assert model.state()["num_trees"] == [60, 60]


def test_constant_target_is_predicted():
    features, x, _ = _features()
    features.train_y[:, 0] = 0.5
    model = _model(num_trees=5)
    model.fit(features, seed=0)
    np.testing.assert_allclose(model.predict(x)[:, 0], 0.5)


def test_a_model_that_was_not_fitted_says_so():
    with pytest.raises(UserError, match="not been fitted"):
        _model().predict(np.zeros((1, 32)))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_trees": 0},
        {"learning_rate": 0.0},
        {"subsample": 1.5},
        {"colsample_bytree": 0.0},
        {"gamma": -1.0},
        {"num_trials": -1},
        {"early_stopping_rounds": 0},
        {"num_threads": 0},
    ],
)
def test_bad_settings_name_their_key(settings):
    with pytest.raises(UserError, match=f"model.{next(iter(settings))}"):
        _model(**settings)
