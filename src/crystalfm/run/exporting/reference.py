"""Reference predictions: made when a predictor is exported, repeated when it is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.encoders.defect_states import KnownDefects
from crystalfm.io.checkpoints import REFERENCE_FILE
from crystalfm.io.files import sha256_json
from crystalfm.metrics.scores import unit_symbol
from crystalfm.report.summary import environment_facts, package_versions
from crystalfm.report.tables import format_number
from crystalfm.run.descriptions import asks_for_descriptions, description_column
from crystalfm.run.exporting.probes import crystal_probes, defect_probes, molecule_probes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.run.api import Predictor

FILE_VERSION = 1

TOLERANCE = 1e-4
"""How far a prediction may be from the exported one, as a share of the standard deviation of the test rows' values.

Processors add up in different orders: 1e-6 of the spread or less. A package that changes a number changes it by more.
"""

_MORE_PACKAGES = (
    *("safetensors", "peft", "gguf", "pymatgen", "spglib", "ase", "scipy", "catboost"),
    *("robocrys", "matminer", "jarvis-tools"),
)


@dataclass(frozen=True, eq=False)
class Reference:
    """Predictions of a model, and where they were made.

    Attributes:
        inputs: what was predicted, as ``Predictor.predict`` takes it.
        targets: the T quantities.
        values: (N, T) predictions in their units; NaN where an input was rejected.
        tolerances: (T,) largest difference that says nothing, in their units.
        environment: versions of packages and of Python, and the kind of machine.
    """

    inputs: list[dict[str, Any]]
    targets: tuple[TargetSpec, ...]
    values: NDArray[np.float64]
    tolerances: NDArray[np.float64]
    environment: Mapping[str, str]

    @classmethod
    def of(cls, predictor: Predictor, spread: NDArray[np.float64]) -> Reference:
        """Predict what is fit for a model.

        Args:
            predictor: the model.
            spread: (T,) standard deviation of each target.

        Raises:
            UserError: the model rejects every probe, or cannot be used here.
        """
        inputs = _inputs(predictor)
        values = predictions(predictor, inputs)
        if not np.isfinite(values).any():
            raise UserError(
                "the model predicts none of the materials that its predictions are to be checked by",
                remedy="see what predict says of them; a model of defects takes hosts that it was trained on",
            )
        return cls(inputs, predictor.targets, values, TOLERANCE * spread, environment())

    def content(self) -> dict[str, Any]:
        """Return what goes into the file."""
        values = [[value if math.isfinite(value) else None for value in row] for row in self.values.tolist()]
        return {
            "version": FILE_VERSION,
            "inputs": self.inputs,
            "targets": [{"name": target.name, "unit": target.unit} for target in self.targets],
            "values": values,
            "tolerances": self.tolerances.tolist(),
            "environment": dict(self.environment),
        }

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """Read the file of an exported folder.

        Raises:
            UserError: it cannot be read.
        """
        path = folder / REFERENCE_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != FILE_VERSION:
                raise UserError(f"{path} has version {content['version']}, not {FILE_VERSION}", remedy="export again")
            targets = tuple(TargetSpec(one["name"], one["unit"]) for one in content["targets"])
            return cls(
                list(content["inputs"]),
                targets,
                np.array(content["values"], dtype=np.float64).reshape(-1, len(targets)),
                np.array(content["tolerances"], dtype=np.float64),
                dict(content["environment"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read: {error!r}", remedy="export the run again") from error


def environment() -> dict[str, str]:
    """Return versions of what a prediction may depend on."""
    facts = environment_facts()
    versions = {**facts["versions"], **package_versions(_MORE_PACKAGES)}
    return {"python": facts["python"], "commit": facts["commit"] or "", "machine": facts["machine"], **versions}


def changed_since(before: Mapping[str, str]) -> list[str]:
    """Return what differs here from an earlier environment, a line each (``torch 2.12.0, now 2.13.0``)."""
    now = environment()
    names = dict.fromkeys([*before, *now])
    pairs = {name: (before.get(name) or "none", now.get(name) or "none") for name in names}
    return [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old != new]


def predictions(predictor: Predictor, inputs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return (N, T) predictions made on the CPU in float32, of nothing that other versions have left in the caches."""
    key = sha256_json(environment())[:16]
    return predictor.aside(f"reference_checks/{key}").predict(list(inputs)).values


def changed_predictions(predictor: Predictor) -> str | None:
    """Repeat the reference predictions of an exported model, and say how they differ.

    Returns:
        what a warning is to say; ``None`` where they agree, or where the model is not an exported one.

    Raises:
        UserError: the model cannot be used here at all, or its reference cannot be read.
    """
    folder = predictor.exported_folder
    if folder is None:
        return None
    reference = Reference.read(folder)
    changed = changed_since(reference.environment)
    values = predictions(predictor, _present_inputs(predictor, reference, changed=bool(changed)))
    difference = _largest(values, reference)
    if difference is None:
        return None
    cause = f"changed since: {'; '.join(changed)}" if changed else "no version that is recorded has changed since"
    return f"{folder} does not predict what it did when it was exported: {difference}; {cause}"


def _largest(values: NDArray[np.float64], reference: Reference) -> str | None:
    """Say the largest difference beyond the tolerance; ``None`` where there is none."""
    known, before = np.isfinite(values), np.isfinite(reference.values)
    if (known != before).any():
        refused = int((before & ~known).any(axis=1).sum())
        return f"{refused} of {len(values)} inputs are rejected that were predicted, or the other way round"
    differences = np.where(known, np.abs(np.where(known, values, 0.0) - np.where(known, reference.values, 0.0)), 0.0)
    excess = differences / reference.tolerances
    if not excess.size or excess.max() <= 1.0:
        return None
    row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    target = reference.targets[column]
    largest = f"{format_number(float(differences[row, column]))} {unit_symbol(target.unit)}".strip()
    allowed = format_number(float(reference.tolerances[column]))
    return f"{target.name} differs by up to {largest} (tolerance {allowed})"


def _inputs(predictor: Predictor) -> list[dict[str, Any]]:
    known = KnownDefects.of_encoders(predictor.saved.model.encoder_states)
    if known.hosts:
        inputs = defect_probes(known)
    elif predictor.takes_crystals:
        inputs = crystal_probes()
    else:
        return molecule_probes(described="description" in predictor.modalities)
    return _described(predictor, inputs)


def _described(predictor: Predictor, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give crystals the texts that the model reads; one without a text is left out."""
    cfg = predictor.saved.cfg
    if not asks_for_descriptions(cfg, predictor.modalities):
        return [dict(one) for one in inputs]
    texts, _ = description_column(cfg, [one["structure"] for one in inputs])
    pairs = zip(inputs, texts, strict=True)
    return [{**one, "description": text} for one, text in pairs if text is not None]


def _present_inputs(predictor: Predictor, reference: Reference, *, changed: bool) -> list[dict[str, Any]]:
    """Return the inputs with texts as they are made here.

    Texts are made anew where a version has changed. Where what makes them is not installed, nobody can make others here
    either, and those of the export stand.
    """
    if not changed:
        return reference.inputs
    try:
        made = _described(predictor, reference.inputs)
    except UserError:
        return reference.inputs
    return made if len(made) == len(reference.inputs) else reference.inputs
