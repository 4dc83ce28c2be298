import sys

import numpy as np
import pytest
import torch

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.models.classical import ClassicalFeatures

pytest.importorskip("catboost", reason="the package catboost is not installed")

from crystalfm.models.catboost_model import CatBoostRegressor

TARGETS = (TargetSpec("gap", "eV"), TargetSpec("energy", "eV"))


def _features(noise=0.0):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, size=(400, 12)).astype(np.float32)
    y = x @ rng.normal(size=(12, 2)) * [0.05, 3.0] + [0.25, -1.0]
    y += noise * rng.normal(size=y.shape) * [0.05, 3.0]
    return ClassicalFeatures(x[:250], y[:250], x[250:300], y[250:300]), x[300:], y[300:]


def _model(**settings):
    return CatBoostRegressor(**({"num_trees": 150, "num_threads": 1, "targets": TARGETS} | settings))


@pytest.fixture
def fitted():
    features, x, y = _features()
    model = _model()
    model.fit(features, seed=0)
    return model, x, y


def test_predicts_physical_values_far_better_than_the_mean(fitted):
    model, x, y = fitted
    error = np.abs(model.predict(x) - y).mean(axis=0)
    assert (error < 0.4 * np.abs(y - y.mean(axis=0)).mean(axis=0)).all()


def test_state_round_trip_predicts_bitwise_the_same(fitted, tmp_path):
    model, x, _ = fitted
    torch.save(model.state(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    twin = CatBoostRegressor.from_state(state, targets=TARGETS)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    assert twin.predict(x[:0]).shape == (0, 2)


def test_same_seed_same_model():
    features, x, _ = _features(noise=1.0)
    predictions = []
    for seed in (1, 1, 2):
        model = _model(num_trees=20)
        model.fit(features, seed=seed)
        predictions.append(model.predict(x))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.array_equal(predictions[0], predictions[2])


def test_early_stopping_keeps_the_best_round():
    features, _, _ = _features(noise=5.0)
    stopped = _model(num_trees=500, learning_rate=0.5, depth=8, early_stopping_rounds=5)
    stopped.fit(features, seed=0)
    assert max(stopped.state()["num_trees"]) < 100
    error = np.abs(stopped.predict(features.val_x) - features.val_y).mean(axis=0)
    np.testing.assert_allclose(stopped.state()["val_mae"], error, rtol=1e-6)
    whole = _model(num_trees=60, learning_rate=0.5, depth=8, early_stopping_rounds=None)
    whole.fit(features, seed=0)
    assert whole.state()["num_trees"] == [60, 60]


def test_rows_with_an_unknown_target_are_left_out_of_that_target():
    features, x, _ = _features()
    train_y = features.train_y.copy()
    train_y[150:, 1] = np.nan
    holey, short = _model(num_trees=20), _model(num_trees=20)
    holey.fit(ClassicalFeatures(features.train_x, train_y, features.val_x, features.val_y), seed=0)
    part = ClassicalFeatures(features.train_x[:150], features.train_y[:150], features.val_x, features.val_y)
    short.fit(part, seed=0)
    np.testing.assert_array_equal(holey.predict(x)[:, 1], short.predict(x)[:, 1])
    assert not np.array_equal(holey.predict(x)[:, 0], short.predict(x)[:, 0])


def test_missing_values_are_taken():
    features, x, _ = _features()
    features.train_x[::5, 2] = np.nan
    model = _model(num_trees=20)
    model.fit(features, seed=0)
    assert np.isfinite(model.predict(np.where(x == 3, np.nan, x))).all()


@pytest.mark.parametrize("case", ["no feature", "features that do not vary", "a target that does not vary"])
def test_where_there_is_nothing_to_split_by_the_mean_is_predicted(case, tmp_path):
    features, x, _ = _features()
    train_x, train_y, width = features.train_x, features.train_y.copy(), 12
    if case == "no feature":
        width = 0
    elif case == "features that do not vary":
        train_x = np.ones_like(train_x)
    else:
        train_y[:, 0] = 2.5
    model = _model(num_trees=10)
    data = ClassicalFeatures(train_x[:, :width], train_y, features.val_x[:, :width], features.val_y)
    model.fit(data, seed=0)
    found = model.predict(x[:, :width])
    np.testing.assert_allclose(found[:, 0], train_y[:, 0].mean())
    twin = CatBoostRegressor.from_state(model.state(), targets=TARGETS)
    np.testing.assert_array_equal(twin.predict(x[:, :width]), found)


def test_without_validation_rows_every_round_is_kept():
    features, _, _ = _features()
    model = _model(num_trees=30)
    model.fit(ClassicalFeatures(features.train_x, features.train_y, features.val_x[:0], features.val_y[:0]), seed=0)
    assert model.state()["num_trees"] == [30, 30]
    assert np.isnan(model.state()["val_mae"]).all()


def test_not_fitted():
    with pytest.raises(UserError, match="has not been fitted"):
        _model().predict(np.zeros((2, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_trees": 0}, r"model\.num_trees=0"),
        ({"depth": 17}, r"model\.depth=17"),
        ({"learning_rate": 0.0}, r"model\.learning_rate=0"),
        ({"boosting_type": "random"}, r"model\.boosting_type=random"),
        ({"early_stopping_rounds": 0}, r"model\.early_stopping_rounds=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        _model(**settings)


def test_without_the_package_another_model_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    with pytest.raises(UserError, match="catboost is not installed") as caught:
        _model()
    assert "model=xgboost" in str(caught.value.remedy)
