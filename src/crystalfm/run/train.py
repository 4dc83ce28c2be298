"""Training: one run from a checked configuration to a folder that a person can read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from crystalfm.assets.progress import RichProgress
from crystalfm.config.build import resolve_modalities
from crystalfm.data.records import write_rejected
from crystalfm.data.splits import write_splits
from crystalfm.report.facts import RunFacts
from crystalfm.report.summary import Outcome, build_summary
from crystalfm.report.tables import closing_panel, next_steps, results_table, shown_path, start_table
from crystalfm.run.build import asset_store, construct, is_classical
from crystalfm.run.checkpoints.resume_point import ResumePoint, find_resume
from crystalfm.run.classical import ClassicalSession, baseline_nodes, score_baselines
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel.ranks import follow_parent, local_ranks, quoted
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.prepare import PreparedData, prepare_data
from crystalfm.run.results import score_rows, write_figures, write_predictions
from crystalfm.run.session import FittedModel, Session, outcome_arguments
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning
from crystalfm.run.tracking.wandb_run import wandb_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.metrics.scores import ModelScores


def train(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Train the configured model and write the run folder.

    Args:
        cfg: checked configuration.
        run_dir: run folder; a resumed run goes on in its own folder.

    Returns:
        test metrics in physical units by name (``test/mae_gap_hartree``) and ``val/loss``; of the processes of a
        distributed run only the first returns any, writes files other than its log, and fits the baselines.

    Raises:
        UserError: something the user can mend.
        TrainingInterruptedError: a signal stopped the training after a checkpoint was written.
    """
    started = time.monotonic()
    follow_parent()
    quiet_lightning()
    console = run_console()
    config = resolved_config(cfg)
    baseline_nodes(cfg)  # a wrong name should not wait for the end of the training
    if is_child_rank() and is_classical(cfg.model):
        return {}  # a classical model is fitted by the first process alone
    point = find_resume(cfg, config, run_dir)
    folder = RunFolder(run_dir if point is None else point.folder.root).create()
    seed_everything(cfg)
    store = asset_store(cfg, RichProgress(console))
    prepared = prepare_data(cfg, store, resolve_modalities(cfg, construct(cfg.data).spec()))
    if point is not None:
        _announce_resume(point, prepared, console)
    if not is_child_rank():
        folder.write_config(config)
        write_splits(folder.split, prepared.table, prepared.splits, seed=cfg.seed)
        write_rejected(folder.rejected, prepared.table.rejected)
    session = build_session(cfg, config, prepared, folder, store, console)
    facts = run_facts(cfg, prepared, folder, session)
    console.print(start_table(facts))
    with wandb_run(cfg, config, folder, console) as tracked:
        fitted, predicted = _fit_and_predict(session, prepared, folder, None if point is None else point.checkpoint)
        if is_child_rank():
            return {}
        results = _evaluate(cfg, prepared, predicted, folder, store, console)
        outcome = Outcome(wall_time_seconds=time.monotonic() - started, **outcome_arguments(fitted))
        folder.write_summary(build_summary(facts, outcome, results))
        metrics = _metrics(results[0], fitted)
        tracked.log_results(metrics)
    return metrics


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

    from crystalfm.run.parallel.hardware import threads_of_a_process

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


def _announce_resume(point: ResumePoint, prepared: PreparedData, console: Console) -> None:
    point.require_same_data(prepared.table, prepared.splits)
    console.print(f"resuming from {point.checkpoint}", highlight=False)
    for difference in point.differences:
        console.print(f"  changed: {difference}", highlight=False)


def _evaluated_rows(prepared: PreparedData) -> NDArray[np.int64]:
    return np.sort(np.concatenate([prepared.splits.val, prepared.splits.test]))


def _fit_and_predict(
    session: Session, prepared: PreparedData, folder: RunFolder, checkpoint: Path | None
) -> tuple[FittedModel, NDArray[np.float64]]:
    """Fit and predict validation and test rows: what all processes of a run do together."""
    import torch

    resumed = "null" if checkpoint is None else quoted(checkpoint.resolve())
    overrides = [f"ckpt={resumed}", f"trainer.num_threads={torch.get_num_threads()}"]
    with local_ranks(session.num_local_processes, folder.root, overrides):
        fitted = session.fit(checkpoint)
        return fitted, fitted.predict(_evaluated_rows(prepared))


def _evaluate(
    cfg: DictConfig,
    prepared: PreparedData,
    predicted: NDArray[np.float64],
    folder: RunFolder,
    store: AssetStore,
    console: Console,
) -> list[ModelScores]:
    """Write and show the predictions of validation and test rows beside those of the baselines."""
    rows = _evaluated_rows(prepared)
    write_predictions(folder.predictions, prepared.table, prepared.splits, rows, predicted)
    scored = prepared.splits.test if len(prepared.splits.test) else prepared.splits.val
    of_scored = predicted[np.searchsorted(rows, scored)]
    results = [score_rows(cfg.model.name, prepared.table, scored, of_scored)]
    results += score_baselines(cfg, prepared, store, scored, console)
    name = "test" if len(prepared.splits.test) else "validation"
    title = f"{cfg.data.name}, {len(scored):,} {name} rows"
    console.print(results_table(results, title=title))
    files = write_figures(
        folder.figures,
        prepared.table.targets[scored],
        of_scored,
        results,
        prepared.table.target_specs,
        folder.metrics,
        title=f"{cfg.name}: {title}",
    )
    console.print(closing_panel(folder.root, files))
    console.print(next_steps(_next_commands(cfg, prepared, folder)), soft_wrap=True)
    return results


def _next_commands(cfg: DictConfig, prepared: PreparedData, folder: RunFolder) -> list[str]:
    commands = [f"python evaluate.py ckpt={shown_path(folder.root)}"]
    if "smiles" in prepared.table.spec.fields and prepared.modalities:
        commands.append(f'python -m crystalfm.predict ckpt={shown_path(folder.root)} input="CCO"')
    else:
        other = "alignn" if "structure" in prepared.table.spec.fields and cfg.model.name != "alignn" else "llm_fusion"
        commands.append(f"python train.py model={other} data={cfg.data.name}")
    return commands


def _metrics(scores: ModelScores, fitted: FittedModel) -> dict[str, float]:
    """Return the final metrics by name for sweepers and callers."""
    metrics = {f"val/{name}": value for name, value in fitted.validation.items()}
    for score in scores.scores:
        metrics[f"test/mae_{score.target.label}"] = score.mae
        metrics[f"test/rmse_{score.target.label}"] = score.rmse
    return metrics
