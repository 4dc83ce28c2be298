"""Property predictors as Lightning trains them: built around their data, or rebuilt from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError
from crystalfm.data.module import RecordDataModule
from crystalfm.models.scaling import TargetScaling
from crystalfm.run.build import build_module, construct, takes_language_model
from crystalfm.run.checkpoints.payload import NETWORK, SavedModel, make_payload
from crystalfm.run.trainer_session import TrainerSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.encoders.base import ModalityEncoder
    from crystalfm.models.backbones import FusionBackbone
    from crystalfm.models.regression import RegressionModule
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.prepare import PreparedData


def restore_network(cfg: DictConfig, saved: SavedModel, encoders: Mapping[str, ModalityEncoder]) -> RegressionModule:
    """Rebuild the network of a checkpoint from what the checkpoint holds, and load its weights.

    Args:
        cfg: configuration of the checkpoint.
        saved: the checkpoint.
        encoders: its fitted encoders.
    """
    from crystalfm.models.backbones import backbone_from_architecture

    if saved.scaling is None:
        raise UserError(f"{saved.path} holds no network", remedy="use a checkpoint of a trained network")
    module = build_module(
        cfg,
        networks={name: encoder.build_network() for name, encoder in encoders.items()},
        llm=None if saved.architecture is None else backbone_from_architecture(saved.architecture),
        targets=saved.targets,
        scaling=saved.scaling,
    )
    module.load_state_dict(saved.weights)
    return module


def build_datamodule(cfg: DictConfig, prepared: PreparedData) -> RecordDataModule:
    """Build the loaders over the prepared features."""
    dataset = prepared.dataset
    return RecordDataModule(
        table=prepared.table,
        splits=prepared.splits,
        stores=prepared.stores,
        batch_size=dataset.batch_size,
        eval_batch_size=dataset.eval_batch_size,
        seed=cfg.seed,
        num_workers=dataset.num_workers,
        bucket_by_length=dataset.bucket_by_length,
        batch_budget=dataset.batch_budget,
    )


class NetworkSession(TrainerSession):
    """Trains a network with Lightning.

    Args:
        cfg: configuration.
        config: the same, resolved, as it goes into the checkpoints.
        prepared: data.
        folder: run folder.
        store: where pretrained weights come from.
        console: where progress is shown.
    """

    def __init__(
        self,
        cfg: DictConfig,
        config: Mapping[str, Any],
        prepared: PreparedData,
        folder: RunFolder,
        store: AssetStore,
        console: Console,
    ) -> None:
        scaling = TargetScaling.fit(prepared.table.targets, prepared.splits.train)
        llm: FusionBackbone | None = construct(cfg.llm, store=store) if takes_language_model(cfg.model) else None
        architecture = None if llm is None else llm.architecture()
        payload = make_payload(NETWORK, config, prepared, scaling=scaling, architecture=architecture)
        module = build_module(
            cfg,
            networks={name: encoder.build_network() for name, encoder in prepared.encoders.items()},
            llm=llm,
            targets=prepared.table.target_specs,
            scaling=scaling,
        )
        super().__init__(
            cfg,
            prepared,
            folder,
            console,
            module=module,
            datamodule=build_datamodule(cfg, prepared),
            payload=payload,
        )
        self.module = module
