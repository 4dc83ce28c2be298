"""What a checkpoint says beside the weights: enough to evaluate it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import crystalfm
from crystalfm.contracts import TargetSpec
from crystalfm.models.scaling import TargetScaling
from crystalfm.run.checkpoints.checkpointing import PAYLOAD_KEY, SCHEMA_VERSION, read_checkpoint
from crystalfm.run.checkpoints.resume_point import split_hash

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from crystalfm.run.prepare import PreparedData

NETWORK = "network"
CLASSICAL = "classical"
LANGUAGE = "language"


def make_payload(
    kind: str,
    config: Mapping[str, Any],
    prepared: PreparedData,
    *,
    scaling: TargetScaling | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect the section ``crystalfm`` of a checkpoint as plain containers.

    Args:
        kind: ``network``, ``classical`` or ``language``.
        config: resolved configuration.
        prepared: data of the run; its encoders must be fitted.
        scaling: target scaling of a network.
        architecture: the language model's architecture, from which it is rebuilt without its asset.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "version": crystalfm.__version__,
        "kind": kind,
        "config": dict(config),
        "modalities": list(prepared.modalities),
        "targets": [
            {"name": t.name, "unit": t.unit, "description": t.description} for t in prepared.table.target_specs
        ],
        "encoders": {name: encoder.state() for name, encoder in prepared.encoders.items()},
        "scaling": None if scaling is None else scaling.state(),
        "architecture": None if architecture is None else dict(architecture),
        "data": {
            "name": prepared.table.spec.name,
            "content_hash": prepared.table.content_hash,
            "split_hash": split_hash(prepared.table, prepared.splits),
        },
    }


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint, read and taken apart.

    Attributes:
        path: the file.
        kind: ``network``, ``classical`` or ``language``.
        config: configuration it was trained with.
        modalities: modalities it uses, in order.
        targets: what it predicts.
        encoder_states: state of each fitted encoder.
        scaling: target scaling of a network.
        architecture: the language model's architecture.
        data: name, content hash and split hash of its training data.
        weights: the network's state dict, or the classical model's state.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    modalities: list[str]
    targets: tuple[TargetSpec, ...]
    encoder_states: dict[str, Any]
    scaling: TargetScaling | None
    architecture: dict[str, Any] | None
    data: dict[str, str]
    weights: dict[str, Any]


def read_model(path: Path) -> SavedModel:
    """Read a checkpoint for evaluation or prediction.

    Raises:
        UserError: the file is damaged or not a checkpoint of this framework.
    """
    checkpoint = read_checkpoint(path)
    payload = checkpoint[PAYLOAD_KEY]
    return SavedModel(
        path=path,
        kind=payload["kind"],
        config=payload["config"],
        modalities=payload["modalities"],
        targets=tuple(TargetSpec(**target) for target in payload["targets"]),
        encoder_states=payload["encoders"],
        scaling=None if payload["scaling"] is None else TargetScaling.from_state(payload["scaling"]),
        architecture=payload["architecture"],
        data=payload["data"],
        weights=checkpoint["state_dict"],
    )
