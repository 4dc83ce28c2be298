"""``explain=modalities`` of saved models: attention to modalities where there is any, else a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import MakeConfig
from test_hybrid_run import BRIEF, NARROW, SMALL, crystals

from crystalfm.report.page.explained import read_explanations
from crystalfm.run.evaluate import evaluate
from crystalfm.run.explaining import modalities as explaining
from crystalfm.run.explaining.attention import attention_to_modalities
from crystalfm.run.network import build_datamodule
from crystalfm.run.saved import SavedPredictor
from crystalfm.run.train import train

__all__ = ["crystals"]

NAMES = ["smiles", "fingerprint"]


def explained(make_config: MakeConfig, tmp_path: Path, run: Path) -> Path:
    asked = [f"ckpt={run}", "trainer=cpu", "explain=modalities"]
    evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "evaluation")
    return tmp_path / "evaluation" / "explanations"


def by_hand(make_config: MakeConfig, run: Path) -> list[np.ndarray]:
    """Shares of each test row in each layer, (N, L, M) a member: straight from the networks, a batch of all."""
    saved = SavedPredictor(str(run), make_config(f"ckpt={run}", "trainer=cpu", config="evaluate", tiny=False))
    prepared = saved.prepare(all_rows=False)
    found = []
    for module in saved.networks:
        (batch,) = build_datamodule(saved.cfg, prepared).loader(prepared.splits.test)
        with torch.no_grad():
            weights, _, present = module.eval().network.attention(batch)
        assert present.all()
        found.append(weights.mean(dim=2).numpy())
    return found


def test_attention_of_a_fusion_stands_beside_the_worth(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_config("trainer.max_epochs=1", "llm.num_layers=2"), run)
    folder = explained(make_config, tmp_path, run)
    (expected,) = by_hand(make_config, run)
    with (folder / "modalities_attention.csv").open(newline="") as stream:
        layers = list(csv.DictReader(stream))
    assert [(row["layer"], row["modality"]) for row in layers] == [(n, name) for name in NAMES for n in ("1", "2")]
    shares = np.array([float(row["attention"]) for row in layers]).reshape(2, 2).T
    np.testing.assert_allclose(shares, expected.mean(axis=0), rtol=1e-5)
    content = json.loads((folder / "modalities.json").read_text())
    assert content["attention"]["rows"] == len(expected) == content["rows"]
    for row in content["modalities"]:
        column = NAMES.index(row["modality"])
        assert row["attention"] == pytest.approx(shares[-1, column])
        assert (row["attention_even"], row["rollout_even"]) == (pytest.approx(0.5), pytest.approx(0.5))
        assert 0 < row["rollout"] < 1
    assert "attention" in (folder / "modalities.csv").read_text().partition("\n")[0].split(",")
    assert (folder / "modalities_attention.png").stat().st_size > 10_000
    (shown,) = read_explanations(folder)
    assert shown.html.count("<img") == 2
    assert "is where the model looks, not what its answer rests on" in shown.html


def test_attention_is_measured_on_few_rows_and_over_all_members(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(make_config("trainer.max_epochs=1", "ensemble=2"), run)
    saved = SavedPredictor(str(run), make_config(f"ckpt={run}", "trainer=cpu", config="evaluate", tiny=False))
    prepared = saved.prepare(all_rows=False)
    found, rows = attention_to_modalities(saved, prepared, prepared.splits.test)
    first, second = by_hand(make_config, run)
    assert not np.allclose(first.mean(axis=0), second.mean(axis=0))
    mean = (first.mean(axis=0) + second.mean(axis=0)) / 2
    np.testing.assert_allclose([item.layers[-1] for item in found], mean[-1], rtol=1e-5)
    assert rows == len(prepared.splits.test) > 3
    monkeypatch.setattr(explaining, "ATTENTION_ROWS", 3)
    folder = explained(make_config, tmp_path, run)
    content = json.loads((folder / "modalities.json").read_text())
    assert (content["attention"]["rows"], content["rows"]) == (3, rows)


def check_nothing_is_shown(folder: Path, printed: str) -> None:
    assert "without attention: there is none to show" in " ".join(printed.split())
    content = json.loads((folder / "modalities.json").read_text())
    assert (content["attention"]["rows"], content["attention"]["layers"]) == (0, [])
    assert "attention" not in (folder / "modalities.csv").read_text()
    assert not list(folder.glob("modalities_attention.*"))
    (shown,) = read_explanations(folder)
    assert "This model fuses its modalities without attention" in shown.html


def test_a_concatenation_has_no_attention_and_says_so(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["model=hybrid", "data=jarvis", f"data.path={crystals}", *NARROW, *BRIEF, *SMALL]
    train(make_config(*data, "modalities=[crystal_graph,composition]", tiny=False), tmp_path / "run")
    check_nothing_is_shown(explained(make_config, tmp_path, tmp_path / "run"), capsys.readouterr().out)


def test_a_classical_model_has_no_attention_and_says_so(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xgboost", reason="needs xgboost")
    train(make_config("model=xgboost", llm_settings=False), tmp_path / "run")
    check_nothing_is_shown(explained(make_config, tmp_path, tmp_path / "run"), capsys.readouterr().out)
