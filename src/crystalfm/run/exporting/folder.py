"""The exported folder of a predictor: what lies in it, and how it is read and verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.io.checkpoints import REFERENCE_FILE, SCHEMA_VERSION
from crystalfm.io.files import sha256_file
from crystalfm.metrics.conformal import ConformalIntervals
from crystalfm.models.scaling import TargetScaling
from crystalfm.run.checkpoints.payload import SavedModel
from crystalfm.run.exporting.plain import from_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
SPLITS_FILE = "splits.json"
ENCODERS_FILE = "encoders.safetensors"
TEST_FILE = "test_predictions.parquet"
FORMAT_KEY = "crystalfm_export"
FORMAT_VERSION = 1
"""Version of the folder; another one is refused."""

WEIGHTS_SUFFIX = ".safetensors"
_EXPORT_AGAIN = "export the run again (crystalfm export), or fetch the folder again where it was downloaded"


@dataclass(frozen=True)
class ExportedPredictor:
    """An exported folder, read and verified.

    Attributes:
        folder: the folder.
        members: its models; more than one of an ensemble.
        intervals: prediction intervals, where the run has them.
    """

    folder: Path
    members: list[SavedModel]
    intervals: ConformalIntervals | None

    @property
    def splits(self) -> Path:
        """File with the ids of each split."""
        return self.folder / SPLITS_FILE


def is_exported_predictor(location: Path | str) -> bool:
    """Say whether a folder is one of ``crystalfm export`` for a predictor, complete or not."""
    path = Path(location).expanduser() / CONFIG_FILE
    if (path.parent / REFERENCE_FILE).is_file():
        return True
    try:
        return FORMAT_KEY in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_exported(location: Path | str) -> ExportedPredictor:
    """Read an exported folder and verify that its files are those that were written.

    Raises:
        UserError: a file is missing, is not the one that was written, or cannot be read.
    """
    folder = Path(location).expanduser()
    content = _content(folder)
    verify(folder, content["files"])
    try:
        return _read(folder, content)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_FILE} cannot be read: {error!r}", remedy=_EXPORT_AGAIN) from error


def verify(folder: Path, files: Mapping[str, str]) -> None:
    """Compare files with their checksums.

    Args:
        folder: where they lie.
        files: SHA-256 of each file by its name.

    Raises:
        UserError: one is missing or another one than was written, or its name leads out of the folder.
    """
    for name, expected in files.items():
        path = folder / name
        if Path(name).name != name:
            raise UserError(f"{folder / CONFIG_FILE} names a file outside of its folder: {name}", remedy=_EXPORT_AGAIN)
        if not path.is_file():
            raise UserError(f"{path} is missing", remedy=_EXPORT_AGAIN)
        found = sha256_file(path)
        if found != expected:
            raise UserError(
                f"{path} is not the file that was exported: its SHA-256 is {found}, it was {expected}",
                remedy=_EXPORT_AGAIN,
            )


def _content(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing", remedy=_EXPORT_AGAIN)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, schema, files = content[FORMAT_KEY], content["schema_version"], dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}", remedy=_EXPORT_AGAIN) from error
    if (version, schema) != (FORMAT_VERSION, SCHEMA_VERSION):
        raise UserError(
            f"{path} has format {version}.{schema}; this version of crystalfm reads {FORMAT_VERSION}.{SCHEMA_VERSION}",
            remedy=f"use crystalfm {content.get('version')}, which wrote it",
        )
    return {**content, "files": files}


def _read(folder: Path, content: Mapping[str, Any]) -> ExportedPredictor:
    listed = content["files"]
    shared = _tensors(folder / ENCODERS_FILE) if ENCODERS_FILE in listed else {}
    targets = tuple(TargetSpec(**target) for target in content["targets"])
    scaling = content["scaling"]
    common: dict[str, Any] = {
        "kind": content["kind"],
        "config": from_json(content["config"], {}),
        "modalities": list(content["modalities"]),
        "targets": targets,
        "encoder_states": from_json(content["encoders"], shared),
        "scaling": None if scaling is None else TargetScaling.from_state(scaling),
        "architecture": from_json(content["architecture"], {}),
        "data": dict(content["data"]),
    }
    members = [
        SavedModel(path=folder / CONFIG_FILE, weights=_weights(folder, one), **common) for one in content["members"]
    ]
    state = from_json(content["intervals"], {})
    intervals = None if state is None else ConformalIntervals.from_state(state)
    return ExportedPredictor(folder, members, intervals)


def _weights(folder: Path, member: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's tensors, or the state of a classical model with its own files in it."""
    if "weights" in member:
        return _tensors(folder / member["weights"])
    files = {key: _bytes(folder / name) for key, name in member["files"].items()}
    state: dict[str, Any] = from_json(member["state"], files)
    return state


def _bytes(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(path.read_bytes(), dtype=np.uint8).copy())


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=_EXPORT_AGAIN) from error
