"""Fitting and prediction of classical models: the same data, run folder and checkpoint as networks."""

from __future__ import annotations

import csv
import io
import time
from typing import TYPE_CHECKING, Any

import torch

from crystalfm.contracts import UserError
from crystalfm.data.records import represent
from crystalfm.io.files import atomic_write, write_text
from crystalfm.models.classical import ClassicalFeatures, ClassicalModel, gather_dense
from crystalfm.run.build import build_encoders, construct, is_classical
from crystalfm.run.checkpoints.checkpointing import PAYLOAD_KEY, require_plain
from crystalfm.run.checkpoints.payload import CLASSICAL, SavedModel, make_payload
from crystalfm.run.results import score_rows
from crystalfm.run.session import FittedModel, Predict, Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.features import FeatureStore
    from crystalfm.metrics.scores import ModelScores
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.prepare import PreparedData

BASELINE_MODALITIES = {"smiles": "fingerprint", "defects": "defects", "structure": "composition"}
"""What baselines look at, by the raw field that records have: the strongest cheap view of a molecule, of a crystal."""


class ClassicalSession(Session):
    """Fits a classical model once.

    Args:
        cfg: configuration.
        config: the same, resolved, as it goes into the checkpoint.
        prepared: data.
        folder: run folder.
    """

    def __init__(self, cfg: DictConfig, config: Mapping[str, Any], prepared: PreparedData, folder: RunFolder) -> None:
        super().__init__()
        self._cfg = cfg
        self._config = config
        self._prepared = prepared
        self._folder = folder
        self._model: ClassicalModel = construct(cfg.model, targets=prepared.table.target_specs)
        self.notes["features"] = ", ".join(prepared.modalities) or "none"

    def fit(self, resume_from: Path | None) -> FittedModel:
        """Fit on the training rows; ``resume_from`` is not used, fitting starts anew."""
        del resume_from
        started = time.monotonic()
        self._model.fit(classical_features(self._prepared, self._prepared.stores), self._cfg.seed)
        seconds = time.monotonic() - started
        self._save()
        return FittedModel(
            predict=predict_with(self._model, self._prepared.stores),
            num_epochs=0,
            train_seconds=seconds,
            validation=_validation(self._model),
        )

    def _save(self) -> None:
        payload = make_payload(CLASSICAL, self._config, self._prepared)
        checkpoint = {"state_dict": self._model.state(), PAYLOAD_KEY: payload}
        require_plain(checkpoint)
        with atomic_write(self._folder.best) as stream:
            torch.save(checkpoint, stream)
        trials = self._model.search_table()
        if trials:
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(trials[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(trials)
            write_text(self._folder.root / "trials.csv", buffer.getvalue())


def classical_features(prepared: PreparedData, stores: Mapping[str, FeatureStore]) -> ClassicalFeatures:
    """Return the dense feature matrices and targets of the training and validation rows."""
    train, val = prepared.splits.train, prepared.splits.val
    return ClassicalFeatures(
        train_x=_matrix(stores, train),
        train_y=prepared.table.targets[train],
        val_x=_matrix(stores, val),
        val_y=prepared.table.targets[val],
    )


def _matrix(stores: Mapping[str, FeatureStore], rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Return the features (K, C) of ``rows``; C is 0 for a model that looks at no modality."""
    import numpy as np

    return gather_dense(stores, rows) if stores else np.empty((len(rows), 0), dtype=np.uint8)


def predict_with(model: ClassicalModel, stores: Mapping[str, FeatureStore]) -> Predict:
    """Return the function that predicts rows from their features."""
    return lambda rows: model.predict(_matrix(stores, rows))


def _validation(model: ClassicalModel) -> dict[str, float]:
    """Return the validation MAE of each target's chosen trial."""
    best: dict[str, float] = {}
    for row in model.search_table():
        name = f"mae_{row['target']}"
        best[name] = min(best.get(name, float("inf")), float(row["val_mae"]))
    return best


def restore_classical(cfg: DictConfig, saved: SavedModel) -> ClassicalModel:
    """Rebuild a fitted classical model from its checkpoint."""
    model: ClassicalModel = construct(cfg.model, targets=saved.targets)
    model.load_state(saved.weights)
    return model


def score_baselines(
    cfg: DictConfig, prepared: PreparedData, store: AssetStore, rows: NDArray[np.int64], console: Console
) -> list[ModelScores]:
    """Fit the models of ``cfg.baselines`` on the same training rows and score them on the same ``rows``.

    Each baseline has its own default settings and looks at the fingerprint of a molecule, the defects of a layer or the
    composition of a crystal; where the records are none of these, at the run's own features.
    """
    if not cfg.baselines:
        return []
    stores = _baseline_stores(cfg, prepared, store)
    features = classical_features(prepared, stores)
    scores = []
    for name, node in baseline_nodes(cfg).items():
        model: ClassicalModel = construct(node, targets=prepared.table.target_specs)
        looks_at_features = node["requires"]["min_modalities"] > 0
        label = f"{name} ({', '.join(stores)})" if looks_at_features else name
        with console.status(f"fitting the baseline {label}"):
            started = time.monotonic()
            model.fit(features, cfg.seed)
        console.print(f"baseline {label} fitted in {time.monotonic() - started:.0f} s", highlight=False)
        scores.append(score_rows(label, prepared.table, rows, predict_with(model, stores)(rows)))
    return scores


def baseline_nodes(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Return the model node of each baseline by its name.

    Raises:
        UserError: a baseline is a network; it would need a training of its own.
    """
    from crystalfm.config.location import conf_folder, user_conf_folders
    from crystalfm.config.options import Catalog

    folders = [conf_folder(), *user_conf_folders()]
    models = sorted({path.stem for folder in folders for path in (folder / "model").glob("*.yaml")})
    catalog = Catalog({"model": models}, folders)
    nodes = {name: catalog.node("model", name) for name in cfg.baselines}
    for name, node in nodes.items():
        if not node or not is_classical(node):
            fitting = [other for other, known in catalog.nodes("model").items() if is_classical(known)]
            raise UserError(
                f"baselines: {name} is no classical model",
                remedy=f"choose among {', '.join(fitting)}, or train {name} in a run of its own",
            )
    return nodes


def _baseline_stores(cfg: DictConfig, prepared: PreparedData, store: AssetStore) -> dict[str, FeatureStore]:
    modality = next((name for raw, name in BASELINE_MODALITIES.items() if raw in prepared.table.fields), None)
    if modality is None:
        return prepared.stores
    if modality in prepared.stores:
        return {modality: prepared.stores[modality]}
    _, values = represent(prepared.table, [modality])
    encoder = build_encoders(cfg, [modality], store)[modality]
    encoder.fit([values[modality][row] for row in prepared.splits.train])
    return {modality: encoder.prepare(values[modality])}
