"""Prediction for new molecules and crystals: a SMILES string, files or a table in; a table with units out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.assets.progress import RichProgress
from crystalfm.data.records import enforce_rejection_limit, write_rejected
from crystalfm.io.files import write_text
from crystalfm.run.api import Predictor
from crystalfm.run.crystal_inputs import read_crystal_inputs
from crystalfm.run.exporting.hub import local_folder
from crystalfm.run.exporting.reference import changed_predictions
from crystalfm.run.inputs import Inputs, read_molecules
from crystalfm.run.saved import SavedPredictor
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.run.api import Predictions

_REJECTED_NAME = "rejected.csv"


def predict(cfg: DictConfig) -> dict[str, Any]:
    """Predict ``cfg.input`` with the model of ``cfg.ckpt``.

    Writes ``output`` (see ``predictions_csv``) and, beside it, ``rejected.csv``. A single SMILES without ``output`` is
    only shown.

    Returns:
        numbers of predicted and rejected rows, and the path written.

    Raises:
        UserError: the input cannot be read, or more than ``max_rejected_fraction`` of its rows cannot be used.
    """
    quiet_lightning()
    console = run_console()
    location = local_folder(cfg.ckpt, offline=bool(cfg.paths.offline))
    predictor = Predictor(SavedPredictor(location, cfg, progress=RichProgress(console)))
    if cfg.check:
        tell_changes(predictor, console)
    read = predictor.read(_inputs(cfg, crystals=predictor.takes_crystals))
    rejected = read.rejections()
    output = _output_path(cfg, read.inputs)
    if output is not None:
        write_rejected(output.with_name(_REJECTED_NAME), rejected)
    enforce_rejection_limit(rejected, len(read.inputs.ids), float(cfg.max_rejected_fraction))
    text = predictions_csv(predictor.predict_read(read))
    if output is None:
        console.print(text, end="", highlight=False, markup=False)
    else:
        write_text(output, text)
        message = f"{len(read.table)} predicted, {len(rejected)} rejected: {output}"
        console.print(message, highlight=False, soft_wrap=True)
    return {
        "predicted": len(read.table),
        "rejected": len(rejected),
        "output": None if output is None else str(output),
    }


def tell_changes(predictor: Predictor, console: Console) -> None:
    """Show a warning where an exported model does not predict what it did when it was exported."""
    changed = changed_predictions(predictor)
    if changed is not None:
        console.print(f"warning: {changed}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _inputs(cfg: DictConfig, *, crystals: bool) -> Inputs:
    if crystals:
        ids, structures, problems = read_crystal_inputs(str(cfg.input), cfg.id_column)
        return Inputs(ids, {"structure": structures}, problems)
    return read_molecules(str(cfg.input), cfg.smiles_column, cfg.id_column, cfg.description_column)


def _output_path(cfg: DictConfig, inputs: Inputs) -> Path | None:
    if cfg.output:
        return Path(cfg.output).expanduser()
    single = len(inputs.ids) == 1 and not Path(str(cfg.input)).expanduser().exists()
    return None if single else Path("predictions.csv")


def predictions_csv(predictions: Predictions) -> str:
    """Return the predictions as CSV, a line for each input and target; rejected inputs are left out.

    Columns are ``id``, ``target``, ``value``, then ``std``, ``lower`` and ``upper`` where there are such, and ``unit``,
    in which all of them are.
    """
    parts = {"value": predictions.values, "std": predictions.std}
    parts |= {"lower": predictions.lower, "upper": predictions.upper}
    present = {name: part for name, part in parts.items() if part is not None}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "target", *present, "unit"])
    rejected = {item.index for item in predictions.rejected}
    for row, name in enumerate(predictions.ids):
        if row in rejected:
            continue
        for column, target in enumerate(predictions.targets):
            numbers = [f"{part[row, column]:.6g}" for part in present.values()]
            writer.writerow([name, target.name, *numbers, target.unit])
    return buffer.getvalue()
