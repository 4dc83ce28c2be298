"""One training: fitted on prepared data, predicted, scored and written down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.assets.progress import RichProgress
from crystalfm.config.build import resolve_modalities
from crystalfm.data.records import write_rejected
from crystalfm.data.splits import write_splits
from crystalfm.report.summary import Outcome, build_summary
from crystalfm.report.tables import closing_panel, interval_table, next_steps, results_table, shown_path, start_table
from crystalfm.run.build import asset_store, construct
from crystalfm.run.checkpoints.resume_point import ResumePoint, find_resume
from crystalfm.run.classical import score_baselines
from crystalfm.run.folder import RunFolder
from crystalfm.run.page import add_page
from crystalfm.run.parallel.ranks import local_ranks, quoted
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.prepare import PreparedData, prepare_data
from crystalfm.run.results import score_rows, write_figures, write_predictions
from crystalfm.run.session import FittedModel, Session, outcome_arguments
from crystalfm.run.setup import Work, build_session, resolved_config, run_facts, seed_everything
from crystalfm.run.tracking.wandb_run import wandb_run
from crystalfm.run.uncertainty import Estimate, calibrate, score_estimate, uncertainty_summary, write_uncertainty

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.metrics.scores import ModelScores


def train_single(cfg: DictConfig, run_dir: Path, console: Console) -> dict[str, float]:
    """Train one model; see ``train``.

    Args:
        cfg: checked configuration.
        run_dir: run folder; a resumed run goes on in its own folder.
        console: where it is shown.
    """
    started = time.monotonic()
    config = resolved_config(cfg)
    point = find_resume(cfg, config, run_dir)
    folder = RunFolder(run_dir if point is None else point.folder.root).create()
    seed_everything(cfg)
    store = asset_store(cfg, RichProgress(console))
    prepared = prepare_data(cfg, store, resolve_modalities(cfg, construct(cfg.data).spec()))
    work = Work(cfg, config, folder, store, console, prepared)
    if point is not None:
        announce_resume(point, work)
    return fit_and_report(work, point, started=started)


def announce_resume(point: ResumePoint, work: Work) -> None:
    """Check that a run goes on with its own data, and say where from.

    Raises:
        UserError: the data, the split or the weights of a frozen encoder changed.
    """
    point.require_same_data(work.prepared.table, work.prepared.splits)
    point.require_same_encoders(work.prepared.encoders)
    work.console.print(f"resuming from {point.checkpoint}", highlight=False)
    for difference in point.differences:
        work.console.print(f"  changed: {difference}", highlight=False)


def write_inputs(work: Work) -> None:
    """Write configuration, split and rejected rows."""
    work.folder.write_config(work.config)
    prepared = work.prepared
    write_splits(work.folder.split, prepared.table, prepared.splits, seed=prepared.dataset.drawing_seed)
    write_rejected(work.folder.rejected, prepared.table.rejected)


def fit_and_report(
    work: Work, point: ResumePoint | None, *, started: float, member: str | None = None, show_facts: bool = True
) -> dict[str, float]:
    """Fit on prepared data, predict, score, and write everything into the run folder.

    Args:
        work: configuration, data and folder.
        point: checkpoint to go on from.
        started: when the run began, on the monotonic clock.
        member: which member of an ensemble this is, in words; of a member less is shown.
        show_facts: show the start table.

    Returns:
        final metrics by name.
    """
    if not is_child_rank():
        write_inputs(work)
        # Of other weights than those that are trained from here on.
        work.folder.uncertainty.unlink(missing_ok=True)
    seed_everything(work.cfg)  # whatever the preparation drew, the weights begin the same
    session = build_session(work.cfg, work.config, work.prepared, work.folder, work.store, work.console)
    facts = run_facts(work.cfg, work.prepared, work.folder, session)
    if show_facts:
        work.console.print(start_table(facts))
    with wandb_run(work.cfg, work.config, work.folder, work.console) as tracked:
        fitted, predicted = _fit_and_predict(session, work, None if point is None else point.checkpoint)
        if is_child_rank():
            return {}
        results, uncertainty = report(work, Estimate(predicted), member=member)
        outcome = Outcome(**outcome_arguments(fitted, time.monotonic() - started))
        work.folder.write_summary(build_summary(facts, outcome, results, uncertainty=uncertainty))
        add_page(work.folder, work.prepared.table, work.console if member is None else None)
        metrics = final_metrics(results[0], fitted.validation)
        tracked.log_results(metrics)
    return metrics


def evaluated_rows(prepared: PreparedData) -> NDArray[np.int64]:
    """Return the rows that are predicted at the end: validation and test, in the table's order."""
    return np.sort(np.concatenate([prepared.splits.val, prepared.splits.test]))


