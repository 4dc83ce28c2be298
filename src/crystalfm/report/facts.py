"""What a run knows of itself once everything is built: shown at the start, kept in the summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from crystalfm.contracts import TargetSpec
    from crystalfm.encoders.base import EncoderReport


@dataclass(frozen=True)
class RunFacts:
    """The facts of one run.

    Attributes:
        run_name: name of the run.
        run_folder: where everything is written.
        model: config name of the model.
        data: config name of the data set.
        data_hash: content hash of the records.
        targets: what is predicted.
        split_sizes: rows per split, in the order shown.
        num_rejected: rows left out because they could not be read.
        encoders: one report per modality; empty for models without encoders.
        num_parameters: parameters of the model, or ``None`` for models that have none before they are fitted.
        num_trainable: parameters that are trained.
        device: device and how many (``cpu``, ``4 x cuda``).
        precision: numeric precision of the training step.
        num_threads: CPU threads used by the arithmetic.
        seed: random seed.
        notes: further name and value pairs worth a line.
    """

    run_name: str
    run_folder: Path
    model: str
    data: str
    data_hash: str
    targets: Sequence[TargetSpec]
    split_sizes: Mapping[str, int]
    num_rejected: int
    encoders: Sequence[EncoderReport]
    num_parameters: int | None
    num_trainable: int | None
    device: str
    precision: str
    num_threads: int
    seed: int
    notes: Mapping[str, str] = field(default_factory=dict)
