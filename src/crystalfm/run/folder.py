"""The run folder: what a run leaves behind, under which names, and how it is found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalfm.contracts import UserError
from crystalfm.io.files import write_json, write_text

LAST_CHECKPOINT = "last.ckpt"
"""Newest complete state; training resumes from it."""

BEST_CHECKPOINT = "best.ckpt"
"""Weights with the lowest monitored validation loss; evaluation and prediction use them."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        root: the folder; made by ``create``.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def last(self) -> Path:
        """Checkpoint from which training resumes."""
        return self.checkpoints / LAST_CHECKPOINT

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation loss."""
        return self.checkpoints / BEST_CHECKPOINT

    @property
    def config(self) -> Path:
        """Resolved configuration of the run."""
        return self.root / "config.yaml"

    @property
    def split(self) -> Path:
        """Ids of each split, reusable through ``data.split_file``."""
        return self.root / "split.json"

    @property
    def rejected(self) -> Path:
        """Rows that were not used, with the reason."""
        return self.root / "rejected.csv"

    @property
    def metrics(self) -> Path:
        """Logged metrics, one row a step at which something was logged."""
        return self.root / "metrics.csv"

    @property
    def predictions(self) -> Path:
        """Predictions for validation and test rows, in the table's order."""
        return self.root / "predictions.parquet"

    @property
    def summary(self) -> Path:
        """Final metrics and everything needed to compare runs."""
        return self.root / "summary.json"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.root / "figures"

    def create(self) -> RunFolder:
        """Make the folder and its subfolders; an existing folder is kept."""
        for folder in (self.root, self.checkpoints, self.figures):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def write_config(self, container: dict[str, Any]) -> None:
        """Write the resolved configuration as YAML."""
        import yaml

        write_text(self.config, yaml.safe_dump(container, sort_keys=False, allow_unicode=True))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.summary, summary)

    def read_summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``, empty when the run has not finished."""
        if not self.summary.is_file():
            return {}
        loaded: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        return loaded


def find_checkpoint(location: str | Path, *, prefer: str = BEST_CHECKPOINT) -> Path:
    """Return the checkpoint file of a run folder, or the file itself.

    Args:
        location: run folder, its ``checkpoints`` folder, or a checkpoint file.
        prefer: which of the two standard checkpoints to take where both exist.

    Raises:
        UserError: there is no checkpoint at ``location``.
    """
    path = Path(location).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"ckpt={location}: no such file or folder", remedy="give a run folder or a .ckpt file")
    names = [prefer, *(name for name in (BEST_CHECKPOINT, LAST_CHECKPOINT) if name != prefer)]
    for folder in (path / "checkpoints", path):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    inner = sorted(path.glob("*/checkpoints/*.ckpt"))
    remedy = "give a run folder that has checkpoints/best.ckpt or checkpoints/last.ckpt"
    if inner:
        remedy = f"did you mean {inner[-1].parent.parent}?"
    raise UserError(f"ckpt={location}: the folder holds no checkpoint", remedy=remedy)


def run_folder_of(checkpoint: Path) -> RunFolder | None:
    """Return the run folder that a checkpoint lies in, or ``None`` for a file on its own."""
    parent = checkpoint.resolve().parent
    root = parent.parent if parent.name == "checkpoints" else parent
    folder = RunFolder(root)
    return folder if folder.config.is_file() else None


def newest_resumable(runs: Path, name: str) -> RunFolder | None:
    """Return the newest unfinished or finished run of ``name`` under ``runs`` that can be resumed.

    Only folders with a complete ``last.ckpt`` count: checkpoints are renamed into place when whole.
    """
    candidates = [path for path in (runs / name).glob(f"*/checkpoints/{LAST_CHECKPOINT}") if path.is_file()]
    if not candidates:
        return None
    newest = max(candidates, key=lambda path: path.stat().st_mtime_ns)
    return RunFolder(newest.parent.parent)
