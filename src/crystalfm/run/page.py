"""The page of a run or an evaluation: gathered from its folder and its records, written as ``report.html``."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import TargetSpec
from crystalfm.io.files import write_text
from crystalfm.metrics.scores import ModelScores, TargetScore
from crystalfm.report.figures import read_metrics
from crystalfm.report.page.build import build_page
from crystalfm.report.page.content import PageContent, Predictions
from crystalfm.report.page.explained import read_explanations
from crystalfm.report.page.structures import Structure, crystal_structure, molecule_structure, structures_within
from crystalfm.report.summary import environment_facts
from crystalfm.report.tables import shown_path
from crystalfm.run.page_facts import data_facts, environment_rows, rejected_rows, repeated_command, training_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.run.folder import RunFolder

_LOG = logging.getLogger(__name__)

_FAILURES = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def add_page(folder: RunFolder, table: RecordTable, console: Console | None = None) -> Path | None:
    """Write the page of a finished run or evaluation; where that fails, say why and leave the run as it is.

    Args:
        folder: its folder, with everything else written.
        table: its records, for the structures of the worst predictions.
        console: where the page's place is shown; ``None`` says nothing.

    Returns:
        the page, or ``None`` where there is none.
    """
    return publish(folder, lambda: _gathered(folder, table), console)


def publish(folder: RunFolder, gather: Callable[[], PageContent], console: Console | None = None) -> Path | None:
    """Write a page; where that fails, say why and leave the run as it is.

    Args:
        folder: where it is written.
        gather: returns what is on it.
        console: where the page's place is shown; ``None`` says nothing.

    Returns:
        the page, or ``None`` where there is none.
    """
    try:
        write_text(folder.page, build_page(gather()))
    except _FAILURES as error:
        folder.page.unlink(missing_ok=True)  # that of an earlier state
        _LOG.warning("%s could not be made: %s: %s", folder.page.name, type(error).__name__, error)
        return None
    if console is not None:
        console.print(f"the run's page: {shown_path(folder.page)}", highlight=False, soft_wrap=True)
    return folder.page


def write_page(folder: RunFolder, table: RecordTable) -> Path:
    """Write the page of a finished run or evaluation; see ``add_page``.

    Raises:
        OSError: a file cannot be read or written.
        KeyError: the summary lacks something.
        ValueError: a file is malformed.
    """
    write_text(folder.page, build_page(_gathered(folder, table)))
    return folder.page


def _gathered(folder: RunFolder, table: RecordTable) -> PageContent:
    evaluation = folder.root / "evaluation.json"
    return _evaluation(folder, evaluation, table) if evaluation.is_file() else _training(folder, table)


def _training(folder: RunFolder, table: RecordTable) -> PageContent:
    summary = folder.read_summary()
    data, training = summary["data"], summary["training"]
    targets = [TargetSpec(one["name"], one["unit"]) for one in data["targets"]]
    predictions = _predictions(folder.predictions, targets, ("test", "val"))
    structures, left_out = _structures(predictions, table)
    scores = next(iter(summary["metrics"].values()))
    names = sorted(scores, key=lambda name: name != summary["model"]["name"])  # the model before its baselines
    return PageContent(
        title=summary["name"],
        kind=f"training, {folder.root.name}",
        facts=training_facts(summary),
        command=repeated_command(folder, "train.py"),
        data=data_facts(table, data["content_hash"])
        | {f"rows, {name}": f"{count:,}" for name, count in data["split_sizes"].items()},
        rejected=rejected_rows(folder.rejected),
        metrics=read_metrics(folder.metrics) if folder.metrics.is_file() else (),
        results=[ModelScores(name, _scores(scores[name], targets)) for name in names],
        predictions=predictions,
        structures=structures,
        structures_left_out=left_out,
        explanations=read_explanations(folder.explanations),
        environment={
            "device": f"{training['device']}, precision {training['precision']}, {training['num_threads']} threads",
            **environment_rows(summary["environment"]),
        },
    )


def _evaluation(folder: RunFolder, path: Path, table: RecordTable) -> PageContent:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    targets = [TargetSpec(name, score["unit"]) for name, score in found["metrics"].items()]
    predictions = _predictions(folder.predictions, targets, None)
    structures, left_out = _structures(predictions, table)
    facts = {"checkpoint": found["checkpoint"], "rows": f"{found['rows']:,} ({predictions.rows})"}
    for name, score in (found.get("intervals") or {}).items():
        if score["coverage"] is not None:
            facts[f"intervals, {name}"] = f"hold {score['coverage']:.1%} of the rows"
    return PageContent(
        title=f"Evaluation on {found['data']['name']}",
        kind=f"evaluation, {folder.root.name}",
        facts=facts,
        command=repeated_command(folder, "evaluate.py"),
        data=data_facts(table, found["data"]["content_hash"]),
        rejected=rejected_rows(folder.rejected),
        results=[ModelScores("model", _scores(found["metrics"], targets))],
        predictions=predictions,
        structures=structures,
        structures_left_out=left_out,
        explanations=read_explanations(folder.explanations),
        environment=environment_rows(environment_facts()),
    )


def _scores(found: Mapping[str, Mapping[str, Any]], targets: list[TargetSpec]) -> tuple[TargetScore, ...]:
    scores = []
    for target in targets:
        one = found[target.name]
        mae, rmse, r2 = (np.nan if one[name] is None else float(one[name]) for name in ("mae", "rmse", "r2"))
        scores.append(TargetScore(target, mae, rmse, r2, int(one["num_rows"])))
    return tuple(scores)


def _predictions(path: Path, targets: list[TargetSpec], wanted: tuple[str, ...] | None) -> Predictions:
    """Read the rows of the first of the ``wanted`` splits that has any, or all rows."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    splits = np.array(table.column("split").to_pylist(), dtype=np.str_)
    present = list(dict.fromkeys(splits.tolist()))
    chosen = present if wanted is None else [name for name in wanted if name in present][:1]
    rows = np.flatnonzero(np.isin(splits, chosen))
    columns = [[f"{target.label}_{kind}" for target in targets] for kind in ("true", "predicted")]
    true, predicted = (
        np.stack([table.column(name).to_numpy()[rows].astype(np.float64) for name in names], axis=1)
        for names in columns
    )
    ids = table.column("id").to_pylist()
    named = " and ".join(name for name in chosen if name)
    return Predictions(named, [str(ids[row]) for row in rows.tolist()], targets, true, predicted)


def _structures(predictions: Predictions, table: RecordTable) -> tuple[dict[str, Structure], int]:
    """Return the structures of the worst predictions while there is room for them, and how many there was none for."""
    field = next((name for name in ("structure", "smiles") if name in table.fields), None)
    if field is None:
        return {}, 0
    wanted = list(dict.fromkeys(predictions.ids[one.row] for one in predictions.worst()))
    places = dict(zip(table.ids.tolist(), range(len(table)), strict=True))
    values = {name: table.fields[field][places[name]] for name in wanted}
    return structures_within({name: _structure(field, value) for name, value in values.items() if value is not None})


def _structure(field: str, value: str) -> Structure:
    from crystalfm.chem.crystals import Crystal

    return crystal_structure(Crystal.from_json(value)) if field == "structure" else molecule_structure(value)
