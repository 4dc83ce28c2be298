"""From a checked configuration to objects: stores, encoders, language model, network, trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.config.build import load_target, settings_of
from crystalfm.config.signatures import read_signature
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from crystalfm.assets.progress import ProgressSink
    from crystalfm.assets.store import AssetStore
    from crystalfm.contracts import TargetSpec
    from crystalfm.encoders.base import ModalityEncoder
    from crystalfm.models.crystal_llm import CrystalLLM
    from crystalfm.models.regression import RegressionModule
    from crystalfm.models.scaling import TargetScaling

Node = Mapping[Any, Any]
"""A plain or OmegaConf mapping of a ``_target_`` and its settings."""


def construct(node: Node, **runtime: Any) -> Any:
    """Build the object of a ``_target_`` node from its settings and those runtime arguments its class takes.

    Raises:
        UserError: the target is not a class of this framework.
    """
    target = load_target(node["_target_"])
    accepted = read_signature(str(node["_target_"])).runtime
    return target(**settings_of(node), **{key: value for key, value in runtime.items() if key in accepted})


def asset_store(cfg: DictConfig, progress: ProgressSink | None = None) -> AssetStore:
    """Return the store of data sets and weights that ``paths`` describes."""
    from crystalfm.assets.store import AssetStore

    mirror = Path(cfg.paths.mirror).expanduser() if cfg.paths.mirror else None
    cache = Path(cfg.paths.cache).expanduser()
    return AssetStore(cache, mirror=mirror, offline=bool(cfg.paths.offline), progress=progress)


def build_encoders(cfg: DictConfig, modalities: Sequence[str], store: AssetStore) -> dict[str, ModalityEncoder]:
    """Build the configured encoder of each modality, not fitted yet."""
    from crystalfm.encoders.cache import EmbeddingCache

    cache = EmbeddingCache(Path(cfg.paths.cache).expanduser() / "embeddings")
    return {
        modality: construct(cfg.encoders[modality], modality=modality, store=store, cache=cache)
        for modality in modalities
    }


def _typed_settings(node: Node, kind: type[OptimizerSettings | SchedulerSettings]) -> Any:
    names = {item.name for item in fields(kind)}
    return kind(**{key: _plain(value) for key, value in node.items() if key in names})


def _plain(value: Any) -> Any:
    return list(value) if not isinstance(value, str) and isinstance(value, Sequence) else value


def build_module(
    cfg: DictConfig,
    *,
    networks: Mapping[str, nn.Module],
    llm: nn.Module | None,
    targets: Sequence[TargetSpec],
    scaling: TargetScaling,
) -> RegressionModule:
    """Build the LightningModule of ``model`` around the encoders' networks, and the language model if it takes one."""
    module: RegressionModule = construct(
        cfg.model,
        encoders=networks,
        llm=llm,
        targets=targets,
        scaling=scaling,
        **_optimization(cfg),
    )
    return module


def build_language_module(cfg: DictConfig, llm: nn.Module) -> CrystalLLM:
    """Build the LightningModule of ``model`` around a causal language model."""
    module: CrystalLLM = construct(cfg.model, llm=llm, **_optimization(cfg))
    return module


def _optimization(cfg: DictConfig) -> dict[str, Any]:
    return {
        "optimizer": _typed_settings(cfg.optimizer, OptimizerSettings),
        "scheduler": _typed_settings(cfg.scheduler, SchedulerSettings),
    }


def takes_language_model(node: Node) -> bool:
    """Say whether a model node names a network with a language model in it."""
    return "llm" in read_signature(str(node["_target_"])).runtime


def is_classical(node: Node) -> bool:
    """Say whether a model node names a classical model, which is fitted without the Trainer."""
    from crystalfm.models.classical import ClassicalModel

    return issubclass(load_target(node["_target_"]), ClassicalModel)


def is_generator(node: Node) -> bool:
    """Say whether a model node names a language model that writes crystals."""
    from crystalfm.models.crystal_llm import CrystalLLM

    return issubclass(load_target(node["_target_"]), CrystalLLM)
