"""What a finished run writes and shows: predictions, scores, figures, summary, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.io.files import atomic_write
from crystalfm.metrics.scores import ModelScores, score_model
from crystalfm.report.figures import comparison_plot, learning_curve, parity_plot, read_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits
    from crystalfm.run.uncertainty import Estimate


def write_predictions(
    path: Path, table: RecordTable, splits: Splits, rows: NDArray[np.int64], estimate: Estimate
) -> None:
    """Write ids, split, true and predicted values as Parquet, in the order of the table.

    Columns are ``id``, ``split`` and, for each target in its unit, ``<label>_true``, ``<label>_predicted`` and, where
    there are such, ``<label>_std``, ``<label>_lower`` and ``<label>_upper``.

    Args:
        path: the file.
        table: records.
        splits: rows of each split.
        rows: (K,) rows predicted.
        estimate: (K, T) predictions in physical units, with their uncertainty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.argsort(rows, kind="stable")
    rows, estimate = rows[order], estimate.select(order)
    names = np.full(len(table), "", dtype=object)
    for part, part_rows in splits.parts.items():
        names[part_rows] = part
    columns: dict[str, object] = {
        "id": [str(table.ids[row]) for row in rows],
        "split": [names[row] for row in rows],
    }
    for index, target in enumerate(table.target_specs):
        columns[f"{target.label}_true"] = table.targets[rows, index]
        columns[f"{target.label}_predicted"] = estimate.values[:, index]
        columns |= {f"{target.label}_{name}": column for name, column in estimate.columns(index).items()}
    with atomic_write(path) as stream:
        pq.write_table(pa.table(columns), stream)


def write_figures(
    folder: Path,
    true: NDArray[np.float64],
    predicted: NDArray[np.float64],
    results: Sequence[ModelScores],
    targets: Sequence[TargetSpec],
    metrics_csv: Path | None,
    title: str,
) -> list[Path]:
    """Draw the parity plot, the learning curve where there is one, and the comparison with baselines.

    Args:
        folder: where the pictures go.
        true: (K, T) values in physical units, NaN where unknown.
        predicted: (K, T) predictions.
        results: scores of the model (first) and of its baselines.
        targets: the T quantities.
        metrics_csv: logged metrics of the training.
        title: heading of the pictures.

    Returns:
        the files written.
    """
    files = [parity_plot(true, predicted, targets, folder / "parity.png", title=title)]
    if metrics_csv is not None and metrics_csv.is_file():
        rows = read_metrics(metrics_csv)
        files.append(learning_curve(rows, folder / "learning_curve.png", title=title.partition(":")[0]))
    if len(results) > 1:
        files.append(comparison_plot(results, folder / "comparison.png", title=title))
    return files


def score_rows(name: str, table: RecordTable, rows: NDArray[np.int64], predicted: NDArray[np.float64]) -> ModelScores:
    """Score predictions (K, T) on ``rows`` in physical units."""
    return score_model(name, table.targets[rows], predicted, table.target_specs)
