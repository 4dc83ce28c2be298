"""The page of real runs: made at the end, of what the run has written, and never at the cost of the run."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from run_helpers import MakeConfig, molecules

from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import DataSpec, TargetSpec
from crystalfm.data.records import RecordTable
from crystalfm.report.page import structures
from crystalfm.run import page
from crystalfm.run.evaluate import evaluate
from crystalfm.run.folder import RunFolder
from crystalfm.run.train import train

TARGETS = (TargetSpec("gap", "eV"), TargetSpec("homo", "hartree"), TargetSpec("lumo", "hartree"))
SIZE_LIMIT_BYTES, TIME_LIMIT_SECONDS = 5_000_000, 10.0


def records(num_rows: int, field: str, values: list[str]) -> RecordTable:
    spec = DataSpec("made up", (field,), TARGETS, ("gap",), licence="CC0", citation="nobody, 2020")
    true = np.random.default_rng(0).normal(size=(num_rows, 3))
    ids = np.array([f"m{n}" for n in range(num_rows)])
    return RecordTable(spec, ids, {field: values}, true, TARGETS, np.arange(num_rows))


def write_run(root: Path, table: RecordTable) -> RunFolder:
    """Write what a finished training leaves behind."""
    folder = RunFolder(root).create()
    noise = np.random.default_rng(1).normal(size=table.targets.shape) * 0.1
    columns: dict[str, Any] = {"id": table.ids.tolist(), "split": ["test"] * len(table)}
    scores = {}
    for number, target in enumerate(TARGETS):
        columns[f"{target.label}_true"] = table.targets[:, number]
        columns[f"{target.label}_predicted"] = table.targets[:, number] + noise[:, number]
        scores[target.name] = {"mae": 0.1, "rmse": 0.2, "r2": None, "num_rows": len(table)}
    pq.write_table(pa.table(columns), folder.predictions)
    folder.write_summary(
        {
            "name": "made up",
            "seed": 3,
            "data": {
                "targets": [{"name": target.name, "unit": target.unit} for target in TARGETS],
                "content_hash": "f" * 64,
                "split_sizes": {"train": 1, "test": len(table)},
            },
            "model": {"name": "ours", "encoders": [], "parameters": {"total": 10, "trainable": 4}},
            "metrics": {"test": {"mean": scores, "ours": scores}},
            "training": {
                "num_epochs": 2,
                "wall_time_seconds": 3_720.0,
                "train_time_seconds": 61.0,
                "device": "cpu",
                "precision": "32",
                "num_threads": 1,
            },
            "ensemble": {"seeds": [3, 4]},
            "uncertainty": {"coverage": 0.9, "targets": {"gap": {"test": {"coverage": 0.912}}}},
            "environment": {"python": "3", "platform": "p", "commit": None, "versions": {"torch": "2"}},
        }
    )
    (root / "rejected.csv").write_text("id,reason,value\na,no volume: flat,x\nb,no volume,\n", encoding="utf-8")
    return folder


def test_a_training_and_its_evaluation_leave_a_page(make_config: MakeConfig, tmp_path: Path):
    run = tmp_path / "run"
    train(make_config("baselines=[mean]"), run)
    text = (run / "report.html").read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for expected in (f"{summary['data']['split_sizes']['test']:,} test rows", "llm_fusion", "smiles", "<svg", "energy"):
        assert expected in text
    assert text.index("<td>llm_fusion</td>") < text.index("<td>mean</td>")
    assert 'id="curves"' in text
    assert "currentColor" in text.partition('id="structures">')[2]  # drawings of molecules
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        assert any(row["val/loss"] for row in csv.DictReader(stream))
    assert "To repeat it" not in text  # called from Python
    judged = tmp_path / "judged"
    evaluate(make_config(f"ckpt={run}", config="evaluate", tiny=False), judged)
    text = (judged / "report.html").read_text(encoding="utf-8")
    assert "Evaluation on csv" in text
    assert str(run) in text
    assert 'id="worst"' in text


def test_a_page_that_fails_costs_a_warning(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(_: object) -> str:
        raise KeyError("something was lost")

    monkeypatch.setattr(page, "build_page", fail)
    folder = RunFolder(tmp_path / "run").create()
    folder.page.write_text("old", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        metrics = train(make_config("model=mean", "modalities=[]", "baselines=[]", llm_settings=False), folder.root)
    assert metrics
    assert folder.read_summary()["finished"]
    assert not folder.page.exists()
    assert "report.html could not be made: KeyError: 'something was lost'" in caplog.text


def test_facts_of_the_run_are_told(tmp_path: Path):
    folder = write_run(tmp_path / "2026_made", records(40, "smiles", molecules(40)))
    (folder.root / ".hydra").mkdir()
    (folder.root / ".hydra" / "overrides.yaml").write_text("- data.path=a b.csv\n- seed=3\n", encoding="utf-8")
    shown = io.StringIO()
    written = page.add_page(folder, records(40, "smiles", molecules(40)), Console(file=shown, width=300))
    assert written == folder.page
    assert f"the run's page: {folder.page}" in shown.getvalue()
    text = folder.page.read_text(encoding="utf-8")
    for expected in (
        *("python train.py &#x27;data.path=a b.csv&#x27; seed=3", "2 members, seeds 3, 4", "1 h 2 min", "1 min 1 s"),
        *("90% asked, 91.2% of the test rows held", "10, 4 trained", "CC0", "nobody, 2020", "2026_made"),
        *("2 rows were rejected", '<td>no volume</td><td class="number" data-value="2">2</td>', "no volume: flat"),
    ):
        assert expected in text, expected


def test_validation_rows_are_shown_where_nothing_is_tested(tmp_path: Path):
    table = records(5, "smiles", molecules(5))
    folder = write_run(tmp_path, table)
    known = pq.read_table(folder.predictions)
    place = known.column_names.index("split")
    pq.write_table(known.set_column(place, "split", pa.array(["val"] * 5)), folder.predictions)
    page.write_page(folder, table)
    assert "5 val rows" in folder.page.read_text(encoding="utf-8")


def test_a_missing_file_is_an_error_of_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = records(5, "smiles", molecules(5))
    folder = write_run(tmp_path, table)
    folder.predictions.unlink()
    with pytest.raises(FileNotFoundError):
        page.write_page(folder, table)
    assert page.add_page(folder, table) is None
    assert "FileNotFoundError" in caplog.text


def test_structures_beyond_the_room_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    crystal = make_crystal(np.eye(3) * 3, [6, 14], [[0, 0, 0], [0.5, 0.5, 0.5]]).to_json()
    table = records(60, "structure", [crystal] * 60)
    folder = write_run(tmp_path, table)
    page.write_page(folder, table)
    whole = folder.page.read_text(encoding="utf-8")
    assert "CSi" in whole
    assert "left out" not in whole
    monkeypatch.setattr(structures, "ROOM_CHARACTERS", 1_000)
    page.write_page(folder, table)
    assert "structures are left out for the size of the page" in folder.page.read_text(encoding="utf-8")


def test_a_large_run_is_quick_and_small(tmp_path: Path):
    chains = ["C" * (n % 40 + 1) + "N" * (n % 7 + 1) + "C(=O)OC1CCCCC1" for n in range(13_000)]
    table = records(13_000, "smiles", chains)
    folder = write_run(tmp_path, table)
    started = time.monotonic()
    page.write_page(folder, table)
    assert time.monotonic() - started < TIME_LIMIT_SECONDS
    assert folder.page.stat().st_size < SIZE_LIMIT_BYTES
    text = folder.page.read_text(encoding="utf-8")
    assert "13,000 test rows" in text
    assert text.count("<tr tabindex") == 150
