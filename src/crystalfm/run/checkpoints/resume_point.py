"""Where a run goes on: which checkpoint, in which folder, and whether the configuration still fits."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.config.differences import Difference, require_resumable
from crystalfm.contracts import UserError
from crystalfm.run.folder import (
    LAST_CHECKPOINT,
    RunFolder,
    find_checkpoint,
    newest_ensemble,
    newest_resumable,
    run_folder_of,
)
from crystalfm.run.parallel.slurm import is_restarted
from crystalfm.run.parallel.stamp import STAMP_VARIABLE, is_own_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig

    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits
    from crystalfm.encoders.base import ModalityEncoder

log = logging.getLogger(__name__)

_DIGESTS = ("sha256", "asset_sha256")
"""What the states of frozen encoders call the digest of their weights."""

AUTO = "auto"
"""Value of ``ckpt`` that resumes the newest run of the same name, or starts a new one."""


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from.

    Attributes:
        checkpoint: the file.
        folder: run folder it belongs to; the run goes on there.
        payload: section ``crystalfm`` of the checkpoint.
        differences: harmless changes of the configuration since then.
    """

    checkpoint: Path
    folder: RunFolder
    payload: Mapping[str, Any]
    differences: list[Difference]

    def require_same_data(self, table: RecordTable, splits: Splits) -> None:
        """Check that the data and the split are those of the checkpoint.

        Raises:
            UserError: they are not; training would go on with other rows.
        """
        before = self.payload["data"]
        for name, now in (("content_hash", table.content_hash), ("split_hash", split_hash(table, splits))):
            if before[name] != now:
                what = "records" if name == "content_hash" else "split"
                raise UserError(
                    f"the {what} changed since {self.checkpoint} was written ({before[name][:12]} -> {now[:12]})",
                    remedy="restore the data of the run, or start a new run without ckpt=",
                )

    def require_same_encoders(self, encoders: Mapping[str, ModalityEncoder]) -> None:
        """Check that frozen encoders have the weights with which the checkpoint was trained.

        Raises:
            UserError: they have not; training would go on with other vectors.
        """
        for modality, encoder in encoders.items():
            before, now = self.payload["encoders"].get(modality, {}), encoder.state()
            for name in _DIGESTS:
                if before.get(name) != now.get(name):
                    raise UserError(
                        f"encoders.{modality}: the pretrained weights changed since {self.checkpoint} was written "
                        f"({str(before.get(name))[:12]} -> {str(now.get(name))[:12]})",
                        remedy="restore the weights of the run, or start a new run without ckpt=",
                    )


def split_hash(table: RecordTable, splits: Splits) -> str:
    """Return a SHA-256 over the ids of each part."""
    from crystalfm.io.files import sha256_json

    return sha256_json({name: table.ids[rows].tolist() for name, rows in splits.parts.items()})


def resume_location(ckpt: str | None, runs: Path, name: str) -> Path | None:
    """Return the checkpoint that ``ckpt`` names, or ``None`` when a new run is to start.

    A job that SLURM started again goes on with what it wrote before, whatever other runs of the name did meanwhile.

    Args:
        ckpt: run folder, checkpoint file, ``auto`` or nothing.
        runs: folder of all runs.
        name: name of the run, for ``auto``.

    Raises:
        UserError: there is no checkpoint, or it belongs to no run folder.
    """
    if ckpt is None:
        return None
    if ckpt == AUTO:
        own = checkpoint_of_earlier_start(runs / name / os.environ.get(STAMP_VARIABLE, ""))
        if own is not None:
            return own
        newest = newest_resumable(runs, name)
        return None if newest is None else newest.last
    if RunFolder(Path(ckpt).expanduser()).members.is_dir():
        raise UserError(f"ckpt={ckpt} is an ensemble", remedy="repeat its overrides, ensemble=... among them")
    path = find_checkpoint(ckpt, prefer=LAST_CHECKPOINT)
    folder = run_folder_of(path)
    if folder is None:
        raise UserError(
            f"ckpt={ckpt}: the checkpoint lies in no run folder, so the run cannot go on there",
            remedy="give the run folder",
        )
    return folder.last if is_restarted() and folder.last.is_file() else path


def ensemble_location(ckpt: str | None, runs: Path, name: str, *, run_dir: Path | None = None) -> Path | None:
    """Return the folder of the ensemble that ``ckpt`` names, or ``None`` when a new one is to start.

    Args:
        ckpt: run folder, ``auto`` or nothing.
        runs: folder of all runs.
        name: name of the run, for ``auto``.
        run_dir: folder of a new run; a job that SLURM started again goes on there.

    Raises:
        UserError: there is no ensemble at ``ckpt``.
    """
    own = runs / name / os.environ.get(STAMP_VARIABLE, "") if ckpt == AUTO else None
    for folder in (run_dir, own):
        if folder is not None and (is_restarted() or is_own_folder(folder)) and RunFolder(folder).members.is_dir():
            return folder
    if ckpt is None:
        return None
    if ckpt == AUTO:
        newest = newest_ensemble(runs, name)
        return None if newest is None else newest.root
    root = Path(ckpt).expanduser()
    if not RunFolder(root).members.is_dir():
        raise UserError(
            f"ckpt={ckpt} is no ensemble", remedy="give the run folder of one, or leave ensemble= out for a single run"
        )
    return root


def checkpoint_of_earlier_start(run_dir: Path) -> Path | None:
    """Return the newest complete state that an earlier start of this SLURM job left in its run folder, if any."""
    last = RunFolder(run_dir).last
    return last if (is_restarted() or is_own_folder(run_dir)) and last.is_file() else None


def find_resume(cfg: DictConfig, config: Mapping[str, Any], run_dir: Path) -> ResumePoint | None:
    """Find the checkpoint of ``cfg.ckpt`` and check the configuration against it.

    Args:
        cfg: configuration.
        config: the same, resolved to plain containers.
        run_dir: folder of a new run; a job that SLURM started again goes on there if it has saved anything.

    Raises:
        UserError: no checkpoint where one was asked for, it holds no training state, or a key changed that
            would change the training.
    """
    path = checkpoint_of_earlier_start(run_dir) or resume_location(cfg.ckpt, Path(cfg.paths.runs), cfg.name)
    if path is None:
        if cfg.ckpt == AUTO:
            log.info("ckpt=auto: no run of the name %s to go on with; starting a new one", cfg.name)
        return None
    return resume_point(path, config)


def resume_point(path: Path, config: Mapping[str, Any], *, training: bool = True) -> ResumePoint:
    """Return the point at which a checkpoint's run goes on.

    Args:
        path: checkpoint file.
        config: configuration asked for now.
        training: the training itself goes on; else its weights are only used.

    Raises:
        UserError: the checkpoint holds no training state, or a key changed that would change the training.
    """
    from crystalfm.run.checkpoints.checkpointing import PAYLOAD_KEY, read_checkpoint

    checkpoint = read_checkpoint(path)
    if training and not checkpoint.get("optimizer_states"):
        raise UserError(
            f"{path} holds weights only; training cannot go on from it",
            remedy=f"use checkpoints/{LAST_CHECKPOINT} of the run",
        )
    payload = checkpoint[PAYLOAD_KEY]
    changes = require_resumable(payload["config"], config, str(path))
    folder = run_folder_of(path)
    if folder is None:
        raise UserError(f"{path} lies in no run folder", remedy="give the run folder")
    return ResumePoint(path, folder, payload, changes)
