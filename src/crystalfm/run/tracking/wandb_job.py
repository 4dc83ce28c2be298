"""Weights & Biases for what has no curves: evaluations, generations and comparisons, each a job beside its run."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.config.extras import require_logger
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.tracking.wandb_identity import IDENTITY_FILE, WandbIdentity, resolve_mode
from crystalfm.run.tracking.wandb_run import MAX_TABLE_ROWS, WandbRun, files_staged_in, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import wandb
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.run.tracking.wandb_identity import Mode

_LOG = logging.getLogger(__name__)

_SUFFIXES = frozenset({".json", ".csv", ".parquet", ".html", ".png", ".yaml"})
_SUBFOLDERS = ("figures", "explanations")
_NOT_TABLES = frozenset({"rejected"})


@dataclass(frozen=True)
class Source:
    """Something that a job is about.

    Attributes:
        location: run folder, checkpoint or structures, as given.
        identity: W&B run that it belongs to; ``None`` where it was not tracked.
    """

    location: str
    identity: WandbIdentity | None

    @property
    def model(self) -> str | None:
        """Name of the artifact with the run's best checkpoint, as `WandbRun.log_results` sends it."""
        if self.identity is None:
            return None
        team = "" if self.identity.entity is None else f"{self.identity.entity}/"
        return f"{team}{self.identity.project}/model-{self.identity.id}:best"

    def described(self) -> dict[str, Any]:
        """Return what a job's configuration says of it."""
        known = {} if self.identity is None else {"run": asdict(self.identity), "model": self.model}
        return {"location": self.location, **known}


def sources_of(location: str | Path) -> list[Source]:
    """Return what lies at a location: a run, or the jobs of a multirun that were tracked.

    Args:
        location: run folder, one of its checkpoints, or anything else that was given.
    """
    path = Path(location).expanduser()
    # A checkpoint lies in the folder checkpoints of its run; a table of samples in that of its generation.
    for root in (path, *(path.resolve().parents[:2] if path.is_file() else ())):
        identity = WandbIdentity.read(root)
        if identity is not None:
            return [Source(str(location), identity)]
    jobs = sorted(file.parent for file in path.glob(f"*/{IDENTITY_FILE}")) if path.is_dir() else []
    return [Source(str(job), WandbIdentity.read(job)) for job in jobs] or [Source(str(location), None)]


class TrackedJob:
    """What an evaluation, a generation or a comparison sends to W&B when it is done; nothing without ``logger.wandb``.

    Whether W&B can be used at all is found out before the work. Once the work is done, no failure of W&B takes it
    away: it is told as a warning, and where the server cannot be reached the job is kept offline.

    Args:
        kind: type of the job, such as ``evaluate``.
        cfg: its configuration, with ``name``, ``logger`` and ``paths``.
        folder: folder of its results.

    Raises:
        UserError: W&B is not installed, or online was asked for and cannot be.
    """

    def __init__(self, kind: str, cfg: DictConfig, folder: Path) -> None:
        self._kind = kind
        self._cfg = cfg
        self._folder = RunFolder(folder)
        self._mode: Mode = "disabled"
        if cfg.logger.wandb and not is_child_rank():
            require_logger("wandb")
            self._mode = resolve_mode(cfg)

    def send(
        self,
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
        locations: Sequence[str | Path],
        console: Console,
    ) -> None:
        """Send metrics, pictures, tables and files of the folder.

        Args:
            config: resolved configuration.
            metrics: final metrics by name.
            locations: what the job is about; the first that was tracked decides on project and group.
            console: where the job's address is shown.
        """
        if self._mode == "disabled":
            return
        sources = [source for location in locations for source in sources_of(location)]
        beside = next((source.identity for source in sources if source.identity is not None), None)
        identity = WandbIdentity.of(self._cfg, self._folder, beside)
        described = {**config, "sources": [source.described() for source in sources]}
        with files_staged_in(self._folder.root / "wandb"):
            run = self._open(described, identity)
            if run is None:
                return
            limit = float(self._cfg.logger.wandb_timeout_seconds)
            with WandbRun(run, self._folder, timeout_seconds=limit) as tracked:
                tracked.show_address(console)
                for source in sources:
                    with tracked.told_rather_than_raised(f"that the {self._kind} is of {source.model}"):
                        _link(run, source)
                with tracked.told_rather_than_raised("the results"):
                    run.summary.update({name: value for name, value in metrics.items() if math.isfinite(value)})
                    media = _pictures(self._folder.root) | _tables(self._folder.root)
                    if media:
                        run.log(media)
                    tracked.log_artifact(self._kind, _files(self._folder.root), metadata=dict(metrics))

    def _open(self, config: Mapping[str, Any], identity: WandbIdentity) -> wandb.Run | None:
        """Open the run; offline where its server cannot be reached, and ``None`` where that fails too."""
        import wandb

        modes: list[Mode] = [self._mode] if self._mode == "offline" else [self._mode, "offline"]
        for mode in modes:
            try:
                return start(self._cfg, config, self._folder, identity, mode, job_type=self._kind)
            except (wandb.Error, OSError) as error:
                rest = "" if mode == modes[-1] else ": the job is kept offline"
                _LOG.warning("W&B could not open a run %s (%s)%s", mode, error, rest)
                wandb.teardown()
        return None


def _link(run: wandb.Run, source: Source) -> None:
    """Say in W&B that the job used the source's checkpoint; an offline run only has it in its configuration."""
    if source.model is not None and not run.offline:
        run.use_artifact(source.model, type="model")


def _files(root: Path) -> list[Path]:
    """Return the files of a job's folder that W&B gets; crystals are in a table, CIF files stay behind."""
    own = [path for path in root.iterdir() if path.suffix in _SUFFIXES and path.name != IDENTITY_FILE]
    below = [path for name in _SUBFOLDERS for path in (root / name).glob("*") if path.is_file()]
    return sorted(own) + sorted(below)


def _pictures(root: Path) -> dict[str, Any]:
    """Return pictures by name, those of subfolders below the folder's name."""
    import wandb

    found = {}
    for path in _files(root):
        if path.suffix == ".png":
            found[path.stem if path.parent == root else f"{path.parent.name}/{path.stem}"] = wandb.Image(str(path))
    return found


def _tables(root: Path) -> dict[str, Any]:
    """Return the first rows of each table by name: predictions and samples, and the tables of what was found."""
    files = _files(root)
    found = {path.stem: path for path in files if path.suffix == ".parquet"}
    for path in files:
        if path.suffix == ".csv" and path.stem not in _NOT_TABLES and path.stem not in found:
            found[f"tables/{path.stem}"] = path
    return {name: _table(path) for name, path in found.items()}


def _table(path: Path) -> wandb.Table:
    import pandas as pd
    import wandb

    frame = (
        pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False, na_values=[""])
    )
    shown = frame.head(MAX_TABLE_ROWS).astype(object)
    # A cell without a value is None, which W&B takes in columns of any type.
    cells = shown.where(shown.notna(), None).to_numpy()
    return wandb.Table(columns=[str(name) for name in frame.columns], data=cells, allow_mixed_types=True)
