"""What a run leaves behind, and what can be done with it."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from run_helpers import MakeConfig

from crystalfm.contracts import UserError
from crystalfm.run.evaluate import evaluate
from crystalfm.run.predict import predict
from crystalfm.run.train import train

READ_ALONE = """
import sys, torch
loaded = torch.load(sys.argv[1], weights_only=True)
assert "crystalfm" not in sys.modules
print(sorted(loaded["crystalfm"]))
"""


@pytest.fixture
def run(make_config: MakeConfig, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    train(make_config("baselines=[xgboost,mean]", "trainer.max_epochs=3"), folder)
    return folder


def test_every_file_of_the_contract_is_there(run: Path) -> None:
    for name in ("config.yaml", "split.json", "rejected.csv", "metrics.csv", "predictions.parquet", "summary.json"):
        assert (run / name).is_file(), name
    for name in ("parity.png", "learning_curve.png", "comparison.png"):
        assert (run / "figures" / name).read_bytes().startswith(b"\x89PNG"), name
    assert not list(run.rglob("*.tmp"))
    assert "hydra" not in yaml.safe_load((run / "config.yaml").read_text())


def test_predictions_hold_every_val_and_test_id_once_in_input_order(run: Path, molecule_csv: Path) -> None:
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    split = json.loads((run / "split.json").read_text())
    held_out = set(split["val"]) | set(split["test"])
    with molecule_csv.open() as stream:
        order = [row["name"] for row in csv.DictReader(stream)]
    assert table["id"] == [name for name in order if name in held_out]
    assert all(
        split_name == ("val" if name in split["val"] else "test")
        for name, split_name in zip(table["id"], table["split"], strict=True)
    )
    assert np.isfinite(table["gap_hartree_predicted"]).all()


def test_summary_metrics_follow_from_the_predictions(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    test = [index for index, name in enumerate(table["split"]) if name == "test"]
    error = [abs(table["gap_hartree_true"][i] - table["gap_hartree_predicted"][i]) for i in test]
    metrics = summary["metrics"]["test"]
    assert math.isclose(metrics["llm_fusion"]["gap"]["mae"], sum(error) / len(error), rel_tol=1e-9)
    assert math.isclose(
        metrics["llm_fusion"]["gap"]["mae_ev"], metrics["llm_fusion"]["gap"]["mae"] * 27.211386245988, rel_tol=1e-9
    )
    assert metrics["mean"].keys() == metrics["llm_fusion"].keys()
    assert metrics["xgboost (fingerprint)"]["gap"]["num_rows"] == len(test)
    assert summary["data"]["split_sizes"] == {"train": 48, "val": 6, "test": 6}


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_checkpoint_opens_safely_without_crystalfm(run: Path, name: str) -> None:
    command = [sys.executable, "-c", READ_ALONE, str(run / "checkpoints" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "encoders" in done.stdout


def test_evaluate_repeats_the_test_metrics(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(f"ckpt={run}", config="evaluate", tiny=False)
    metrics = evaluate(cfg, tmp_path / "evaluation")
    summary = json.loads((run / "summary.json").read_text())
    assert metrics["mae_gap_hartree"] == pytest.approx(summary["metrics"]["test"]["llm_fusion"]["gap"]["mae"], rel=1e-6)


def test_evaluate_works_from_a_file_far_from_its_run(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.ckpt"
    moved.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    metrics = evaluate(make_config(f"ckpt={moved}", config="evaluate", tiny=False), tmp_path / "evaluation")
    summary = json.loads((run / "summary.json").read_text())
    assert metrics["mae_energy_eV"] == pytest.approx(
        summary["metrics"]["test"]["llm_fusion"]["energy"]["mae"], rel=1e-6
    )


def test_predict_one_molecule(run: Path, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    result = predict(make_config(f"ckpt={run}", "input=CCO", config="predict", tiny=False))
    lines = capsys.readouterr().out.splitlines()
    assert result["predicted"] == 1
    assert lines[0] == "id,target,value,unit"
    assert [line.split(",")[1] for line in lines[1:]] == ["energy", "gap"]
    assert lines[2].endswith("hartree")


def test_predictions_do_not_depend_on_the_company(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    def values(text: str) -> dict[str, float]:
        source, output = tmp_path / "in.smi", tmp_path / "out.csv"
        source.write_text(text)
        predict(make_config(f"ckpt={run}", f"input={source}", f"output={output}", config="predict", tiny=False))
        with output.open() as stream:
            return {f"{row['id']}/{row['target']}": float(row["value"]) for row in csv.DictReader(stream)}

    alone = values("CCO a\n")
    together = values("CCCCCCCCO x\nCCO a\nN y\n")
    assert together["a/gap"] == pytest.approx(alone["a/gap"], rel=1e-4)
    assert list(together) == ["x/energy", "x/gap", "a/energy", "a/gap", "y/energy", "y/gap"]


def test_bad_rows_are_rejected_with_their_reason(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("key,smiles\n" + "\n".join(f"k{i},{'C' * (i + 1)}" for i in range(199)) + "\nbad,C1CC\n")
    output = tmp_path / "out" / "p.csv"
    result = predict(
        make_config(f"ckpt={run}", f"input={source}", f"output={output}", "id_column=key", config="predict", tiny=False)
    )
    assert (result["predicted"], result["rejected"]) == (199, 1)
    rejected = (output.parent / "rejected.csv").read_text()
    assert "bad" in rejected
    assert "C1CC" in rejected


def test_too_many_bad_rows_stop_the_prediction(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    source = tmp_path / "in.smi"
    source.write_text("CCO\nnot_a_smiles\nCC\n")
    limit = "max_rejected_fraction=0.3"
    with pytest.raises(UserError, match="1 of 3 rows"):
        predict(make_config(f"ckpt={run}", f"input={source}", limit, config="predict", tiny=False))


def test_classical_models_leave_the_same_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = ["model=xgboost", "modalities=[fingerprint]", "model.num_trials=2", "model.num_trees=20"]
    train(make_config(*overrides), folder)
    assert (folder / "trials.csv").read_text().count("\n") == 1 + 2 * 3
    metrics = evaluate(make_config(f"ckpt={folder}", config="evaluate", tiny=False), tmp_path / "evaluation")
    summary = json.loads((folder / "summary.json").read_text())
    assert metrics["mae_gap_hartree"] == pytest.approx(summary["metrics"]["test"]["xgboost"]["gap"]["mae"], rel=1e-9)
    assert predict(make_config(f"ckpt={folder}", "input=CCN", config="predict", tiny=False))["predicted"] == 1


def test_a_damaged_checkpoint_is_named(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    whole = (run / "checkpoints" / "best.ckpt").read_bytes()
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.ckpt cannot be read"):
        evaluate(make_config(f"ckpt={cut}", config="evaluate", tiny=False), tmp_path / "evaluation")


def test_a_network_is_refused_as_a_baseline_before_anything_starts(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llm_fusion is no classical model") as caught:
        train(make_config("baselines=[llm_fusion]"), tmp_path / "run")
    assert "mean, xgboost" in str(caught.value)
    assert not (tmp_path / "run").exists()
