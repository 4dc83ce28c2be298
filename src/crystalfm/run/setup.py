"""What every training begins with: the plain configuration, seeds and threads, the session, the facts of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from crystalfm.report.facts import RunFacts
from crystalfm.run.build import is_classical
from crystalfm.run.classical import ClassicalSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.prepare import PreparedData
    from crystalfm.run.session import Session


@dataclass(frozen=True)
class Work:
    """What a training works with and on.

    Attributes:
        cfg: configuration.
        config: the same, resolved to plain containers.
        folder: run folder.
        store: where data sets and weights come from.
        console: where it is shown.
        prepared: data.
    """

    cfg: DictConfig
    config: dict[str, Any]
    folder: RunFolder
    store: AssetStore
    console: Console
    prepared: PreparedData


def resolved_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers with every interpolation resolved, without Hydra's own part."""
    container = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(container, dict):
        raise TypeError("the configuration is not a mapping")
    return {str(key): value for key, value in container.items() if key != "hydra"}


def seed_everything(cfg: DictConfig) -> None:
    """Seed torch, NumPy and Python, and set the number of CPU threads."""
    import torch
    from lightning import seed_everything as seed_all

    from crystalfm.run.parallel.hardware import bound_kernel_cache, threads_of_a_process

    bound_kernel_cache()
    threads = threads_of_a_process(cfg)
    if threads is not None:
        torch.set_num_threads(threads)
    seed_all(cfg.seed, workers=True, verbose=False)


def build_session(
    cfg: DictConfig,
    config: Mapping[str, Any],
    prepared: PreparedData,
    folder: RunFolder,
    store: AssetStore,
    console: Console,
) -> Session:
    """Build the session of the configured model."""
    if is_classical(cfg.model):
        return ClassicalSession(cfg, config, prepared, folder)
    from crystalfm.run.network import NetworkSession

    return NetworkSession(cfg, config, prepared, folder, store, console)


def run_facts(cfg: DictConfig, prepared: PreparedData, folder: RunFolder, session: Session) -> RunFacts:
    """Collect what the start table and the summary say of the run."""
    import torch

    return RunFacts(
        run_name=cfg.name,
        run_folder=folder.root,
        model=cfg.model.name,
        data=cfg.data.name,
        data_hash=prepared.table.content_hash,
        targets=prepared.table.target_specs,
        split_sizes=prepared.splits.sizes,
        num_rejected=len(prepared.table.rejected),
        encoders=[encoder.report() for encoder in prepared.encoders.values()],
        num_parameters=session.num_parameters,
        num_trainable=session.num_trainable,
        device=session.device,
        precision=session.precision,
        num_threads=torch.get_num_threads(),
        seed=cfg.seed,
        notes={**prepared.notes, **session.notes},
    )
