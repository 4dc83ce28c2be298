"""The run folder: what a run leaves behind, under which names, and how it is found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import BEST_CHECKPOINT, LAST_CHECKPOINT, find_checkpoint
from crystalfm.io.files import write_json, write_text

__all__ = [
    "BEST_CHECKPOINT",
    "LAST_CHECKPOINT",
    "RunFolder",
    "find_checkpoint",
    "find_checkpoints",
    "folders_with",
    "newest_ensemble",
    "newest_resumable",
    "run_folder_of",
]


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
    def uncertainty(self) -> Path:
        """Prediction intervals, as fitted on the validation rows."""
        return self.root / "uncertainty.json"

    @property
    def members(self) -> Path:
        """Run folders of an ensemble's members, ``1``, ``2``, …; there is none in a single run."""
        return self.root / "members"

    def member(self, number: int) -> RunFolder:
        """Return the run folder of an ensemble's member, counted from 1."""
        return RunFolder(self.members / str(number))

    @property
    def is_member(self) -> bool:
        """Whether this is the run folder of an ensemble's member."""
        return self.root.resolve().parent.name == self.members.name

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.root / "figures"

    @property
    def explanations(self) -> Path:
        """Folder of what ``explain=`` found."""
        return self.root / "explanations"

    @property
    def page(self) -> Path:
        """Page that shows the run, for a browser."""
        return self.root / "report.html"

    def create(self) -> RunFolder:
        """Make the folder and its subfolders; an existing folder is kept."""
        for folder in (self.root, self.checkpoints, self.figures):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def create_ensemble(self) -> RunFolder:
        """Make the folder of an ensemble, whose checkpoints are its members'; an existing folder is kept."""
        for folder in (self.root, self.members, self.figures):
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


def folders_with(place: str, name: str, remedy: str) -> list[Path]:
    """Return the folder if it holds a file, else those right inside it that do, such as the jobs of a multirun.

    Args:
        place: the folder.
        name: the file, below it.
        remedy: what to give, where there is no such folder.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise UserError(f"{place}: no such folder", remedy=remedy)
    return [root] if (root / name).is_file() else sorted(one for one in root.iterdir() if (one / name).is_file())


def find_checkpoints(location: str | Path) -> list[Path]:
    """Return the checkpoint of a run, or that of each member of a finished ensemble.

    Args:
        location: run folder, ``checkpoints`` folder or checkpoint file.

    Raises:
        UserError: there is no checkpoint at ``location``, or its ensemble is not finished.
    """
    folder = RunFolder(Path(location).expanduser())
    if not folder.members.is_dir():
        return [find_checkpoint(location)]
    members = folder.read_summary().get("ensemble")
    if not members:
        raise UserError(
            f"ckpt={location}: the ensemble is not finished",
            remedy=f"go on with train.py ckpt={location}, or give one of its members, such as {folder.member(1).root}",
        )
    return [find_checkpoint(folder.member(number).root) for number in range(1, len(members["seeds"]) + 1)]


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


def newest_ensemble(runs: Path, name: str) -> RunFolder | None:
    """Return the newest ensemble of ``name`` under ``runs`` of which a member has saved anything."""
    candidates = [path for path in (runs / name).glob("*/members/*/checkpoints/*.ckpt") if path.is_file()]
    if not candidates:
        return None
    newest = max(candidates, key=lambda path: path.stat().st_mtime_ns)
    return RunFolder(newest.parents[3])
