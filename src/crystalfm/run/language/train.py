"""Training of a language model that writes crystals or defects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.assets.progress import RichProgress
from crystalfm.contracts import UserError
from crystalfm.report.summary import Outcome, build_summary
from crystalfm.report.tables import closing_panel, next_steps, shown_path, start_table
from crystalfm.run.build import asset_store
from crystalfm.run.checkpoints.resume_point import find_resume
from crystalfm.run.folder import RunFolder
from crystalfm.run.generator_pages.language import training_page
from crystalfm.run.language.likelihood import Likelihood, likelihood_table, write_likelihoods
from crystalfm.run.language.session import LanguageSession, build_language
from crystalfm.run.page import publish
from crystalfm.run.parallel.ranks import local_ranks, quoted
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.session import outcome_arguments
from crystalfm.run.setup import Work, resolved_config, run_facts, seed_everything
from crystalfm.run.single import announce_resume, evaluated_rows, write_inputs
from crystalfm.run.tracking.wandb_run import wandb_run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.run.session import FittedModel


def train_language(cfg: DictConfig, run_dir: Path, console: Console) -> dict[str, float]:
    """Train a language model, and say how likely it holds validation and test crystals to be.

    Args:
        cfg: checked configuration.
        run_dir: run folder; a resumed run goes on in its own folder.
        console: where it is shown.

    Returns:
        ``val/loss``, and ``test/loss`` and ``test/perplexity`` a token, and of both parts ``decided_loss`` where the
        grammar tells decided tokens from others; nothing in processes but the first.

    Raises:
        UserError: something the user can mend.
    """
    started = time.monotonic()
    _refuse_regression_settings(cfg)
    config = resolved_config(cfg)
    point = find_resume(cfg, config, run_dir)
    folder = RunFolder(run_dir if point is None else point.folder.root).create()
    seed_everything(cfg)
    store = asset_store(cfg, RichProgress(console))
    built, prepared, prompts = build_language(cfg, store)
    work = Work(cfg, config, folder, store, console, prepared)
    if point is not None:
        announce_resume(point, work)
    if not is_child_rank():
        write_inputs(work)
    seed_everything(cfg)
    session = LanguageSession(cfg, config, built, prompts, prepared, folder, console)
    facts = run_facts(cfg, prepared, folder, session)
    console.print(start_table(facts))
    with wandb_run(cfg, config, folder, console) as tracked:
        fitted, predicted = _fit_and_predict(session, work, None if point is None else point.checkpoint)
        if is_child_rank():
            return {}
        results = _report(work, predicted)
        outcome = Outcome(**outcome_arguments(fitted, time.monotonic() - started))
        summary = build_summary(facts, outcome, [])
        summary["metrics"] = {name: likelihood.as_dict() for name, likelihood in results.items()}
        folder.write_summary(summary)
        publish(folder, lambda: training_page(folder, prepared.table), console)
        metrics = {f"val/{name}": value for name, value in fitted.validation.items()}
        for name, likelihood in results.items():
            if name == "test":
                metrics |= {"test/loss": likelihood.loss, "test/perplexity": likelihood.perplexity}
            if likelihood.decided_loss is not None:
                metrics[f"{name}/decided_loss"] = likelihood.decided_loss
        tracked.log_results(metrics)
    return metrics


def _refuse_regression_settings(cfg: DictConfig) -> None:
    if cfg.ensemble > 1:
        raise UserError("ensemble: a generator is trained alone", remedy="ensemble=1, or a multirun over seed=...")
    if cfg.baselines:
        raise UserError("baselines: they predict properties, a generator writes crystals", remedy="baselines=[]")


def _fit_and_predict(
    session: LanguageSession, work: Work, checkpoint: Path | None
) -> tuple[FittedModel, NDArray[np.float64]]:
    import torch

    resumed = "null" if checkpoint is None else quoted(checkpoint.resolve())
    overrides = [f"ckpt={resumed}", f"trainer.num_threads={torch.get_num_threads()}"]
    with local_ranks(session.num_local_processes, work.folder.root, overrides):
        fitted = session.fit(checkpoint)
        return fitted, fitted.predict(evaluated_rows(work.prepared))


def _report(work: Work, predicted: NDArray[np.float64]) -> dict[str, Likelihood]:
    """Write and show how likely the crystals of validation and test are."""
    prepared, folder = work.prepared, work.folder
    rows = evaluated_rows(prepared)
    write_likelihoods(folder.predictions, prepared, rows, predicted)
    results = {}
    for name in ("val", "test"):
        chosen = np.isin(rows, prepared.splits[name])
        if chosen.any():
            results[name] = Likelihood.of(predicted[chosen])
    work.console.print(likelihood_table(results))
    work.console.print(closing_panel(folder.root, []))
    shown = shown_path(folder.root)
    commands = [f"python generate.py ckpt={shown} n=64", f"python evaluate.py ckpt={shown}"]
    work.console.print(next_steps(commands), soft_wrap=True)
    return results
