"""Evaluation of a saved model, on its own test rows or on other data; or of crystals, see ``judge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.assets.progress import RichProgress
from crystalfm.contracts import UserError
from crystalfm.data.records import write_rejected
from crystalfm.io.files import write_json
from crystalfm.report.tables import closing_panel, interval_table, results_table
from crystalfm.run.api import Predictor
from crystalfm.run.checkpoints.resume_point import split_hash
from crystalfm.run.exporting.hub import local_folder
from crystalfm.run.folder import RunFolder
from crystalfm.run.language.restore import language_checkpoint
from crystalfm.run.page import add_page
from crystalfm.run.predict import tell_changes
from crystalfm.run.prepare import ALL, rows_of
from crystalfm.run.results import score_rows, write_figures, write_predictions
from crystalfm.run.saved import SavedPredictor
from crystalfm.run.setup import resolved_config
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning
from crystalfm.run.tracking.wandb_job import TrackedJob
from crystalfm.run.uncertainty import score_estimate

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.run.prepare import PreparedData


def evaluate(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Evaluate ``cfg.ckpt`` and write predictions, figures and metrics, or judge ``cfg.structures``.

    Without ``data`` the checkpoint's own data and split are used; with it, every row of that data.

    Args:
        cfg: checked configuration with ``ckpt``, ``split``, ``data``, ``paths`` and ``trainer``.
        run_dir: folder for the results.

    Returns:
        metrics in physical units by name.

    Raises:
        UserError: something the user can mend.
    """
    judging = cfg.get("structures") is not None
    job = TrackedJob("judge" if judging else "evaluate", cfg, run_dir)
    console = run_console()
    if judging:
        from crystalfm.run.judge import judge_structures

        metrics = judge_structures(cfg, run_dir)
    else:
        metrics = _evaluate_model(cfg, run_dir, console)
    job.send(resolved_config(cfg), metrics, [cfg.structures if judging else cfg.ckpt], console)
    return metrics


def _evaluate_model(cfg: DictConfig, run_dir: Path, console: Console) -> dict[str, float]:
    """Score what lies at ``cfg.ckpt``; see ``evaluate``."""
    quiet_lightning()
    location = local_folder(cfg.ckpt, offline=bool(cfg.paths.offline))
    language = language_checkpoint(location)
    if language is not None:
        if cfg.get("explain") is not None:
            raise UserError("explain is for models that predict properties, and this one writes", remedy="explain=null")
        from crystalfm.run.language.evaluate import evaluate_language

        return evaluate_language(cfg, language, run_dir, console)
    return _evaluate_predictor(cfg, location, run_dir, console)


def _evaluate_predictor(cfg: DictConfig, location: str, run_dir: Path, console: Console) -> dict[str, float]:
    """Score the property predictor at ``location``; see ``evaluate``."""
    data = cfg.get("data")
    saved = SavedPredictor(location, cfg, data=data, progress=RichProgress(console))
    if cfg.check:
        tell_changes(Predictor(saved), console)
    if data is None and saved.splits is not None:
        saved.cfg.data.split_file = str(saved.splits)
    saved.cfg.data.targets = [target.name for target in saved.model.targets]
    prepared = saved.prepare(all_rows=data is not None)
    _check_targets(saved, prepared)
    rows = rows_of(cfg.split if data is None else ALL, prepared)
    estimate = saved.estimate(prepared, rows)
    folder = RunFolder(run_dir)
    write_predictions(folder.predictions, prepared.table, prepared.splits, rows, estimate)
    write_rejected(folder.rejected, prepared.table.rejected)
    name = f"{saved.model.config['model']['name']}"
    scores = score_rows(name, prepared.table, rows, estimate.values)
    title = f"{prepared.table.spec.name}, {len(rows):,} rows ({cfg.split if data is None else ALL})"
    console.print(results_table([scores], title=title))
    metrics = {f"mae_{score.target.label}": score.mae for score in scores.scores}
    metrics |= {f"rmse_{score.target.label}": score.rmse for score in scores.scores}
    true, targets = prepared.table.targets[rows], saved.model.targets
    # Rows of the training, and those the intervals were fitted on, would say nothing of their coverage.
    unseen = data is not None or cfg.split == "test"
    held = score_estimate(true, estimate, targets) if unseen else None
    if held is not None and saved.intervals is not None:
        console.print(interval_table(held, saved.intervals.coverage, title=f"intervals, {len(rows):,} rows"))
    write_json(
        folder.root / "evaluation.json",
        {
            "checkpoint": str(cfg.ckpt if len(saved.members) > 1 or saved.exported else saved.model.path),
            "rows": len(rows),
            "rejected": len(prepared.table.rejected),
            "data": {"name": prepared.table.spec.name, "content_hash": prepared.table.content_hash},
            "metrics": {score.target.name: score.as_dict() for score in scores.scores},
            "intervals": None if held is None else {score.target.name: score.as_dict() for score in held},
        },
    )
    if cfg.get("explain") is not None:
        from crystalfm.run.explaining.explain import explain

        metrics |= explain(cfg, saved, prepared.table.select(rows), estimate.values, folder.explanations, console)
    files = write_figures(folder.figures, true, estimate.values, [scores], targets, None, title=title)
    console.print(closing_panel(folder.root, files))
    add_page(folder, prepared.table, console)
    return metrics


def _check_targets(saved: SavedPredictor, prepared: PreparedData) -> None:
    """Check that the data's targets are the model's, units included, and that a known split did not move.

    Raises:
        UserError: a unit differs, or the training data changed since the run.
    """
    for trained, given in zip(saved.model.targets, prepared.table.target_specs, strict=True):
        if trained.unit != given.unit:
            raise UserError(
                f"the model predicts {trained.name} in {trained.unit}; the data give it in {given.unit}",
                remedy="convert the column, or say its unit with data.units",
            )
    before = saved.model.data
    same_data = before["content_hash"] == prepared.table.content_hash
    if same_data and len(prepared.splits.train) and before["split_hash"] != split_hash(prepared.table, prepared.splits):
        raise UserError(
            "the split is not the one the model was trained with, so training rows could be tested on",
            remedy="give the run folder, which holds split.json, or data.split_file=",
        )
