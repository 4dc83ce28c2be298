"""Cards of finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from run_helpers import MakeConfig

from crystalfm.cli.main import main
from crystalfm.contracts import UserError
from crystalfm.run.card import run_card
from crystalfm.run.train import train


def test_a_card_says_what_the_run_measured(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_config("trainer.max_epochs=1", "baselines=[mean]"), run)
    summary = json.loads((run / "summary.json").read_text())
    text = run_card(str(run))
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "crystalfm"
    (model,) = head["model-index"]
    scores = summary["metrics"]["test"][summary["model"]["name"]]
    found = {metric["name"]: metric["value"] for result in model["results"] for metric in result["metrics"]}
    assert found["MAE of energy (eV)"] == scores["energy"]["mae"]
    assert found["RMSE of gap (Ha)"] == scores["gap"]["rmse"]
    assert "smiles (tokens); fingerprint (morgan)" in body
    assert body.count("| gap (Ha) |") == 2  # the model and the baseline
    assert f"seed {summary['seed']}" in body
    assert "your own data" in body
    assert 'predict(["CCO"])' in body
    assert str(tmp_path) not in text


def test_the_command_writes_a_file(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(make_config("model=mean", "modalities=auto"), run)
    assert main(["card", str(run), f"output={tmp_path / 'README.md'}"]) == 0
    assert (tmp_path / "README.md").read_text() == run_card(str(run))
    assert main(["card", str(run)]) == 0
    assert "## Intended use and limits" in capsys.readouterr().out
    assert main(["card"]) == 0
    assert main(["card", str(run), "b"]) == 2


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    for content in (None, "{}", "nothing"):
        if content is not None:
            (tmp_path / "summary.json").write_text(content)
            (tmp_path / "config.yaml").write_text("data: {}")
        with pytest.raises(UserError, match="no finished run of a predictor"):
            run_card(str(tmp_path))
