"""Estimates, where intervals are kept, and for which checkpoint they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_helpers import MakeConfig

import crystalfm
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.metrics.conformal import ConformalIntervals
from crystalfm.run.train import train
from crystalfm.run.uncertainty import (
    Estimate,
    read_uncertainty,
    score_estimate,
    target_scales,
    uncertainty_summary,
    write_uncertainty,
)

TARGETS = [TargetSpec("gap", "eV"), TargetSpec("logp", "1")]
CONSTANT = ConformalIntervals(0.9, np.array([0.5, np.inf]), None, np.array([20, 3]))


def test_one_member_has_no_spread() -> None:
    values = np.arange(4.0).reshape(2, 2)
    single = Estimate.of_members([values])
    assert single.std is None
    assert single.columns(0) == {}
    both = Estimate.of_members([values, values + 2])
    assert both.values.tolist() == (values + 1).tolist()
    assert both.std is not None
    np.testing.assert_allclose(both.std, np.sqrt(2))


def test_intervals_follow_rows_and_columns() -> None:
    estimate = Estimate(np.array([[1.0, 2.0], [3.0, 4.0]])).with_intervals(CONSTANT).select(np.array([1]))
    assert {name: part.tolist() for name, part in estimate.columns(0).items()} == {"lower": [2.5], "upper": [3.5]}
    assert estimate.columns(1)["upper"].tolist() == [np.inf]
    scores = score_estimate(np.array([[3.2, 9.0]]), estimate, TARGETS)
    assert scores is not None
    assert [score.coverage for score in scores] == [1, 1]
    said = uncertainty_summary(CONSTANT, scores, TARGETS)
    assert said is not None
    assert said["targets"]["logp"] == {
        "quantile": None,
        "num_validation_rows": 3,
        "test": {"coverage": 1.0, "mean_width": None, "num_rows": 1},
    }
    json.dumps(said, allow_nan=False)


def test_a_run_without_a_finite_interval_has_none() -> None:
    nowhere = ConformalIntervals(0.9, np.array([np.inf]), None, np.array([3]))
    assert Estimate(np.ones((2, 1))).with_intervals(nowhere).lower is None
    assert score_estimate(np.ones((2, 1)), Estimate(np.ones((2, 1))), TARGETS[:1]) is None


def test_scales_of_targets_are_positive() -> None:
    targets = np.array([[1.0, 5.0, np.nan, 0.0], [3.0, 5.0, np.nan, np.nan]])
    assert target_scales(targets).tolist() == [1, 1, 1, 1]
    assert target_scales(2 * targets)[0] == 2


def test_the_file_belongs_to_one_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "uncertainty.json"
    write_uncertainty(path, CONSTANT, TARGETS, "best.ckpt")
    found = read_uncertainty(path, TARGETS, "best.ckpt")
    assert found is not None
    assert found.state() == CONSTANT.state()
    assert read_uncertainty(path, TARGETS, "last.ckpt") is None
    write_uncertainty(path, None, TARGETS, "best.ckpt")
    assert read_uncertainty(path, TARGETS, "best.ckpt") is None
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"checkpoint": "best.ckpt"}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "uncertainty.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"uncertainty\.json cannot be read"):
        read_uncertainty(path, TARGETS, "best.ckpt")


def test_a_file_of_other_targets_is_named(tmp_path: Path) -> None:
    path = tmp_path / "uncertainty.json"
    write_uncertainty(path, CONSTANT, TARGETS, "best.ckpt")
    with pytest.raises(UserError, match="other targets"):
        read_uncertainty(path, TARGETS[::-1], "best.ckpt")


def test_a_single_run_has_intervals_and_a_lone_checkpoint_none(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(make_config("data.val_fraction=0.3", "coverage=0.8", "trainer.max_epochs=1"), run)
    assert "intervals, 6 test rows" in capsys.readouterr().out
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    widths = np.array(table["gap_hartree_upper"]) - np.array(table["gap_hartree_lower"])
    np.testing.assert_allclose(widths, widths[0], rtol=1e-9)
    val = [row for row, part in enumerate(table["split"]) if part == "val"]
    errors = [abs(table["gap_hartree_true"][row] - table["gap_hartree_predicted"][row]) for row in val]
    assert sum(error <= widths[0] / 2 + 1e-12 for error in errors) == int(np.ceil((len(val) + 1) * 0.8))
    assert not json.loads((run / "summary.json").read_text())["uncertainty"]["normalized"]

    def predicted(location: Path) -> crystalfm.Predictions:
        return crystalfm.load(location, accelerator="cpu", cache=tmp_path / "cache").predict(["CCO", "?"])

    found = predicted(run)
    assert found.lower is not None
    assert found.upper is not None
    assert (found.upper - found.lower)[0, 1] == pytest.approx(widths[0])
    assert np.isnan(found.lower[1]).all()
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", alone)
    assert predicted(alone).lower is None
    assert predicted(alone).values[0].tolist() == found.values[0].tolist()
    assert predicted(run / "checkpoints" / "last.ckpt").lower is None


def test_no_intervals_where_none_are_wanted_or_too_few_rows_are_there(make_config: MakeConfig, tmp_path: Path) -> None:
    for number, override in enumerate(("coverage=null", "coverage=0.95")):
        run = tmp_path / str(number)
        train(make_config("trainer.max_epochs=1", override), run)
        assert not any(name.endswith("_lower") for name in pq.read_schema(run / "predictions.parquet").names)
        summary = json.loads((run / "summary.json").read_text())
        quantiles = [] if number == 0 else [None, None]
        said = summary["uncertainty"] or {"targets": {}}
        assert [target["quantile"] for target in said["targets"].values()] == quantiles
