"""The hybrid from crystals to predictions: its modes, end-to-end training, and baselines of compositions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_helpers import MakeConfig
from safetensors.torch import load_file

from crystalfm.chem.description_process import Outcome
from crystalfm.cli.main import main
from crystalfm.contracts import UserError
from crystalfm.data.descriptions import DescribedCrystals
from crystalfm.io.checkpoints import find_checkpoint, read_checkpoint
from crystalfm.run.api import load
from crystalfm.run.evaluate import evaluate
from crystalfm.run.predict import predict
from crystalfm.run.train import train

pytest.importorskip("pymatgen", reason="needs pymatgen")

TARGET = "formation_energy_peratom"
NARROW = (
    "encoders.crystal_graph.alignn_layers=1",
    "encoders.crystal_graph.gcn_layers=1",
    "encoders.crystal_graph.hidden_features=8",
)
BRIEF = ("trainer=cpu", "trainer.max_epochs=2", "data.batch_size=4", "callbacks.progress_bar=false")
SMALL = ("model.width=8", "model.num_layers=1", "model.num_members=2")
TEXTS = ("data.description=chemnlp", "encoder@encoders.description=bert")


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Twenty-four cubes of two salts as JARVIS-DFT records."""
    rows = []
    for row in range(24):
        edge = 4.0 + 0.07 * row
        atoms = {
            "lattice_mat": (edge * np.eye(3)).tolist(), "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
            "elements": [("Na", "K")[row % 2], "Cl"], "abc": [edge] * 3, "angles": [90] * 3, "cartesian": False,
            "props": ["", ""],
        }  # fmt: skip
        rows.append({"jid": f"JVASP-{row}", "atoms": atoms, TARGET: -1.0 - 0.05 * row})
    path = tmp_path / "dft_3d.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror with a tiny BERT in Hugging Face's own format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path / "mirror"
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *"abcdefgh0123456789"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "bert")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder / "bert")
    return folder


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the generators, which take seconds to import: the first digits of the lattice."""

    def describe(cfg: Any, structures: list[str]) -> DescribedCrystals:
        outcomes = [Outcome(f"cubic, {json.loads(text)['lattice'][0][0]:.3f}") for text in structures]
        return DescribedCrystals(outcomes, 0, len(outcomes), 0.0)

    monkeypatch.setattr("crystalfm.run.descriptions.describe", describe)


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["metrics"]["test"]
    return found


def again(make_config: MakeConfig, tmp_path: Path, *overrides: str) -> float:
    """The test error of the run, computed anew from its checkpoint (and weights of a frozen text encoder)."""
    cfg = make_config(f"ckpt={tmp_path / 'run'}", "trainer=cpu", *overrides, config="evaluate", tiny=False)
    return evaluate(cfg, tmp_path / "evaluation")[f"mae_{TARGET}_eV_per_atom"]


@pytest.mark.parametrize("predictor", ["small", "residual"])
def test_both_encoders_are_trained_end_to_end(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, mirror: Path, predictor: str
) -> None:
    overrides = [
        *("model=hybrid", f"model.predictor={predictor}", "data=jarvis", f"data.path={crystals}", *TEXTS, *NARROW),
        *("modalities=[crystal_graph,description,composition]", "encoders.description.frozen=false", *BRIEF, *SMALL),
    ]
    cfg = make_config(*overrides, f"paths.mirror={mirror}", "optimizer.lr=1e-3", tiny=False)
    metrics = train(cfg, tmp_path / "run")
    weights = read_checkpoint(find_checkpoint(tmp_path / "run"))["state_dict"]
    published = next((mirror / "bert").glob("*.safetensors"))
    before = load_file(published)
    name = "encoder.layer.0.output.dense.weight"
    (key,) = [key for key in weights if key.startswith("encoders.description") and key.endswith(name)]
    assert not torch.equal(weights[key], before[name])
    assert any(key.startswith("encoders.crystal_graph.") for key in weights)
    assert any(key.startswith("encoders.composition.") for key in weights)
    assert again(make_config, tmp_path) == pytest.approx(metrics[f"test/mae_{TARGET}_eV_per_atom"], rel=1e-4)


@pytest.mark.parametrize("mode", ["hybrid", "gnn_only", "llm_only", "fusion", "paper"])
def test_modes_with_frozen_encoders(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, mirror: Path, mode: str
) -> None:
    data = ("data=jarvis", f"data.path={crystals}")
    train(make_config("model=alignn", *data, *NARROW, *BRIEF, tiny=False), tmp_path / "source")
    overrides = [f"mode={mode}", *data, *TEXTS, *BRIEF, f"encoders.crystal_graph.weights={tmp_path / 'source'}"]
    overrides += ["encoders.description.max_length=64", f"paths.mirror={mirror}"]
    overrides += ["llm.width=8", "llm.num_layers=1", "llm.num_heads=2"] if mode == "fusion" else []
    overrides += [] if mode in {"paper", "fusion"} else [*SMALL]
    metrics = train(make_config(*overrides, tiny=False), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    frozen = {encoder["modality"]: encoder["frozen"] for encoder in summary["model"]["encoders"]}
    assert frozen.get("crystal_graph", True)
    assert frozen.get("description", True)
    wanted = {"gnn_only": {"crystal_graph"}, "llm_only": {"description"}}
    assert frozen.keys() - {"composition"} == wanted.get(mode, {"crystal_graph", "description"})
    found = again(make_config, tmp_path, f"paths.mirror={mirror}")
    assert found == pytest.approx(metrics[f"test/mae_{TARGET}_eV_per_atom"], rel=1e-4)


def test_a_hybrid_is_exported_with_its_graph_network_and_without_its_text_encoder(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, mirror: Path
) -> None:
    data = ("data=jarvis", f"data.path={crystals}")
    train(make_config("model=alignn", *data, *NARROW, *BRIEF, tiny=False), tmp_path / "source")
    overrides = ["mode=hybrid", *data, *TEXTS, *BRIEF, *SMALL, f"encoders.crystal_graph.weights={tmp_path / 'source'}"]
    overrides += ["encoders.description.max_length=64", f"paths.mirror={mirror}"]
    train(make_config(*overrides, tiny=False), tmp_path / "run")
    out, paths = tmp_path / "out", [f"paths.mirror={mirror}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["export", str(tmp_path / "run"), f"out={out}", *paths]) == 0
    tensors = load_file(out / "encoders.safetensors")
    assert tensors
    assert all(name.startswith("encoders.crystal_graph.weights.") for name in tensors)
    assert "`bert` (`python -m crystalfm.fetch bert`), SHA-256" in (out / "README.md").read_text()
    (tmp_path / "source").rename(tmp_path / "gone")
    atoms = [record["atoms"] for record in json.loads(crystals.read_text())[:3]]
    one, two = (load(tmp_path / name, accelerator="cpu", mirror=mirror) for name in ("out", "run"))
    assert np.array_equal(one.predict(atoms).values, two.predict(atoms).values)
    probes = json.loads((out / "reference.json").read_text())["inputs"]
    assert all(probe["description"].startswith("cubic, ") for probe in probes)
    weights = f"encoders.crystal_graph.weights={out}"
    with pytest.raises(UserError, match="an exported predictor and holds no checkpoint"):
        train(make_config("model=alignn", *data, *NARROW, *BRIEF, weights, tiny=False), tmp_path / "other")


def test_predicts_new_crystals_without_the_source_network(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    data = ("data=jarvis", f"data.path={crystals}")
    source = tmp_path / "source"
    train(make_config("model=alignn", *data, *NARROW, *BRIEF, tiny=False), source)
    overrides = ["mode=gnn_only", *data, *BRIEF, *SMALL, f"encoders.crystal_graph.weights={source}"]
    train(make_config(*overrides, "modalities=[crystal_graph,composition]", tiny=False), tmp_path / "run")
    source.rename(tmp_path / "gone")
    (tmp_path / "POSCAR").write_text("KCl\n1\n5.3 0 0\n0 5.3 0\n0 0 5.3\nK Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n")
    output = tmp_path / "predictions.csv"
    inputs = (f"ckpt={tmp_path / 'run'}", f"input={tmp_path / 'POSCAR'}", f"output={output}", "trainer=cpu")
    found = predict(make_config(*inputs, config="predict", tiny=False))
    assert (found["predicted"], found["rejected"]) == (1, 0)
    assert TARGET in output.read_text()


def test_trees_on_compositions(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    overrides = ["model=xgboost", "data=jarvis", f"data.path={crystals}", "model.num_trees=5", "trainer=cpu"]
    cfg = make_config(*overrides, "modalities=[composition]", tiny=False)
    metrics = train(cfg, tmp_path / "run")
    assert again(make_config, tmp_path) == pytest.approx(metrics[f"test/mae_{TARGET}_eV_per_atom"], rel=1e-4)


def test_baselines_of_crystals_look_at_compositions(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    overrides = ["model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, *BRIEF, "baselines=[xgboost,mean]"]
    train(make_config(*overrides, tiny=False), tmp_path / "run")
    assert scores(tmp_path / "run").keys() == {"alignn", "xgboost (composition)", "mean"}
