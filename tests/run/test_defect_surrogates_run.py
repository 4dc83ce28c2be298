"""Surrogates of defects from a release to predictions of bare structures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_helpers import MakeConfig

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.enumeration import random_configurations
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.cli.main import main
from crystalfm.config.build import resolve_modalities
from crystalfm.run.api import load
from crystalfm.run.build import construct
from crystalfm.run.evaluate import evaluate
from crystalfm.run.train import train
from defect_release import write_release

NARROW = (
    "encoders.defect_graph.alignn_layers=1",
    "encoders.defect_graph.gcn_layers=1",
    "encoders.defect_graph.hidden_features=8",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "data.batch_size=8",
    "callbacks.progress_bar=false",
)
TREES = ("modalities=[defects]", "model.num_trees=20", "model.num_threads=1")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def new_configurations(size: tuple[int, int, int], count: int = 2) -> list[Configuration]:
    supercell = Supercell(HOSTS["MoS2"], size)
    return random_configurations(supercell, parse_rules(["v_S", "Se_S"]), count, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    "settings", [("model=catboost", *TREES), ("model=xgboost", "model.num_trees=20"), ("model=alignn", *NARROW)]
)
def test_trains_evaluates_and_predicts_bare_structures(
    make_config: MakeConfig, tmp_path: Path, release: Path, settings: tuple[str, ...]
) -> None:
    if "model=catboost" in settings:
        pytest.importorskip("catboost", reason="the package catboost is not installed")
    cfg = make_config(*settings, "data=2dmd", f"data.path={release}", tiny=False)
    metrics = train(cfg, tmp_path / "run")
    again = evaluate(
        make_config(f"ckpt={tmp_path / 'run'}", "trainer=cpu", config="evaluate", tiny=False), tmp_path / "evaluation"
    )
    name = "mae_formation_energy_per_site_eV"
    assert again[name] == pytest.approx(metrics[f"test/{name}"], rel=1e-5)

    cells = [Supercell(HOSTS["MoS2"], size) for size in ((4, 4, 1), (5, 5, 1))]
    asked = [one.crystal(cell) for cell in cells for one in new_configurations(cell.size)]
    predictor = load(tmp_path / "run", accelerator="cpu")
    found = predictor.predict(asked)
    assert predictor.takes_crystals
    assert not found.rejected
    assert np.isfinite(found.values).all()


def test_structures_that_a_model_cannot_know_are_rejected_with_the_reason(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    train(make_config("model=xgboost", *TREES, "data=2dmd", f"data.path={release}", tiny=False), tmp_path / "run")
    cell, other = Supercell(HOSTS["MoS2"], (4, 4, 1)), Supercell(HOSTS["WSe2"], (4, 4, 1))
    known = new_configurations(cell.size)[0]
    oxygen = Configuration(((cell.site(1, 0, 0), 8),))
    moved = known.crystal(cell)
    moved.frac_coords[0] += 0.05
    selenium = Configuration(((other.site(1, 0, 0), 0),))
    pristine = Configuration(())
    structures = [known.crystal(cell), oxygen.crystal(cell), selenium.crystal(other), pristine.crystal(cell), moved]
    found = load(tmp_path / "run", accelerator="cpu").predict(structures)
    assert np.isfinite(found.values[:, 0]).tolist() == [True, False, False, False, False]
    assert [item.index for item in found.rejected] == [1, 2, 3, 4]
    reasons = ("defect O_S", "defect v_Se", "pristine MoS2", "known host")
    for item, reason in zip(found.rejected, reasons, strict=True):
        assert reason in item.reason


def test_an_exported_surrogate_is_checked_by_defects_that_it_knows(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    train(make_config("model=xgboost", *TREES, "data=2dmd", f"data.path={release}", tiny=False), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), f"out={tmp_path / 'out'}", f"paths.cache={tmp_path / 'cache'}"]) == 0
    reference = json.loads((tmp_path / "out" / "reference.json").read_text())
    assert all(value is not None for row in reference["values"] for value in row)
    cell = Supercell(HOSTS["MoS2"], (4, 4, 1))
    asked = [one.crystal(cell) for one in new_configurations(cell.size)]
    one, two = (load(tmp_path / name, accelerator="cpu").predict(asked) for name in ("out", "run"))
    assert np.array_equal(one.values, two.values)


def test_equivalent_structures_are_predicted_alike(make_config: MakeConfig, tmp_path: Path, release: Path) -> None:
    from crystalfm.chem.defects.symmetry import site_permutations

    train(make_config("model=xgboost", *TREES, "data=2dmd", f"data.path={release}", tiny=False), tmp_path / "run")
    cell = Supercell(HOSTS["MoS2"], (4, 4, 1))
    one = new_configurations(cell.size, count=3)[0]
    asked = [one.moved(permutation).crystal(cell) for permutation in site_permutations(cell)[::29]]
    assert len(np.unique(load(tmp_path / "run", accelerator="cpu").predict(asked).values)) == 1


def test_a_model_of_one_view_takes_the_sparse_graph_of_defects(make_config: MakeConfig, release: Path) -> None:
    cfg = make_config("model=alignn", "data=2dmd", f"data.path={release}", tiny=False)
    assert resolve_modalities(cfg, construct(cfg.data).spec()) == ["defect_graph"]
    other = make_config("model=alignn", "data=jarvis", tiny=False)
    assert resolve_modalities(other, construct(other.data).spec()) == ["crystal_graph"]
