"""ALIGNN from crystals to predictions: trained, evaluated from its checkpoint alone, and in LLM-Fusion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_helpers import MakeConfig

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
