"""Prediction for new molecules and crystals: a SMILES string, files or a table in; a table with units out."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.assets.progress import RichProgress
from crystalfm.chem.molecules import canonicalize
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data.records import (
    RecordTable,
    Rejection,
    enforce_rejection_limit,
    group_numbers,
    represent,
    write_rejected,
)
from crystalfm.io.files import write_text
from crystalfm.run.crystal_inputs import need_structures, read_crystal_inputs
from crystalfm.run.folder import find_checkpoint
from crystalfm.run.prepare import only_test
from crystalfm.run.saved import SavedPredictor
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from omegaconf import DictConfig

_LIST_SUFFIXES = {".smi", ".smiles", ".txt"}
_TABLE_SUFFIXES = {".csv", ".tsv"}
_REJECTED_NAME = "rejected.csv"


@dataclass(frozen=True)
class Inputs:
    """Molecules to predict, in the order given.

    Attributes:
        ids: identifier of each row.
        fields: raw fields by name, one value a row.
    """

    ids: list[str]
    fields: dict[str, list[str | None]]


def read_inputs(source: str, smiles_column: str, id_column: str | None, description_column: str | None) -> Inputs:
    """Read what ``input`` names: a file where there is one of that name, else a SMILES string.

    A ``.smi``, ``.smiles`` or ``.txt`` file has one SMILES a line and may have a name behind it; a ``.csv`` or ``.tsv``
    file has named columns.

    Raises:
        UserError: the file is missing, empty or has no such column.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix in _TABLE_SUFFIXES | _LIST_SUFFIXES and not path.is_file():
        raise UserError(f"input={source}: no such file", remedy="give a SMILES string or an existing file")
    if not path.is_file():
        return Inputs(["0"], {"smiles": [source]})
    if suffix not in _TABLE_SUFFIXES:
        return _read_list(path)
    return _read_table(path, smiles_column, id_column, description_column)


def _read_list(path: Path) -> Inputs:
    ids: list[str] = []
    smiles: list[str | None] = []
    for line in _text_of(path).splitlines():
        parts = line.split(maxsplit=1)
        if parts:
            ids.append(parts[1].strip() if len(parts) > 1 else str(len(ids)))
            smiles.append(parts[0])
    if not smiles:
        raise UserError(f"input={path} is empty")
    return Inputs(ids, {"smiles": smiles})


def _read_table(path: Path, smiles_column: str, id_column: str | None, description_column: str | None) -> Inputs:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_text_of(path)), delimiter=delimiter)
    columns = list(reader.fieldnames or [])
    if not columns:
        raise UserError(f"input={path} is empty")
    wanted = {
        "smiles_column": smiles_column,
        "id_column": id_column,
        "description_column": description_column,
    }
    for key, column in wanted.items():
        if column is not None and column not in columns:
            raise UserError(f"{key}={column}: {path} has no such column", remedy=f"its columns: {', '.join(columns)}")
    rows = list(reader)
    if not rows:
        raise UserError(f"input={path} has a header and no rows")
    ids = [str(number) if id_column is None else str(row[id_column]) for number, row in enumerate(rows)]
    fields: dict[str, list[str | None]] = {"smiles": [row[smiles_column] or "" for row in rows]}
    if description_column is not None:
        fields["description"] = [row[description_column] or None for row in rows]
    return Inputs(ids, fields)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"input={path} is not UTF-8 text: {error}", remedy="convert the file") from error


def input_table(inputs: Inputs, targets: Sequence[TargetSpec], modalities: Sequence[str]) -> RecordTable:
    """Make records of the inputs under their row numbers as ids; bad SMILES become rejections."""
    canonical, problems = canonicalize(inputs.fields["smiles"])
    fields: dict[str, list[str | None]] = {name: list(values) for name, values in inputs.fields.items()}
    if "description" in modalities and "description" not in fields:
        fields["description"] = [None] * len(inputs.ids)
    return _records(Inputs(inputs.ids, fields), targets, canonical).without(problems)


