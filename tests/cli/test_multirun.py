"""The table at the end of a multirun, and the search for settings."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from crystalfm.cli import multirun_table
from crystalfm.cli.multirun import FinishedJob, JobFailure, conclude
from crystalfm.cli.multirun_table import (
    TABLE_FILE,
    JobRow,
    Metric,
    differing,
    read_metrics,
    render_table,
    scan_jobs,
    update_table,
)
from crystalfm.cli.task import run_task
from crystalfm.contracts import UserError
from crystalfm.metrics.scores import TargetSpec, score_model
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel import stamp

Train = Callable[[Any, Path], dict[str, float]]


def write_results(folder: Path, loss: float, targets: dict[str, str], error: float) -> None:
    """Write the parts of a finished run that a table shows; errors of ``error`` and three times that."""
    import numpy as np

    specs = [TargetSpec(name, unit) for name, unit in targets.items()]
    true = np.zeros((2, len(specs)))
    true[1] = 1
    scores = score_model("m", true, true + np.array([[error], [3 * error]]), specs)
    baseline = score_model("mean", true, true + 0.001, specs)
    metrics = {item.model: {score.target.name: score.as_dict() for score in item.scores} for item in (baseline, scores)}
    summary = {
        "model": {"name": "m"},
        "data": {"targets": [{"name": name, "unit": unit} for name, unit in targets.items()]},
        "validation": {"loss": loss, "epoch": 3.0},
        "metrics": {"test": metrics},
    }
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).write_summary(summary)


def write_overrides(folder: Path, *overrides: str) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def shown(rows: list[JobRow], width: int = 100, *, styles: bool = False) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="standard", record=True)
    console.print(render_table(rows, title="jobs"))
    return console.export_text(styles=styles)


def test_numbers_of_a_run_are_those_of_its_model_on_test_rows(tmp_path: Path) -> None:
    write_results(tmp_path, 0.5, {"gap": "hartree", "qed": "1"}, 0.1)
    found = {metric.name: (metric.heading, value) for metric, value in read_metrics(tmp_path).items()}
    assert found["val/loss"] == ("val/loss", 0.5)
    assert found["test/mae_gap_hartree"] == ("test MAE\ngap (Ha)", pytest.approx(0.2))
    assert found["test/mae_gap_eV"] == ("", pytest.approx(0.2 * 27.2114, rel=1e-4))
    assert found["test/mse_gap_hartree"] == ("", pytest.approx(0.05))
    # Papers state mean square errors of quantities without a unit.
    assert found["test/mse_qed"] == ("test MSE\nqed", pytest.approx(0.05))
    assert "test/mae_qed_eV" not in found
    assert read_metrics(tmp_path / "absent") == {}


def test_numbers_of_an_evaluation(tmp_path: Path) -> None:
    score = {"mae": 0.25, "rmse": 0.5, "mse": 0.25, "r2": None, "unit": "eV", "mae_ev": 0.25, "num_rows": 2}
    (tmp_path / "evaluation.json").write_text(json.dumps({"metrics": {"gap": score}}))
    found = {metric.name: metric.heading for metric in read_metrics(tmp_path)}
    assert found == {"mae_gap_eV": "MAE\ngap (eV)", "rmse_gap_eV": "", "mse_gap_eV": ""}


def test_the_folders_tell_the_jobs_in_their_order(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_overrides(tmp_path / f"{number}_seed-{number}", "data=csv", f"seed={number}")
    write_overrides(tmp_path / "other", "data=csv", "seed=99")
    (tmp_path / "other" / ".hydra" / "overrides.yaml").write_text("")  # just opened by another process
    write_results(tmp_path / "2_seed-2", 0.5, {"gap": "eV"}, 0.1)
    rows = scan_jobs(tmp_path, ended=True)
    assert [(row.number, row.folder.name, row.status) for row in rows] == [
        (1, "0_seed-0", "failed"),
        (2, "2_seed-2", "finished"),
        (3, "10_seed-10", "failed"),
        (4, "other", "failed"),
    ]
    assert {row.status for row in scan_jobs(tmp_path, ended=False)} == {"unfinished", "finished"}
    assert differing([["a=1", "b=1"], ["a=1", "b=2"]]) == ["b=1", "b=2"]


def test_the_lowest_number_of_a_column_is_set_off() -> None:
    loss, error = Metric("val/loss", "val/loss"), Metric("test/mae_gap", "test MAE\ngap")
    rows = [
        JobRow(1, "lr=[1]", Path("0_a"), "finished", {loss: 0.5, error: 0.25}),
        JobRow(2, "lr=2", Path("1_a"), "finished", {loss: 0.75, error: 0.125}),
        JobRow(3, "lr=3", Path("2_a"), "finished", {loss: float("nan")}),
    ]
    text = shown(rows, styles=True)
    assert re.findall(r"\x1b\[1;32m *([\d.]+)", text) == ["0.5000", "0.1250"]
    assert "lr=[1]" in text
    assert "status" not in text
    assert "\x1b[1;32m" not in shown(rows[:1], styles=True)


def test_a_hundred_jobs_take_a_line_each_in_a_narrow_terminal() -> None:
    metrics = [Metric("val/loss", "val/loss")] + [
        Metric(f"test/mae_{name}", f"test MAE\n{name} (Ha)") for name in ("homo", "lumo", "gap")
    ]
    rows = [
        JobRow(number + 1, f"seed={number}", Path(f"runs/multirun/x/{number}_{'long' * 9}"), "finished")
        for number in range(100)
    ]
    rows = [JobRow(r.number, r.overrides, r.folder, r.status, dict.fromkeys(metrics, 0.01234)) for r in rows]
    lines = shown(rows, width=80).splitlines()
    assert len(lines) <= 106
    assert any(line.split() == ["100", "seed=99", *["0.01234"] * 4, "99_*"] for line in lines)


def test_jobs_on_other_data_leave_cells_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "0_a", 0.5, {"gap": "eV"}, 0.1)
    write_results(tmp_path / "1_a", 0.25, {"qed": ""}, 0.1)
    jobs = [FinishedJob(f"data={number}", tmp_path / f"{number}_a", 1.0) for number in range(2)]
    jobs.append(FinishedJob("data=2", tmp_path / "2_a", JobFailure("stopped", "", 143)))
    assert conclude(jobs, tmp_path) == 143
    first, second, third = read_table(tmp_path)
    assert (first["test/mae_qed"], float(second["test/mae_qed"])) == ("", pytest.approx(0.2))
    assert (first["val/loss"], second["val/loss"], third["val/loss"]) == ("0.5", "0.25", "")
    assert (first["status"], third["status"], third["overrides"]) == ("finished", "stopped", "data=2")
    assert Path(third["folder"]) == tmp_path / "2_a"
    captured = capsys.readouterr()
    assert "lowest val/loss 0.2500: job 2, data=1" in captured.out
    assert str(tmp_path / TABLE_FILE) in captured.out
    assert "job 3 of 3 failed (data=2)" in captured.err


def test_jobs_that_end_together_all_reach_the_table(tmp_path: Path) -> None:
    def end(number: int) -> None:
        write_results(tmp_path / f"{number}_a", float(number), {"gap": "eV"}, 0.1)
        update_table(tmp_path)

    for number in range(8):
        write_overrides(tmp_path / f"{number}_a", f"seed={number}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(8)))
    assert [row["status"] for row in read_table(tmp_path)] == ["finished"] * 8


def test_a_table_that_cannot_be_written_does_not_fail_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multirun_table, "write_text", full)
    update_table(tmp_path)
    assert "No space left" in caplog.text


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Train], list[Any]]]:
    """Replace what ``train`` runs; return the configurations it was called with."""

    def replace(action: Train) -> list[Any]:
        calls: list[Any] = []

        def train(cfg: Any, run_dir: Path) -> dict[str, float]:
            calls.append(cfg)
            return action(cfg, Path(run_dir))

        module: Any = types.ModuleType("crystalfm.run.train")
        module.train = train
        monkeypatch.setitem(sys.modules, "crystalfm.run.train", module)
        return calls

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(stamp.STAMP_VARIABLE, raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield replace
    for handler in [item for item in root.handlers if item not in handlers]:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def quadratic(cfg: Any, run_dir: Path) -> dict[str, float]:
    loss = float((cfg.optimizer.lr - 0.004) ** 2)
    write_results(run_dir, loss, {"gap": "hartree"}, cfg.optimizer.lr)
    return {"val/loss": loss}


def sweep_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs" / "multirun").iterdir()
    return folder


def test_every_job_that_ends_brings_the_table_up_to_date(training: Any, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def train(cfg: Any, run_dir: Path) -> dict[str, float]:
        table = run_dir.parent / TABLE_FILE
        seen.append([row["status"] for row in read_table(run_dir.parent)] if table.is_file() else [])
        if cfg.seed == 3:
            raise UserError("unlucky number")
        return quadratic(cfg, run_dir)

    training(train)
    assert run_task("train", ["-m", "seed=1,2,3,4"]) == 2
    assert seen == [[], ["finished"], ["finished"] * 2]
    rows = read_table(sweep_folder(tmp_path))
    assert [(row["overrides"], row["status"]) for row in rows] == [
        ("seed=1", "finished"),
        ("seed=2", "finished"),
        ("seed=3", "failed"),
    ]


def test_a_folder_of_ones_own_for_the_multirun(training: Any, tmp_path: Path) -> None:
    training(quadratic)
    assert run_task("train", ["-m", "seed=1,2", f'hydra.sweep.dir="{tmp_path / "mine"}"']) == 0
    assert [row["job"] for row in read_table(tmp_path / "mine")] == ["1", "2"]


@pytest.fixture
def search(training: Any) -> Any:
    """Start a search with Optuna."""
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("needs the extra [optuna]")

    def start(action: Train, *overrides: str) -> tuple[int, list[Any]]:
        calls = training(action)
        ranges = ["optimizer.lr=interval(1e-3,1e-2)", "callbacks.early_stopping_patience=null,5"]
        return run_task("train", ["-m", "hydra/sweeper=optuna", *ranges, *overrides]), calls

    return start


def test_a_search_reports_its_best_job(search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, calls = search(quadratic, "hydra.sweeper.n_trials=6", "data.limit=9")
    assert code == 0
    rates = [cfg.optimizer.lr for cfg in calls]
    assert len(set(rates)) == 6
    assert all(1e-3 <= rate <= 1e-2 for rate in rates)
    assert {cfg.callbacks.early_stopping_patience for cfg in calls} <= {None, 5}
    folder = sweep_folder(tmp_path)
    best = min(rates, key=lambda rate: abs(rate - 0.004))
    report = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert report["best_params"]["optimizer.lr"] == pytest.approx(best)
    rows = read_table(folder)
    assert [f"optimizer.lr={rate}" in row["overrides"] for row, rate in zip(rows, rates, strict=True)] == [True] * 6
    captured = capsys.readouterr()
    assert "job 6 of 6: optimizer.lr=" in captured.out
    number = rates.index(best) + 1
    assert f": job {number}, optimizer.lr={best}" in captured.out
    assert "optimization_results.yaml" in captured.out
    assert captured.err == ""


def test_a_search_with_the_same_seed_draws_the_same_settings(search: Any) -> None:
    drawn = [
        [cfg.optimizer.lr for cfg in search(quadratic, "hydra.sweeper.n_trials=3", f"seed={seed}")[1]]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_search_goes_on_from_its_data_base(search: Any, tmp_path: Path) -> None:
    given = [f"hydra.sweeper.storage=sqlite:///{tmp_path / 's.db'}", "hydra.sweeper.study_name=lr"]
    found = [search(quadratic, "hydra.sweeper.n_trials=2", *given)[0] for _ in range(2)]
    assert found == [0, 0]
    import optuna

    assert len(optuna.load_study(study_name="lr", storage=f"sqlite:///{tmp_path / 's.db'}").trials) == 4


def failing_second(calls: list[int]) -> Train:
    def train(cfg: Any, run_dir: Path) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise UserError("the loss is not a number")
        return quadratic(cfg, run_dir)

    return train


def test_the_first_failure_ends_a_search(search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, calls = search(failing_second([]), "hydra.sweeper.n_trials=4")
    assert (code, len(calls)) == (2, 2)
    err = capsys.readouterr().err
    assert "job 2 of 4 failed" in err
    assert "2 not started" in err
    assert "the loss is not a number" in err
    assert [row["status"] for row in read_table(sweep_folder(tmp_path))] == ["finished", "failed"]


def test_a_search_told_so_goes_on_after_a_failure(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, calls = search(failing_second([]), "hydra.sweeper.n_trials=4", "hydra.sweeper.max_failure_rate=1")
    assert (code, len(calls)) == (0, 4)
    assert [row["status"] for row in read_table(sweep_folder(tmp_path))] == ["finished", "failed"] + ["finished"] * 2
    captured = capsys.readouterr()
    assert "the loss is not a number" in captured.err
    assert "Traceback" not in captured.err
    assert "failed" in captured.out
    (log,) = sweep_folder(tmp_path).glob("1_*/train.log")
    assert "the loss is not a number" in log.read_text()


def test_a_search_in_which_everything_fails(search: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(cfg: Any, run_dir: Path) -> dict[str, float]:
        raise UserError("the disk is full")

    code, calls = search(fail, "hydra.sweeper.n_trials=2", "hydra.sweeper.max_failure_rate=1")
    assert (code, len(calls)) == (1, 2)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "no job of the search finished" in captured.err


def test_a_signal_stops_a_search_whatever_it_tolerates(search: Any) -> None:
    class StoppedError(Exception):
        signal_number = 15

    def stop(cfg: Any, run_dir: Path) -> dict[str, float]:
        raise StoppedError("interrupted by SIGTERM")

    code, calls = search(stop, "hydra.sweeper.n_trials=3", "hydra.sweeper.max_failure_rate=1")
    assert (code, len(calls)) == (143, 1)
