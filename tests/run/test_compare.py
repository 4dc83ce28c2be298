"""Finished runs side by side: only where they were tested on the same things, and with noise told from difference."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crystalfm.cli.main import main
from crystalfm.contracts import UserError
from crystalfm.run.compare import compare
from crystalfm.run.tracking.console import run_console

TRUE = np.random.default_rng(0).normal(size=400)


def finished(
    root: Path,
    noise: float,
    *,
    seed: int = 0,
    unit: str = "eV",
    first: int = 0,
    shift: float = 0.0,
    split: str = "test",
) -> Path:
    """Write what a finished run leaves behind: a target with errors of a known size."""
    root.mkdir(parents=True)
    targets = [{"name": "gap", "unit": unit}]
    (root / "summary.json").write_text(json.dumps({"data": {"targets": targets}}))
    predicted = TRUE + noise * np.random.default_rng(seed).normal(size=len(TRUE))
    ids = [f"m{number + first:04d}" for number in range(len(TRUE))]
    columns = {"id": ids, "split": split, f"gap_{unit}_true": TRUE + shift, f"gap_{unit}_predicted": predicted}
    # Files need not be in the order of the ids.
    pd.DataFrame(columns).sample(frac=1, random_state=seed).to_parquet(root / "predictions.parquet")
    return root


def test_noise_is_told_from_a_difference(tmp_path: Path) -> None:
    good = finished(tmp_path / "a" / "good", 0.1)
    same = finished(tmp_path / "a" / "same", 0.1, seed=3)
    bad = finished(tmp_path / "b" / "bad", 0.3, seed=2)
    scores = compare([str(bad), str(good), str(same)], "test", tmp_path / "out", run_console())
    verdicts = {score.run: score.verdict for score in scores}
    assert verdicts["b/bad"] == "worse"
    assert sorted([verdicts["a/good"], verdicts["a/same"]]) == ["best", "no more than noise"]
    assert scores[-1].run == "b/bad"
    mae = {score.run: score.mae for score in scores}
    assert mae["b/bad"].value == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.15)
    assert mae["b/bad"].low < mae["b/bad"].value < mae["b/bad"].high
    with (tmp_path / "out" / "comparison.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["run"]: row["verdict"] for row in rows} == verdicts
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5_000


def test_rows_are_matched_by_their_ids(tmp_path: Path) -> None:
    one, two = (finished(tmp_path / name, 0.1) for name in ("one", "two"))
    table = pd.read_parquet(two / "predictions.parquet")
    table.sample(frac=1, random_state=9).to_parquet(two / "predictions.parquet")
    scores = compare([str(one), str(two)], "test", None, run_console())
    assert scores[0].mae == scores[1].mae
    behind = scores[1].behind
    assert behind is not None
    assert behind.value == behind.low == behind.high == 0.0


def test_jobs_of_a_multirun_count_one_by_one(tmp_path: Path) -> None:
    for number in range(3):
        finished(tmp_path / "sweep" / str(number), 0.1 * (number + 1), seed=number)
    (tmp_path / "sweep" / "unfinished").mkdir()
    scores = compare([str(tmp_path / "sweep")], "test", None, run_console())
    assert [score.run for score in scores] == ["sweep/0", "sweep/1", "sweep/2"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"unit": "hartree"}, "predicts gap_hartree, that one gap_eV"),
        ({"first": 1}, "2 test rows are in only one of them"),
        ({"shift": 0.1}, "the true values of the same rows differ"),
        ({"split": "val"}, "no predictions of the split test"),
    ],
)
def test_what_is_not_the_same_test_is_refused(tmp_path: Path, other: dict[str, object], message: str) -> None:
    one, two = finished(tmp_path / "one", 0.1), finished(tmp_path / "two", 0.1, **other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        compare([str(one), str(two)], "test", None, run_console())


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    run = str(finished(tmp_path / "one", 0.1))
    (tmp_path / "empty").mkdir()
    for places, message in (
        ([run], "two runs at least"),
        ([run, run], "two runs at least"),
        ([run, str(tmp_path / "absent")], "no such folder"),
        ([run, str(tmp_path / "empty")], "is no run"),
    ):
        with pytest.raises(UserError, match=message):
            compare(places, "test", None, run_console())
    (tmp_path / "empty" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is an unfinished run"):
        compare([run, str(tmp_path / "empty")], "test", None, run_console())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (str(finished(tmp_path / name, noise)) for name, noise in (("one", 0.1), ("two", 0.3)))
    assert main(["compare", one, two, f"output={tmp_path / 'out'}"]) == 0
    assert "400 test rows" in capsys.readouterr().out
    assert (tmp_path / "out" / "comparison.csv").is_file()
    assert main(["compare", one, two, "split=all"]) == 2
    assert main(["compare", one, two, "where=here"]) == 2
    assert "no option where" in capsys.readouterr().err
    assert main(["compare", "--help"]) == 0