def _records(inputs: Inputs, targets: Sequence[TargetSpec], groups: Sequence[str | None]) -> RecordTable:
    """Make records of the inputs under their row numbers as ids; rows of equal ``groups`` are the same thing."""
    spec = DataSpec("input", tuple(inputs.fields), tuple(targets), tuple(target.name for target in targets))
    rows = np.array([str(row) for row in range(len(inputs.ids))])
    return RecordTable(
        spec=spec,
        ids=rows,
        fields=inputs.fields,
        targets=np.full((len(rows), len(targets)), np.nan),
        target_specs=tuple(targets),
        groups=group_numbers(groups),
    )


def predict(cfg: DictConfig) -> dict[str, Any]:
    """Predict ``cfg.input`` with the model of ``cfg.ckpt``.

    Writes ``output`` (columns id, target, value, unit; one row a molecule and target, in the order of the input) and,
    beside it, ``rejected.csv``. A single SMILES without ``output`` is only shown.

    Returns:
        numbers of predicted and rejected rows, and the path written.

    Raises:
        UserError: the input cannot be read, or more than ``max_rejected_fraction`` of its rows cannot be used.
    """
    quiet_lightning()
    console = run_console()
    saved = SavedPredictor(find_checkpoint(cfg.ckpt), cfg, progress=RichProgress(console))
    if need_structures(saved.model.modalities):
        ids, structures, problems = read_crystal_inputs(str(cfg.input), cfg.id_column)
        inputs = Inputs(ids, {"structure": structures})
        table = _records(inputs, saved.model.targets, structures).without(problems)
    else:
        inputs = read_inputs(str(cfg.input), cfg.smiles_column, cfg.id_column, cfg.description_column)
        table = input_table(inputs, saved.model.targets, saved.model.modalities)
    table, values = represent(table, saved.model.modalities)
    rejected = _named(table.rejected, inputs)
    output = _output_path(cfg, inputs)
    if output is not None:
        write_rejected(output.with_name(_REJECTED_NAME), rejected)
    enforce_rejection_limit(rejected, len(inputs.ids), float(cfg.max_rejected_fraction))
    prepared = saved.featurize(table, values, only_test(len(table)))
    predicted = saved.predictor(prepared)(prepared.splits.test)
    ids = [inputs.ids[int(row)] for row in table.ids]
    text = predictions_csv(ids, saved.model.targets, predicted)
    if output is None:
        console.print(text, end="", highlight=False, markup=False)
    else:
        write_text(output, text)
        console.print(f"{len(table)} predicted, {len(rejected)} rejected: {output}", highlight=False, soft_wrap=True)
    return {
        "predicted": len(table),
        "rejected": len(rejected),
        "output": None if output is None else str(output),
    }


def _named(rejected: Sequence[Rejection], inputs: Inputs) -> list[Rejection]:
    """Return the rejections under the inputs' own ids, in their order."""
    ordered = sorted(rejected, key=lambda item: int(item.id))
    return [Rejection(inputs.ids[int(item.id)], item.reason, item.value) for item in ordered]


def _output_path(cfg: DictConfig, inputs: Inputs) -> Path | None:
    if cfg.output:
        return Path(cfg.output).expanduser()
    single = len(inputs.ids) == 1 and not Path(str(cfg.input)).expanduser().exists()
    return None if single else Path("predictions.csv")


def predictions_csv(ids: Sequence[str], targets: Sequence[TargetSpec], predicted: NDArray[np.float64]) -> str:
    """Return the predictions (N, T) as CSV with the columns id, target, value and unit, molecule by molecule."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "target", "value", "unit"])
    for name, row in zip(ids, predicted, strict=True):
        for target, value in zip(targets, row, strict=True):
            writer.writerow([name, target.name, f"{value:.6g}", target.unit])
    return buffer.getvalue()