def _fit_and_predict(session: Session, work: Work, checkpoint: Path | None) -> tuple[FittedModel, NDArray[np.float64]]:
    """Fit and predict validation and test rows: what all processes of a run do together."""
    import torch

    resumed = "null" if checkpoint is None else quoted(checkpoint.resolve())
    overrides = [f"ckpt={resumed}", f"trainer.num_threads={torch.get_num_threads()}"]
    with local_ranks(session.num_local_processes, work.folder.root, overrides):
        fitted = session.fit(checkpoint)
        return fitted, fitted.predict(evaluated_rows(work.prepared))


def report(
    work: Work, estimate: Estimate, *, member: str | None = None
) -> tuple[list[ModelScores], dict[str, Any] | None]:
    """Write and show the predictions of validation and test rows beside those of the baselines.

    Args:
        work: configuration, data and folder.
        estimate: predictions of ``evaluated_rows``; their intervals are fitted here.
        member: see ``fit_and_report``.

    Returns:
        scores of the model (first) and of the baselines, and what there is to say of the intervals.
    """
    cfg, prepared, folder, console = work.cfg, work.prepared, work.folder, work.console
    rows, table = evaluated_rows(prepared), prepared.table
    intervals = calibrate(prepared, rows, estimate, cfg.coverage)
    estimate = estimate.with_intervals(intervals)
    write_predictions(folder.predictions, table, prepared.splits, rows, estimate)
    used = folder.best if folder.best.is_file() else folder.last
    write_uncertainty(folder.uncertainty, intervals, table.target_specs, used.name if used.is_file() else None)
    name = "test" if len(prepared.splits.test) else "validation"
    scored = prepared.splits.test if name == "test" else prepared.splits.val
    of_scored = estimate.select(np.searchsorted(rows, scored))
    results = [score_rows(cfg.model.name, table, scored, of_scored.values)]
    results += score_baselines(cfg, prepared, work.store, scored, console)
    title = f"{cfg.data.name}, {len(scored):,} {name} rows"
    console.print(results_table(results, title=title if member is None else f"{member}: {title}"))
    # Intervals always hold the rows they were fitted on.
    found = score_estimate(table.targets[scored], of_scored, table.target_specs) if name == "test" else None
    if found is not None and intervals is not None and member is None:
        console.print(interval_table(found, intervals.coverage, title=f"intervals, {len(scored):,} test rows"))
    files = write_figures(
        folder.figures,
        table.targets[scored],
        of_scored.values,
        results,
        table.target_specs,
        folder.metrics,
        title=f"{cfg.name}: {title}",
    )
    if member is None:
        console.print(closing_panel(folder.root, files))
        console.print(next_steps(_next_commands(cfg, prepared, folder)), soft_wrap=True)
    return results, uncertainty_summary(intervals, found, table.target_specs)


def _next_commands(cfg: DictConfig, prepared: PreparedData, folder: RunFolder) -> list[str]:
    commands = [f"python evaluate.py ckpt={shown_path(folder.root)}"]
    if "smiles" in prepared.table.spec.fields and prepared.modalities:
        commands.append(f'python -m crystalfm.predict ckpt={shown_path(folder.root)} input="CCO"')
    else:
        other = "alignn" if "structure" in prepared.table.spec.fields and cfg.model.name != "alignn" else "llm_fusion"
        commands.append(f"python train.py model={other} data={cfg.data.name}")
    return commands


def final_metrics(scores: ModelScores, validation: Mapping[str, float]) -> dict[str, float]:
    """Return the final metrics by name for sweepers and callers."""
    metrics = {f"val/{name}": value for name, value in validation.items()}
    for score in scores.scores:
        metrics[f"test/mae_{score.target.label}"] = score.mae
        metrics[f"test/rmse_{score.target.label}"] = score.rmse
    return metrics
