"""Objects from configuration nodes, and the precision that ``auto`` means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import MakeConfig

from crystalfm.assets.store import AssetStore
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.models.llm_fusion import LLMFusion
from crystalfm.models.mean import MeanPredictor
from crystalfm.models.scaling import TargetScaling
from crystalfm.run.build import asset_store, build_encoders, build_module, construct, is_classical

GAP = TargetSpec("gap", "hartree")


def test_runtime_arguments_reach_only_the_classes_that_take_them() -> None:
    node = {"_target_": "crystalfm.models.mean.MeanPredictor", "name": "mean", "requires": {"modalities": []}}
    model = construct(node, targets=[GAP], store="unused", seed=3)
    assert isinstance(model, MeanPredictor)
    assert model.targets == (GAP,)


@pytest.mark.parametrize(
    "target",
    [
        "qm9.QM9",
        "chebi.ChEBI20",
        "materials_project.MaterialsProject",
        "jarvis.Jarvis",
        "cdvae.Perov5",
        "cdvae.Carbon24",
        "twodmd.TwoDMD",
    ],
)
def test_every_data_set_gets_the_store_and_the_seed(tmp_path: Path, target: str) -> None:
    store = AssetStore(tmp_path / "cache")
    dataset = construct({"_target_": f"crystalfm.data.{target}"}, store=store, seed=11)
    assert dataset.store is store
    assert dataset.drawing_seed == 11


@pytest.mark.parametrize("target", ["os.system", "torch.load", "crystalfm.models.mean.Nothing"])
def test_classes_from_elsewhere_are_refused(target: str) -> None:
    with pytest.raises(UserError):
        construct({"_target_": target})


def test_networks_and_classical_models_are_told_apart(make_config: MakeConfig) -> None:
    assert not is_classical(make_config().model)
    assert is_classical(make_config("model=xgboost").model)


def test_the_store_follows_the_paths(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    store = asset_store(make_config(f"paths.mirror={tmp_path / 'mirror'}", "paths.offline=true"))
    assert isinstance(store, AssetStore)
    assert not store.is_cached("qm9")


def test_a_module_is_built_from_typed_sections(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config("optimizer.lr=0.25", "optimizer.betas=[0.5,0.75]", "scheduler=constant", "model.loss=mae")
    encoders = build_encoders(cfg, ["smiles"], AssetStore(tmp_path / "cache"))
    encoders["smiles"].fit(["CCO", "CN"])
    scaling = TargetScaling(mean=np.array([1.0]), std=np.array([2.0]))
    module = build_module(
        cfg,
        networks={"smiles": encoders["smiles"].build_network()},
        llm=construct(cfg.llm),
        targets=[GAP],
        scaling=scaling,
    )
    assert isinstance(module, LLMFusion)
    assert module.to_physical(torch.tensor([[0.5]])).item() == 2.0
    settings = module._optimizer_settings
    assert (settings.lr, settings.betas) == (0.25, [0.5, 0.75])
