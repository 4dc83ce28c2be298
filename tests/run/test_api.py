"""`crystalfm.load(run).predict([...])`: the same numbers as the command, for molecules and crystals."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_helpers import MakeConfig

import crystalfm
from crystalfm.contracts import UserError
from crystalfm.run import network
from crystalfm.run.predict import predict
from crystalfm.run.train import train

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
def run(make_config: MakeConfig, tmp_path: Path) -> Path:
    """A finished run on molecules."""
    folder = tmp_path / "run"
    train(make_config("trainer.max_epochs=1"), folder)
    return folder


def load(run: Path, tmp_path: Path) -> crystalfm.Predictor:
    return crystalfm.load(run, accelerator="cpu", cache=tmp_path / "cache")


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, crystalfm; print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'numpy', 'hydra'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not hasattr(crystalfm, "lood")


def test_molecules_have_the_values_that_the_command_writes(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    smiles = ["CCO", "C1CC", "CCCN", "not_a_smiles", "CO"]
    predictor = load(run, tmp_path)
    found = predictor.predict(smiles)
    assert (found.values.shape, found.values.dtype) == ((5, 2), np.float64)
    assert [target.name for target in predictor.targets] == ["energy", "gap"]
    assert predictor.modalities == ["smiles", "fingerprint"]
    assert found.units == {"energy": "eV", "gap": "hartree"}
    assert [item.index for item in found.rejected] == [1, 3]
    assert all(item.reason for item in found.rejected)
    assert np.isnan(found.values[[1, 3]]).all()
    source, output = tmp_path / "in.smi", tmp_path / "out.csv"
    source.write_text("\n".join(smiles))
    predict(make_config(f"ckpt={run}", f"input={source}", f"output={output}", config="predict", tiny=False))
    with output.open() as stream:
        written = {(int(row["id"]), row["target"]): float(row["value"]) for row in csv.DictReader(stream)}
    assert sorted({row for row, _ in written}) == [0, 2, 4]
    for (row, name), value in written.items():
        column = ["energy", "gap"].index(name)
        assert found.values[row, column] == pytest.approx(value, rel=1e-5)


def test_the_network_is_built_once_however_often_it_predicts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    original = network.restore_network
    monkeypatch.setattr(network, "restore_network", lambda *given: built.append(1) or original(*given))
    predictor = load(run, tmp_path)
    first = predictor.predict(["CCO", "CCCN"])
    again = predictor.predict(["CCCN"])
    assert built == [1]
    assert again.values[0] == pytest.approx(first.values[1], rel=1e-4)
    assert predictor.predict(["CCO", "CCCN"]).values.tolist() == first.values.tolist()


def test_tables_of_predictions(run: Path, tmp_path: Path) -> None:
    found = load(run, tmp_path).predict([{"smiles": "CCO"}, 3])
    assert len(found) == 2
    columns = found.to_dict()
    assert list(columns) == ["id", "energy_eV", "gap_hartree"]
    assert columns["gap_hartree"][0] == found.values[0, 1]
    table = found.to_pandas()
    assert table.shape == (2, 3)
    assert table["gap_hartree"].isna().tolist() == [False, True]


def test_nothing_in_nothing_out(run: Path, tmp_path: Path) -> None:
    predictor = load(run, tmp_path)
    assert predictor.predict([]).values.shape == (0, 2)
    assert np.isnan(predictor.predict(["?"]).values).all()
    with pytest.raises(TypeError, match="a list of inputs"):
        predictor.predict("CCO")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        crystalfm.load(tmp_path)


def test_twenty_crystals_two_of_them_broken(make_config: MakeConfig, tmp_path: Path) -> None:
    pymatgen = pytest.importorskip("pymatgen.core.structure")
    edges = [4.0 + 0.07 * row for row in range(24)]
    records = [{"structure": poscar(edge), "name": f"c{row}", "y": -edge} for row, edge in enumerate(edges)]
    source = tmp_path / "crystals.jsonl"
    source.write_text("\n".join(json.dumps(record) for record in records))
    run = tmp_path / "run"
    data = ("data=folder", f"data.path={source}", "data.targets=[y]", "data.units={y: eV}")
    train(make_config("model=alignn", *data, *NARROW, tiny=False), run)
    structures = [pymatgen.Structure.from_str(poscar(edge + 0.01), fmt="poscar") for edge in edges[:20]]
    inputs = [*structures[:5], poscar(4.0)[:40], *structures[6:12], poscar(4.0).replace("Na", "Qq"), *structures[13:20]]
    predictor = load(run, tmp_path)
    found = predictor.predict(inputs)
    assert predictor.takes_crystals
    assert found.values.shape == (20, 1)
    assert [item.index for item in found.rejected] == [5, 12]
    assert np.isfinite(found.values).sum() == 18
    folder = tmp_path / "structures"
    folder.mkdir()
    for number, item in enumerate(inputs):
        (folder / f"POSCAR_{number:02}").write_text(item if isinstance(item, str) else item.to(fmt="poscar"))
    output = tmp_path / "out.csv"
    given = (f"ckpt={run}", f"input={folder}", f"output={output}", "trainer=cpu")
    counts = predict(make_config(*given, config="predict", tiny=False))
    assert (counts["predicted"], counts["rejected"]) == (18, 2)
    with output.open() as stream:
        written = [float(row["value"]) for row in csv.DictReader(stream)]
    assert written == pytest.approx(found.values[np.isfinite(found.values)].tolist(), rel=1e-4)


def poscar(edge: float) -> str:
    return f"NaCl\n1\n{edge} 0 0\n0 {edge} 0\n0 0 {edge}\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
