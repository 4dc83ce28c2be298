"""A trained predictor as a folder that stands alone: weights, configuration, card, split, reference predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import crystalfm
from crystalfm.config.build import load_target
from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import REFERENCE_FILE, SCHEMA_VERSION
from crystalfm.io.files import sha256_file, write_json, write_text
from crystalfm.report.card import FolderFacts
from crystalfm.run.api import load
from crystalfm.run.card import run_card
from crystalfm.run.checkpoints.payload import CLASSICAL
from crystalfm.run.exporting.folder import (
    CARD_FILE,
    CONFIG_FILE,
    ENCODERS_FILE,
    FORMAT_KEY,
    FORMAT_VERSION,
    SPLITS_FILE,
    TEST_FILE,
    WEIGHTS_SUFFIX,
)
from crystalfm.run.exporting.plain import to_json
from crystalfm.run.exporting.reference import Reference, changed_predictions
from crystalfm.run.exporting.stage import staged
from crystalfm.run.folder import RunFolder, run_folder_of
from crystalfm.run.uncertainty import target_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from crystalfm.run.api import Predictor
    from crystalfm.run.checkpoints.payload import SavedModel
    from crystalfm.run.saved import SavedPredictor

_OF_THE_TRAINING = ("paths", "trainer", "logger", "callbacks", "baselines", "ckpt", "hydra")
"""Sections of a configuration that say nothing of the model and much of the machine."""


def export_predictor(cfg: DictConfig, folder: Path) -> Path:
    """Export a predictor or an ensemble; the folder appears when it predicts what the run does.

    Args:
        cfg: ``ckpt`` and ``paths``.
        folder: a new or empty folder.

    Returns:
        ``folder``.

    Raises:
        UserError: the run has not finished, the folder is taken, or the model cannot be used here.
    """
    paths = {"cache": cfg.paths.cache, "mirror": cfg.paths.mirror, "offline": bool(cfg.paths.offline)}
    predictor = load(cfg.ckpt, accelerator="cpu", **paths)
    run = _finished_run(str(cfg.ckpt), predictor.saved)
    with staged(folder) as stage:
        _write(predictor, run, stage)
        again = changed_predictions(load(stage, accelerator="cpu", check=False, **paths))
        if again is not None:
            raise UserError(f"the export failed: {again}", remedy="export once more; if it persists, report it")
    return folder


def _finished_run(location: str, saved: SavedPredictor) -> RunFolder:
    """Return the run folder of a model.

    Raises:
        UserError: there is none, or the run has not finished.
    """
    place = RunFolder(Path(location).expanduser())
    run = place if place.members.is_dir() else run_folder_of(saved.model.path)
    if saved.exported is not None:
        raise UserError(f"ckpt={location} is an exported folder already", remedy="copy it, or crystalfm push it")
    files = () if run is None else (run.summary, run.split, run.predictions)
    if run is None or not all(path.is_file() for path in files):
        raise UserError(
            f"ckpt={location} is no finished run: what the card and the splits say is not there",
            remedy="give the folder of a run that has finished",
        )
    return run


def _write(predictor: Predictor, run: RunFolder, stage: Path) -> None:
    saved = predictor.saved
    config, encoder_tensors = _config(saved, stage)
    if encoder_tensors:
        _save_tensors(encoder_tensors, stage / ENCODERS_FILE)
    shutil.copyfile(run.split, stage / SPLITS_FILE)
    spread = _write_test_predictions(run, predictor, stage / TEST_FILE)
    reference = Reference.of(predictor, spread)
    write_json(stage / REFERENCE_FILE, reference.content())
    files = {path.name: sha256_file(path) for path in sorted(stage.iterdir())}
    content = json.dumps({**config, "files": files}, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(stage / CONFIG_FILE, content + "\n")
    write_text(
        stage / CARD_FILE,
        run_card(str(run.root), FolderFacts([CONFIG_FILE, *sorted(files)], needed_assets(saved.model))),
    )


def _config(saved: SavedPredictor, stage: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Write every member's weights; return what ``config.json`` says, and the tensors of the encoders."""
    model = saved.model
    kept = {key: value for key, value in model.config.items() if key not in _OF_THE_TRAINING}
    tensors: dict[str, torch.Tensor] = {}
    nothing: dict[str, torch.Tensor] = {}
    intervals = saved.intervals
    members = [_write_member(member, stage, _stem(saved, number)) for number, member in enumerate(saved.members, 1)]
    content = {
        FORMAT_KEY: FORMAT_VERSION,
        "schema_version": SCHEMA_VERSION,
        "version": crystalfm.__version__,
        "kind": model.kind,
        "modalities": list(model.modalities),
        "targets": [{"name": t.name, "unit": t.unit, "description": t.description} for t in model.targets],
        "members": members,
        "config": to_json(kept, nothing, "config"),
        "encoders": to_json(model.encoder_states, tensors, "encoders"),
        "scaling": None if model.scaling is None else model.scaling.state(),
        "architecture": to_json(model.architecture, nothing, "architecture"),
        "intervals": to_json(None if intervals is None else intervals.state(), nothing, "intervals"),
        "data": dict(model.data),
    }
    return content, tensors


def _stem(saved: SavedPredictor, number: int) -> str:
    """Return how the names of a member's files begin."""
    return "model" if len(saved.members) == 1 else f"member_{number}"


def _write_member(member: SavedModel, stage: Path, stem: str) -> dict[str, Any]:
    if member.kind != CLASSICAL:
        name = f"{stem}{WEIGHTS_SUFFIX}"
        _save_tensors(member.weights, stage / name)
        return {"weights": name}
    tensors: dict[str, torch.Tensor] = {}
    state = to_json(member.weights, tensors, "state")
    suffix = load_target(member.config["model"]["_target_"]).FILE_SUFFIX
    files = {}
    for key, tensor in tensors.items():
        # One model a target, each in the format of its library.
        files[key] = f"{stem}_{member.targets[int(key.rpartition('.')[2])].label}{suffix}"
        (stage / files[key]).write_bytes(tensor.numpy().tobytes())
    return {"state": state, "files": files}


def _save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save

    # The format has no place for tensors that share memory, as tied weights do.
    seen: set[int] = set()
    apart: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone().contiguous() if pointer in seen else tensor.contiguous()
        seen.add(pointer)
    # The library's own way to a file makes one that nobody else can read.
    path.write_bytes(save(apart, metadata={"format": "pt"}))


def _write_test_predictions(run: RunFolder, predictor: Predictor, path: Path) -> NDArray[np.float64]:
    """Write ids and predictions of the test rows, and return the (T,) standard deviation of what was evaluated."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(run.predictions)
    labels = [target.label for target in predictor.targets]
    true = np.stack([table.column(f"{label}_true").to_numpy() for label in labels], axis=1).astype(np.float64)
    kinds = ("predicted", "std", "lower", "upper")
    columns = [f"{label}_{kind}" for label in labels for kind in kinds if f"{label}_{kind}" in table.column_names]
    test = table.filter(pc.equal(table.column("split"), "test"))
    # Without the true values, which belong to the data.
    pq.write_table(test.select(["id", *columns]).replace_schema_metadata(), path)
    return target_scales(true)


def needed_assets(model: SavedModel) -> dict[str, str]:
    """Return the SHA-256 of each asset, by its name, whose weights are not in the folder: those of frozen encoders."""
    states: Sequence[Mapping[str, Any]] = list(model.encoder_states.values())
    return {str(state["asset"]): str(state["asset_sha256"]) for state in states if "asset_sha256" in state}
