"""``explain=modalities``: a model's errors without each of its modalities, and the attention that it pays to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.data.records import represent
from crystalfm.io.files import write_json
from crystalfm.metrics.bootstrap import mean_interval
from crystalfm.report.modality_attention import CAVEAT, ModalityAttention, attention_figure, attention_table
from crystalfm.report.modality_worth import ModalityWorth, modality_figure, modality_table
from crystalfm.run.explaining.attention import attention_to_modalities
from crystalfm.run.explaining.tables import write_rows
from crystalfm.run.prepare import only_test

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.run.saved import SavedPredictor


ATTENTION_ROWS = 256
"""Most rows, drawn at random, on which attention is measured."""

NO_ATTENTION = "this model fuses its modalities without attention: there is none to show"


def explain_modalities(
    cfg: DictConfig,
    saved: SavedPredictor,
    table: RecordTable,
    predicted: NDArray[np.float64],
    folder: Path,
    console: Console,
) -> dict[str, float]:
    """Write and show what each modality is worth, and the attention that the model pays to it where it has attention.

    Args:
        cfg: configuration of the evaluation, with ``seed``.
        saved: the predictor, of two modalities or more.
        table: (N,) rows, with their true values.
        predicted: (N, T) its predictions of them.
        folder: where ``modalities.json``, ``modalities.csv``, ``modalities_attention.csv`` and pictures go.
        console: where the tables are shown.

    Returns:
        the change of the error without each modality, by name.

    Raises:
        UserError: the model has one modality.
    """
    whole = np.abs(predicted - table.targets)
    without = errors_without(saved, table)
    attention, num_rows = _attention(saved, table, int(cfg.seed))
    by_name = {item.modality: item for item in attention}
    found = [
        ModalityWorth(
            modality=name,
            target=target,
            whole=float(np.nanmean(whole[:, column])),
            change=mean_interval(errors[:, column] - whole[:, column]),
            attention=by_name.get(name),
        )
        for name, errors in without.items()
        for column, target in enumerate(table.target_specs)
    ]
    rows = [item.as_row() for item in found]
    layers = [row for item in attention for row in item.layer_rows()]
    said = {"rows": num_rows, "note": CAVEAT if attention else NO_ATTENTION, "layers": layers}
    write_json(folder / "modalities.json", {"rows": len(table), "modalities": rows, "attention": said})
    write_rows(folder / "modalities.csv", rows)
    modality_figure(found, folder / "modalities.png", title=f"{len(table):,} rows")
    console.print(modality_table(found))
    if attention:
        write_rows(folder / "modalities_attention.csv", layers)
        attention_figure(attention, folder / "modalities_attention.png", title=f"{num_rows:,} rows")
        console.print(attention_table(attention, num_rows))
    else:
        console.print(NO_ATTENTION)
    return {f"change_without_{item.modality}_{item.target.label}": item.change.value for item in found}


def _attention(saved: SavedPredictor, table: RecordTable, seed: int) -> tuple[list[ModalityAttention], int]:
    """Return the attention to each modality and the rows it was measured on; nothing where the model has none."""
    if not saved.networks:
        return [], 0
    chosen = table
    if len(table) > ATTENTION_ROWS:
        rng = np.random.default_rng(seed)
        chosen = table.select(np.sort(rng.choice(len(table), ATTENTION_ROWS, replace=False)))
    rows, values = represent(chosen, saved.model.modalities)
    prepared = saved.featurize(rows, values, only_test(len(rows)))
    return attention_to_modalities(saved, prepared, prepared.splits.test)


def errors_without(saved: SavedPredictor, table: RecordTable) -> dict[str, NDArray[np.float64]]:
    """Return by modality the absolute errors (N, T) of a model that is asked without it.

    The model takes the modality for missing, as it does for molecules without a description. It stays as it is: what
    it could have learned from the others alone is not measured.

    Args:
        saved: the predictor, of two modalities or more.
        table: (N,) rows with all of them.

    Raises:
        UserError: the model has one modality.
    """
    modalities = list(saved.model.modalities)
    if not modalities[1:]:
        raise UserError(
            f"the model has one modality, {', '.join(modalities) or 'none'}: there is nothing to leave out",
            remedy="a run with several, as modalities=[smiles,fingerprint]",
        )
    rows, values = represent(table, modalities)
    found = {}
    for name in modalities:
        missing: list[str | None] = [None] * len(rows)
        others = {**values, name: missing}
        prepared = saved.featurize(rows, others, only_test(len(rows)))
        found[name] = np.abs(saved.estimate(prepared, prepared.splits.test).values - rows.targets)
    return found
