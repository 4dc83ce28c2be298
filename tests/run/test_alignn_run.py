"""ALIGNN from crystals to predictions: trained, evaluated from its checkpoint alone, and in LLM-Fusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import MakeConfig, last_state
from test_resume import assert_same_training, interrupt_at

from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import PAYLOAD_KEY, find_checkpoint, read_checkpoint
from crystalfm.run.api import load
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.evaluate import evaluate
from crystalfm.run.predict import predict
from crystalfm.run.train import train

pytest.importorskip("pymatgen", reason="needs pymatgen")

NARROW = (
    "encoders.crystal_graph.alignn_layers=1",
    "encoders.crystal_graph.gcn_layers=1",
    "encoders.crystal_graph.hidden_features=8",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "data.batch_size=4",
    "callbacks.progress_bar=false",
)


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Twenty-four cubes of rock salt as JARVIS-DFT records."""
    rows = []
    for row in range(24):
        edge = 4.0 + 0.07 * row
        lattice = (edge * np.eye(3)).tolist()
        atoms = {
            "lattice_mat": lattice, "coords": [[0, 0, 0], [0.5, 0.5, 0.5]], "elements": ["Na", "Cl"],
            "abc": [edge] * 3, "angles": [90] * 3, "cartesian": False, "props": ["", ""],
        }  # fmt: skip
        rows.append({"jid": f"JVASP-{row}", "atoms": atoms, "formation_energy_peratom": -1.0 - 0.05 * row})
    path = tmp_path / "dft_3d.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("model", [("model=alignn",), ("model=llm_fusion", "modalities=[crystal_graph]")])
def test_trains_and_predicts_again_from_the_checkpoint(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, model: tuple[str, ...]
) -> None:
    cfg = make_config(*model, "data=jarvis", f"data.path={crystals}", *NARROW, tiny=False)
    metrics = train(cfg, tmp_path / "run")
    again = evaluate(
        make_config(f"ckpt={tmp_path / 'run'}", "trainer=cpu", config="evaluate", tiny=False), tmp_path / "evaluation"
    )
    name = "mae_formation_energy_peratom_eV_per_atom"
    assert again[name] == pytest.approx(metrics[f"test/{name}"], rel=1e-5)


def test_the_mean_of_crystals_is_predicted_for_crystals(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    train(make_config("model=mean", "data=jarvis", f"data.path={crystals}", tiny=False), tmp_path / "run")
    predictor = load(tmp_path / "run", accelerator="cpu")
    assert predictor.takes_crystals
    predictions = predictor.predict([json.loads(crystals.read_text())[0]["atoms"], "no crystal"])
    assert np.isfinite(predictions.values[0]).all()
    assert [item.index for item in predictions.rejected] == [1]


def test_predicts_a_folder_of_structures(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    run = tmp_path / "run"
    train(make_config("model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, tiny=False), run)
    folder = tmp_path / "structures"
    folder.mkdir()
    for number in range(4):
        edge = 4.0 + 0.1 * number
        text = f"NaCl\n1\n{edge} 0 0\n0 {edge} 0\n0 0 {edge}\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
        (folder / f"POSCAR_{number}").write_text(text if number else text[:30])
    output = tmp_path / "predictions.csv"
    found = predict(
        make_config(f"ckpt={run}", f"input={folder}", f"output={output}", "trainer=cpu", config="predict", tiny=False)
    )
    assert (found["predicted"], found["rejected"]) == (3, 1)
    lines = output.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "POSCAR_1", "POSCAR_2", "POSCAR_3"]
    assert all(line.endswith("eV/atom") for line in lines[1:])
    assert (tmp_path / "rejected.csv").read_text().splitlines()[1].startswith("POSCAR_0,")


def test_a_run_gives_its_encoder_to_the_next_which_then_stands_alone(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    data = ("data=jarvis", f"data.path={crystals}")
    source = tmp_path / "source"
    train(make_config("model=alignn", *data, *NARROW, "encoders.crystal_graph.strategy=radius", tiny=False), source)
    weights = (f"encoders.crystal_graph.weights={source}", "encoders.crystal_graph.frozen=true")
    for model in (("model=xgboost", "modalities=[crystal_graph]"), ("model=llm_fusion", "modalities=[crystal_graph]")):
        run = tmp_path / model[0].partition("=")[2]
        metrics = train(make_config(*model, *data, *NARROW, *weights, tiny=False), run)
        saved = read_checkpoint(find_checkpoint(run))[PAYLOAD_KEY]["encoders"]["crystal_graph"]
        assert (saved["frozen"], saved["graphs"]["strategy"]) == (True, "radius")
        source.rename(tmp_path / "elsewhere")
        shutil.rmtree(Path(make_config(*data, tiny=False).paths.cache) / "embeddings")
        again = evaluate(
            make_config(f"ckpt={run}", "trainer=cpu", config="evaluate", tiny=False), tmp_path / "evaluation"
        )
        (tmp_path / "elsewhere").rename(source)
        name = "mae_formation_energy_peratom_eV_per_atom"
        assert again[name] == pytest.approx(metrics[f"test/{name}"], rel=1e-4)


def test_weights_of_a_run_are_where_training_starts(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    data = ("data=jarvis", f"data.path={crystals}", "model=alignn")
    train(make_config(*data, *NARROW, tiny=False), tmp_path / "source")
    weights = f"encoders.crystal_graph.weights={tmp_path / 'source'}"
    train(make_config(*data, *NARROW, weights, "optimizer.lr=1e-12", tiny=False), tmp_path / "run")
    ours, theirs = (read_checkpoint(find_checkpoint(tmp_path / name))["state_dict"] for name in ("run", "source"))
    names = [name for name in ours if name.startswith("encoder.") and name.endswith("weight")]
    assert names
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-7)


def test_batches_of_bounded_cost_resume_bit_for_bit(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, "trainer.log_every_n_steps=1")
    bounded = (*settings, "trainer.max_epochs=2", "data.batch_budget=1200")
    train(make_config(*settings, "trainer.max_epochs=2", tiny=False), tmp_path / "unbounded")
    train(make_config(*bounded, tiny=False), tmp_path / "whole")
    steps = [last_state(tmp_path / name)["global_step"] for name in ("unbounded", "whole")]
    assert steps[1] > 1.5 * steps[0]
    interrupt_at(monkeypatch, steps[1] // 2 + 1)
    with pytest.raises(TrainingInterruptedError):
        train(make_config(*bounded, tiny=False), tmp_path / "parts")
    interrupt_at(monkeypatch, None)
    train(make_config(*bounded, f"ckpt={tmp_path / 'parts'}", tiny=False), tmp_path / "unused")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_weights_in_its_frozen_encoder(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    data = ("data=jarvis", f"data.path={crystals}", *NARROW)
    source = tmp_path / "source"
    train(make_config("model=alignn", *data, tiny=False), source)
    frozen = (f"encoders.crystal_graph.weights={source}", "encoders.crystal_graph.frozen=true")
    fusion = ("model=llm_fusion", "modalities=[crystal_graph]", *data, *frozen)
    train(make_config(*fusion, tiny=False), tmp_path / "run")
    further = (*fusion, "trainer.max_epochs=2", f"ckpt={tmp_path / 'run'}")
    train(make_config(*further, tiny=False), tmp_path / "unused")
    shutil.rmtree(source)
    train(make_config("model=alignn", *data, "seed=7", tiny=False), source)
    with pytest.raises(UserError, match=r"encoders\.crystal_graph: the pretrained weights changed since"):
        train(make_config(*further, "trainer.max_epochs=3", tiny=False), tmp_path / "unused")
