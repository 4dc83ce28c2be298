"""The benchmark of surrogates: how rows are dealt into folds, what is run, and how the table is made."""

import importlib.util
import json

import numpy as np
import pytest

from crystalfm.data.splits import read_splits
from crystalfm.data.twodmd import TwoDMD
from defect_release import write_release


@pytest.fixture(scope="module")
def script(repository):
    path = repository / "benchmarks" / "defect_surrogates.py"
    if not path.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    spec = importlib.util.spec_from_file_location("defect_surrogates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = write_release(tmp_path_factory.mktemp("release"))
    return TwoDMD(path=str(folder), targets=["formation_energy_per_site", "homo"]).load()


def test_groups_stay_together_and_folds_are_of_like_size(script):
    groups = np.repeat(np.arange(40), np.tile([1, 2, 5, 2], 10))
    folds = script.deal(groups, 5, np.random.default_rng(0))
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))
    assert set(np.bincount(folds)) == {20}
    other = script.deal(groups, 5, np.random.default_rng(1))
    assert not np.array_equal(folds, other)
    with pytest.raises(SystemExit, match="3 groups"):
        script.deal(np.arange(3), 5, np.random.default_rng(0))


@pytest.mark.parametrize("by", ["random", "type"])
def test_each_row_is_tested_once_and_types_are_held_out_whole(script, table, tmp_path, by):
    files = script.write_folds(table, tmp_path, by, 4, seed=3)
    kinds = script.kinds(table)
    tested = []
    for file in files:
        splits = read_splits(file, table)
        tested += splits.test.tolist()
        assert len(splits.val) > 0
        assert len(splits.train) + len(splits.val) + len(splits.test) == len(table)
        if by == "type":
            assert not set(kinds[splits.test]) & set(kinds[np.concatenate([splits.train, splits.val])])
    assert sorted(tested) == list(range(len(table)))


def write_summary(folder, finished, scores):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"finished": finished, "metrics": {"test": scores}}))


def score(mae, mse, r2, rows=2):
    return {"mae": mae, "mse": mse, "r2": r2, "num_rows": rows, "unit": "eV"}


def test_the_table_has_folds_and_all_rows(script, tmp_path):
    for fold, (mae, mse, r2) in enumerate([(0.010, 0.01, 0.9), (0.030, 0.03, 0.7)]):
        scores = {"alignn": {"homo": score(mae, mse, r2)}, "mean": {"homo": score(0.5, 0.5, -0.1)}}
        write_summary(tmp_path / f"run-{fold}" / "2026-01-02", True, scores)
        write_summary(tmp_path / f"run-{fold}" / "2026-01-03", False, {})
    found = script.scores(tmp_path, ["run-0", "run-1"])
    rows = script.table_of(found, {"homo": 1.6}, "random").splitlines()[2:]
    assert rows[0].startswith("| homo | mean |")
    assert rows[1] == "| homo | alignn | 20 ± 14 | 0.800 ± 0.141 | 0.950 |"
    assert script.table_of(found, {"homo": 1.6}, "type").splitlines()[-1] == "| homo | alignn | 20 ± 14 |  | 0.950 |"


def test_finished_runs_are_not_repeated_and_settings_are_handed_on(script, table, tmp_path, monkeypatch, capsys):
    started = []

    def run(command, **_settings):
        name = next(word for word in command if word.startswith("name=")).partition("=")[2]
        started.append((name, command))
        models = ["catboost", "mean"] if "model=catboost" in command else ["alignn", "catboost (defects)", "mean"]
        write_summary(
            tmp_path / "runs" / name / "now", True, {model: {"homo": score(0.1, 0.1, 0.5)} for model in models}
        )
        return type("Finished", (), {"returncode": 0})()

    monkeypatch.setattr(script, "load_table", lambda: table)
    monkeypatch.setattr(script.subprocess, "run", run)
    arguments = [str(tmp_path / "runs"), "--folds", "2", "--targets", "homo", "--models"]
    assert script.main([*arguments, "mean,catboost", "--", "model.num_threads=1"]) == 0
    assert [name for name, _ in started] == ["catboost-random-2-42-0", "catboost-random-2-42-1"]
    command = started[0][1]
    assert {"data.targets=[homo]", "modalities=[defects]", "baselines=[mean]", "model.num_threads=1"} <= set(command)
    assert "| homo | catboost |" in capsys.readouterr().out
    assert script.main([*arguments, "mean,catboost"]) == 0
    assert len(started) == 2
    assert script.main([*arguments, "mean,catboost,alignn"]) == 0
    assert {"model=alignn", "baselines=[mean,catboost]"} <= set(started[-1][1])
    assert "| homo | alignn |" in capsys.readouterr().out
