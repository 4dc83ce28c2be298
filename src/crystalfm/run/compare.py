"""Runs side by side: the same rows, the same targets, and whether a difference is more than noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.io.files import write_text
from crystalfm.metrics.bootstrap import mean_interval
from crystalfm.report.comparisons import ComparedScore, comparison_figure, comparison_table
from crystalfm.run.folder import RunFolder, folders_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

_SHOWN_IDS = 3
_SAME_VALUE = 1e-6


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """Predictions of a finished run.

    Attributes:
        name: name to show, unlike those of the others.
        targets: T targets.
        ids: (K,) rows, ascending.
        true: (K, T) values in the targets' units, NaN where unknown.
        predicted: (K, T) predictions.
    """

    name: str
    targets: tuple[TargetSpec, ...]
    ids: NDArray[np.str_]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]


def compare(places: Sequence[str], split: str, output: Path | None, console: Console) -> list[ComparedScore]:
    """Compare finished runs on the rows of a split, show the table, and write it and a picture where asked.

    Args:
        places: run folders, or folders of multiruns, whose finished jobs count one by one.
        split: ``test`` or ``val``.
        output: folder for ``comparison.csv`` and ``comparison.png``; ``None`` writes nothing.
        console: where the table is shown.

    Returns:
        scores, run by run in the order of their mean relative error, target by target.

    Raises:
        UserError: fewer than two runs, or they were not tested on the same rows, targets and units.
    """
    runs = _named([root for place in places for root in _run_folders(place)], split)
    if not runs[1:]:
        raise UserError("two runs at least are needed to compare", remedy="crystalfm compare RUN RUN")
    for other in runs[1:]:
        _require_same_test(runs[0], other, split)
    scores = _scores(runs)
    console.print(comparison_table(scores, rows=len(runs[0].ids), split=split))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "comparison.csv", pd.DataFrame([score.as_row() for score in scores]).to_csv(index=False))
        comparison_figure(scores, output / "comparison.png", title=f"{len(runs[0].ids):,} {split} rows")
    return scores


def _run_folders(place: str) -> list[Path]:
    """Return the run folder, or the folders of a multirun's finished jobs.

    Raises:
        UserError: there is none.
    """
    root = RunFolder(Path(place).expanduser())
    runs = folders_with(place, root.predictions.name, "give run folders, or folders of multiruns")
    if not runs:
        there = "an unfinished run" if root.config.is_file() else "no run"
        raise UserError(f"{place} is {there}: it holds no predictions", remedy="finish it with ckpt=, or leave it out")
    return runs


def _named(roots: Sequence[Path], split: str) -> list[FinishedRun]:
    """Read runs; the name is the shortest end of the path that no other has, the folder's parent included."""
    distinct = list(dict.fromkeys(root.resolve() for root in roots))
    found = []
    for root in distinct:
        parts = root.parts
        for depth in range(2, len(parts) + 1):
            name = "/".join(parts[-depth:])
            if sum("/".join(other.parts[-depth:]) == name for other in distinct) == 1:
                break
        found.append(_read(root, name, split))
    return found


def _read(root: Path, name: str, split: str) -> FinishedRun:
    folder = RunFolder(root)
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
        targets = tuple(TargetSpec(one["name"], one["unit"]) for one in summary["data"]["targets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root} has no summary that can be read: {error}", remedy="leave it out") from error
    table = pd.read_parquet(folder.predictions)
    table = table[table["split"] == split].sort_values("id")
    if table.empty:
        raise UserError(f"{root} has no predictions of the split {split}", remedy="split=val or split=test")
    columns = [[f"{target.label}_{kind}" for target in targets] for kind in ("true", "predicted")]
    true, predicted = (table[names].to_numpy(dtype=np.float64) for names in columns)
    return FinishedRun(name, targets, table["id"].to_numpy(dtype=np.str_), true, predicted)


def _require_same_test(first: FinishedRun, other: FinishedRun, split: str) -> None:
    """Refuse runs whose errors are not about the same thing.

    Raises:
        UserError: targets, units, rows or true values differ; the message says which.
    """
    where = f"{other.name} cannot be compared with {first.name}"
    if other.targets != first.targets:
        listed = [", ".join(target.label for target in run.targets) for run in (other, first)]
        raise UserError(f"{where}: it predicts {listed[0]}, that one {listed[1]}", remedy="runs of the same targets")
    absent = np.setxor1d(first.ids, other.ids)
    if len(absent):
        shown = ", ".join(absent[:_SHOWN_IDS].tolist()) + (", …" if len(absent) > _SHOWN_IDS else "")
        raise UserError(
            f"{where}: {len(absent):,} {split} rows are in only one of them ({shown})",
            remedy="train both with the same data.split_file",
        )
    gap = np.abs(first.true - other.true) > _SAME_VALUE * np.maximum(np.abs(first.true), 1.0)
    if gap.any() or (np.isnan(first.true) != np.isnan(other.true)).any():
        raise UserError(f"{where}: the true values of the same rows differ", remedy="runs on the same data")


def _scores(runs: Sequence[FinishedRun]) -> list[ComparedScore]:
    """Return the scores of every run and target, each beside the best run for that target."""
    errors = [np.abs(run.predicted - run.true) for run in runs]
    mean = np.array([np.nanmean(error, axis=0) for error in errors])
    best = mean.argmin(axis=0)
    order = np.argsort((mean / mean.min(axis=0)).mean(axis=1), kind="stable")
    found = []
    for place in order.tolist():
        for column, target in enumerate(runs[place].targets):
            leader = int(best[column])
            behind = mean_interval(errors[place][:, column] - errors[leader][:, column])
            squares = (runs[place].predicted - runs[place].true)[:, column] ** 2
            found.append(
                ComparedScore(
                    run=runs[place].name,
                    target=target,
                    mae=mean_interval(errors[place][:, column]),
                    rmse=float(np.sqrt(np.nanmean(squares))),
                    behind=None if place == leader else behind,
                )
            )
    return found
