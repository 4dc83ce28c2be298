"""An ensemble: the same training with successive seeds on the same rows, and the mean and spread of what comes out."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, open_dict

from crystalfm.assets.progress import RichProgress
from crystalfm.config.build import resolve_modalities
from crystalfm.contracts import UserError
from crystalfm.report.facts import RunFacts
from crystalfm.report.summary import Outcome, build_summary
from crystalfm.report.tables import format_number
from crystalfm.run.build import asset_store, construct
from crystalfm.run.checkpoints.resume_point import ResumePoint, ensemble_location, resume_point
from crystalfm.run.folder import RunFolder
from crystalfm.run.page import add_page
from crystalfm.run.parallel.hardware import num_devices
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.prepare import prepare_data
from crystalfm.run.setup import Work, resolved_config, seed_everything
from crystalfm.run.single import (
    announce_resume,
    evaluated_rows,
    final_metrics,
    fit_and_report,
    report,
    write_inputs,
)
from crystalfm.run.tracking.wandb_run import wandb_run
from crystalfm.run.uncertainty import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.run.prepare import PreparedData

_LENGTH_KEYS = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_minutes"),
    "callbacks.early_stopping_patience",
)
"""Keys that make a finished member train on when they change."""


@dataclass(frozen=True)
class Member:
    """One member: an ordinary run, which can be evaluated, resumed and used alone.

    Attributes:
        number: from 1.
        cfg: its configuration.
        config: the same, resolved to plain containers.
        folder: its run folder.
        point: where its training goes on; ``None`` for one that has saved nothing.
        is_done: whether nothing is left to train.
    """

    number: int
    cfg: DictConfig
    config: dict[str, Any]
    folder: RunFolder
    point: ResumePoint | None
    is_done: bool


def train_ensemble(cfg: DictConfig, run_dir: Path, console: Console) -> dict[str, float]:
    """Train ``cfg.ensemble`` members on the same rows and write what they have in common.

    Members that are finished are left as they are, one that was stopped goes on where it stopped.

    Args:
        cfg: checked configuration.
        run_dir: run folder of the ensemble; one that is gone on with keeps its own.
        console: where it is shown.

    Returns:
        metrics of the members' mean in physical units by name, and the mean of their ``val/loss``.

    Raises:
        UserError: something the user can mend.
        TrainingInterruptedError: a signal stopped a member's training after a checkpoint was written.
    """
    started = time.monotonic()
    _require_one_process(cfg)
    config = resolved_config(cfg)
    folder = RunFolder(_root(cfg, run_dir))
    members = [_member(cfg, folder, number) for number in range(1, cfg.ensemble + 1)]
    folder.create_ensemble()
    seed_everything(cfg)
    store = asset_store(cfg, RichProgress(console))
    prepared = prepare_data(cfg, store, resolve_modalities(cfg, construct(cfg.data).spec()))
    prepared.notes["ensemble"] = f"{len(members)} members, seeds {cfg.seed} to {cfg.seed + len(members) - 1}"
    for member in members:
        if member.point is not None:
            member.point.require_same_data(prepared.table, prepared.splits)
            member.point.require_same_encoders(prepared.encoders)
    work = Work(cfg, config, folder, store, console, prepared)
    write_inputs(work)
    _train_members(work, members)
    with wandb_run(cfg, config, folder, console) as tracked:
        metrics = _report_mean(work, members, started)
        tracked.log_results(metrics)
    return metrics


def _require_one_process(cfg: DictConfig) -> None:
    """Refuse trainings that other processes take part in: they would have to follow from member to member."""
    if is_child_rank() or int(cfg.trainer.num_nodes) * num_devices(cfg) > 1:
        raise UserError(
            f"ensemble={cfg.ensemble} trains its members one after another in one process, on one device",
            remedy="use trainer=gpu or trainer.devices=1, or a single model over several devices",
        )


def _root(cfg: DictConfig, run_dir: Path) -> Path:
    """Return the folder of the ensemble that is gone on with, or that of a new one."""
    earlier = ensemble_location(cfg.ckpt, Path(cfg.paths.runs).expanduser(), cfg.name, run_dir=run_dir)
    if earlier is None and RunFolder(run_dir).members.is_dir():
        raise UserError(f"{run_dir} holds an ensemble already", remedy=f"go on with it: ckpt={run_dir}")
    return run_dir if earlier is None else earlier


def member_config(cfg: DictConfig, number: int) -> DictConfig:
    """Return the configuration of a member, counted from 1: a single run with its own seed on the common split."""
    member: DictConfig = copy.deepcopy(cfg)
    with open_dict(member):
        member.data.split_seed = cfg.seed if cfg.data.get("split_seed") is None else cfg.data.split_seed
        member.seed = cfg.seed + number - 1
        member.ensemble = 1
        member.baselines = []
        member.ckpt = None
    return member


def _member(cfg: DictConfig, root: RunFolder, number: int) -> Member:
    """Find out how far a member is.

    Raises:
        UserError: it was trained with another configuration.
    """
    own = member_config(cfg, number)
    config, folder = resolved_config(own), root.member(number)
    finished = bool(folder.read_summary().get("finished"))
    point = None
    if folder.last.is_file():
        point = resume_point(folder.last, config)
    elif finished and folder.best.is_file():
        point = resume_point(folder.best, config, training=False)
    longer = point is not None and any(difference.key in _LENGTH_KEYS for difference in point.differences)
    return Member(number, own, config, folder, point, is_done=finished and point is not None and not longer)


def _train_members(work: Work, members: Sequence[Member]) -> None:
    """Train the members that are not finished."""
    left = [member for member in members if not member.is_done]
    if left:
        # What they say of the whole ends here, until all members are finished again.
        for path in (work.folder.summary, work.folder.uncertainty):
            path.unlink(missing_ok=True)
    for member in members:
        name = f"member {member.number} of {len(members)}"
        if member.is_done:
            work.console.print(f"{name}, seed {member.cfg.seed}: finished before", highlight=False)
            continue
        work.console.print(f"{name}, seed {member.cfg.seed}", style="bold", highlight=False)
        own = Work(member.cfg, member.config, member.folder.create(), work.store, work.console, work.prepared)
        point = member.point if member.folder.last.is_file() else None
        if point is not None:
            announce_resume(point, own)
        fit_and_report(own, point, started=time.monotonic(), member=name, show_facts=member is left[0])


def _report_mean(work: Work, members: Sequence[Member], started: float) -> dict[str, float]:
    """Score the mean of the members, and write and show it."""
    values = [member_predictions(member.folder, work.prepared) for member in members]
    summaries = [member.folder.read_summary() for member in members]
    results, uncertainty = report(work, Estimate.of_members(values))
    losses = [summary["validation"]["loss"] for summary in summaries if "loss" in summary["validation"]]
    validation = {"loss": float(np.mean(losses))} if len(losses) == len(members) else {}
    trainings = [summary["training"] for summary in summaries]
    peaks = [training["peak_device_memory_gib"] for training in trainings]
    outcome = Outcome(
        num_epochs=max(training["num_epochs"] for training in trainings),
        wall_time_seconds=time.monotonic() - started,
        train_time_seconds=sum(training["train_time_seconds"] or 0.0 for training in trainings),
        peak_device_memory_gib=None if None in peaks else max(peaks),
        validation=validation,
    )
    errors = _errors_of_members(work, summaries)
    facts = _facts(work, summaries[0])
    described = {"seeds": [int(member.cfg.seed) for member in members], "mae": errors}
    work.folder.write_summary(build_summary(facts, outcome, results, uncertainty=uncertainty, members=described))
    add_page(work.folder, work.prepared.table, work.console)
    return final_metrics(results[0], validation)


def member_predictions(folder: RunFolder, prepared: PreparedData) -> NDArray[np.float64]:
    """Return the predictions (K, T) of ``evaluated_rows`` that a finished member has written.

    Raises:
        UserError: the file is missing or is of other rows.
    """
    import pyarrow.parquet as pq

    names = prepared.table.ids[evaluated_rows(prepared)].tolist()
    table = pq.read_table(folder.predictions) if folder.predictions.is_file() else None
    if table is None or table.column("id").to_pylist() != names:
        raise UserError(
            f"{folder.predictions} is missing or holds other rows",
            remedy=f"remove {folder.root} to train this member anew",
        )
    columns = [table.column(f"{target.label}_predicted").to_numpy() for target in prepared.table.target_specs]
    return np.stack(columns, axis=1).astype(np.float64)


def _errors_of_members(work: Work, summaries: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return the test errors of the single members by target, and show their mean."""
    errors: dict[str, list[float | None]] = {}
    for target in work.prepared.table.target_specs:
        found = [summary["metrics"]["test"][work.cfg.model.name][target.name]["mae"] for summary in summaries]
        errors[target.name] = found
        known = [error for error in found if error is not None]
        if known:
            spread = f"{format_number(float(np.mean(known)))} ± {format_number(float(np.std(known)), 2)}"
            work.console.print(f"MAE of a single member on {target.name}: {spread}", highlight=False)
    return errors


def _facts(work: Work, first: dict[str, Any]) -> RunFacts:
    """Collect the facts of the ensemble; parameters, device and precision are those of a member."""
    prepared, training = work.prepared, first["training"]
    return RunFacts(
        run_name=work.cfg.name,
        run_folder=work.folder.root,
        model=work.cfg.model.name,
        data=work.cfg.data.name,
        data_hash=prepared.table.content_hash,
        targets=prepared.table.target_specs,
        split_sizes=prepared.splits.sizes,
        num_rejected=len(prepared.table.rejected),
        encoders=[encoder.report() for encoder in prepared.encoders.values()],
        num_parameters=first["model"]["parameters"]["total"],
        num_trainable=first["model"]["parameters"]["trainable"],
        device=training["device"],
        precision=training["precision"],
        num_threads=training["num_threads"],
        seed=work.cfg.seed,
    )
