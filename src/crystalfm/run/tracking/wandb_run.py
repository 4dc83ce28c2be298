"""Weights & Biases: one run there for each run folder, the same one after a resume."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from crystalfm.config.extras import require_logger
from crystalfm.contracts import UserError
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.tracking.wandb_identity import IDENTITY_FILE, WandbIdentity, resolve_mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    import wandb
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.run.folder import RunFolder
    from crystalfm.run.tracking.wandb_identity import Mode

_LOG = logging.getLogger(__name__)

STEP = "trainer/global_step"
"""Metric on the horizontal axis of every curve: optimizer steps, so that a resumed run goes on where it stopped."""

MAX_TABLE_ROWS = 10_000
"""Rows of the predictions shown as a table; the artifact holds all of them."""

_DATA_DIR = "WANDB_DATA_DIR"
_MAX_START_SECONDS = 90.0
_GRACE_SECONDS = 5.0
_SERVICE = "wandb-core"


class WandbCurves(Logger):
    """Sends Lightning's metrics to the open W&B run; does nothing while none is open."""

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "wandb"

    @property
    def version(self) -> str:
        """The run's id stands in the run folder."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The whole configuration is sent when the run opens."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a point to each curve."""
        import wandb

        if wandb.run is not None:
            wandb.run.log(metrics if step is None else {**metrics, STEP: step})


def _short_name(folder: RunFolder) -> str:
    """Return the folder's name; of an ensemble's member with that of the ensemble before it."""
    root = folder.root.resolve()
    return f"{root.parents[1].name}/{root.name}" if folder.is_member else root.name


class WandbRun:
    """A W&B run while it is open; every method does nothing where the run is not tracked.

    Args:
        run: W&B's own object, or ``None``.
        folder: run folder.
        send_checkpoint: whether the best checkpoint becomes an artifact.
        timeout_seconds: how long W&B may take to send what is left at the end.
    """

    def __init__(
        self,
        run: wandb.Run | None,
        folder: RunFolder,
        *,
        send_checkpoint: bool = True,
        timeout_seconds: float = _MAX_START_SECONDS,
    ) -> None:
        self._run = run
        self._folder = folder
        self._send_checkpoint = send_checkpoint
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> Self:
        """Take over the open run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run, as failed after an exception."""
        if self._run is None:
            return
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError

        if error is not None:
            self._note_failure(error)
        # W&B keeps its own limit except while artifacts wait to be sent: then its process is ended.
        limit = threading.Timer(self._timeout_seconds + _GRACE_SECONDS, _end_service)
        limit.daemon = True
        limit.start()
        try:
            self._run.finish(exit_code=int(error is not None))
            # Waits until everything is on disk; W&B's own hook at exit does not run in every process of a launcher.
            wandb.teardown()
        # The limit of time, or the end of W&B's own process: neither takes away a run that is complete here.
        except (OSError, HandleAbandonedError, wandb.Error) as problem:
            _LOG.warning(
                "W&B did not take the rest (%s: %s); the run folder has everything, "
                "send W&B's record with: wandb sync %s",
                type(problem).__name__,
                problem,
                _record_folder(self._run),
            )
            with suppress(OSError):
                wandb.teardown()
        finally:
            limit.cancel()

    def log_split(self) -> None:
        """Send the ids of each split and the rejected rows."""
        with self.told_rather_than_raised("the split"):
            self.log_artifact("split", [self._folder.split, self._folder.rejected])

    def log_results(self, metrics: Mapping[str, float]) -> None:
        """Send final metrics, figures, predictions, the run's page and the best checkpoint.

        Args:
            metrics: final metrics by name; they replace the curves' last points in the run's summary.
        """
        if self._run is not None:
            self._run.summary.update(dict(metrics))
        with self.told_rather_than_raised("the results"):
            self._send_results(metrics)

    def _send_results(self, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            return
        import wandb

        folder = self._folder
        images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.figures.glob("*.png"))}
        self._run.log({**images, "predictions": _predictions_table(folder.predictions)})
        self.log_artifact("predictions", [folder.predictions, folder.summary])
        self.log_artifact("report", [folder.page, *sorted(folder.figures.glob("*.png"))])
        if self._send_checkpoint:
            files = [folder.best, folder.config]
            self.log_artifact("model", files, aliases=["latest", "best"], metadata=dict(metrics))

    @contextmanager
    def told_rather_than_raised(self, what: str) -> Iterator[None]:
        """Go on without W&B's copy when its server fails: everything is in the run folder.

        Args:
            what: what it did not take, in words.
        """
        if self._run is None:
            yield
            return
        import wandb

        try:
            yield
        # W&B's own errors, those of the connection, and answers that its client cannot read.
        except (wandb.Error, OSError, ValueError) as error:
            _LOG.warning("W&B did not take %s (%s: %s)", what, type(error).__name__, error)

    def show_address(self, console: Console) -> None:
        """Say where the run is: its page, or the command that uploads it."""
        if self._run is None:
            return
        if self._run.offline:  # asked for its page, it would warn that there is none
            where = f", offline; upload it with: wandb sync {_record_folder(self._run)}"
        else:
            where = f": {self._run.url}"
        console.print(f"W&B run {self._run.id}{where}", highlight=False, soft_wrap=True, markup=False)

    def _note_failure(self, error: BaseException) -> None:
        """Say in the run's summary why it ended; a run that a signal stopped counts as pre-empted."""
        if self._run is None:
            return
        if isinstance(error, TrainingInterruptedError):
            self._run.mark_preempting()
        self._run.summary["error"] = f"{type(error).__name__}: {error}"

    def log_artifact(
        self,
        kind: str,
        files: Iterable[Path],
        aliases: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Send files as the artifact ``<kind>-<id of the run>``, without those that are not there; nothing without any.

        Args:
            kind: the artifact's type.
            files: files of the run folder; in the artifact those of its subfolders but of the checkpoints keep them.
            aliases: names of this version.
            metadata: values shown beside it.
        """
        present = [path for path in files if path.is_file()]
        if self._run is None or not present:
            return
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind, metadata=metadata)
        for path in present:
            inside = path.parent not in {self._folder.root, self._folder.checkpoints}
            artifact.add_file(str(path), name=f"{path.parent.name}/{path.name}" if inside else path.name)
        self._run.log_artifact(artifact, aliases=aliases)


@contextmanager
def wandb_run(cfg: DictConfig, config: Mapping[str, Any], folder: RunFolder, console: Console) -> Iterator[WandbRun]:
    """Open the W&B run of a run folder and close it, as failed when the body raises.

    Without ``logger.wandb``, in mode ``disabled`` and on every rank but the first, nothing is opened.

    Args:
        cfg: configuration.
        config: the same, resolved, as it is sent.
        folder: run folder.
        console: where the run's address is shown.

    Raises:
        UserError: W&B is not installed or cannot be reached.
    """
    mode: Mode = "disabled"
    if cfg.logger.wandb:
        require_logger("wandb")
        mode = resolve_mode(cfg)
    if mode == "disabled" or is_child_rank():
        yield WandbRun(None, folder)
        return
    with (
        files_staged_in(folder.root / "wandb"),
        WandbRun(
            _open(cfg, config, folder, mode),
            folder,
            send_checkpoint=cfg.logger.wandb_checkpoint,
            timeout_seconds=cfg.logger.wandb_timeout_seconds,
        ) as tracked,
    ):
        tracked.show_address(console)
        tracked.log_split()
        yield tracked


@contextmanager
def files_staged_in(folder: Path) -> Iterator[None]:
    """Let artifacts wait for their upload in the run folder rather than in the home folder."""
    if os.environ.get(_DATA_DIR):
        yield
        return
    os.environ[_DATA_DIR] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]


def _open(cfg: DictConfig, config: Mapping[str, Any], folder: RunFolder, mode: Mode) -> wandb.Run:
    """Open the run; where its server cannot be reached, offline, unless a new run was asked to be online."""
    import wandb

    is_new = not (folder.root / IDENTITY_FILE).is_file()
    identity = WandbIdentity.of(cfg, folder)
    try:
        run = start(cfg, config, folder, identity, mode)
    except wandb.errors.AuthenticationError as error:
        raise _refusal(error) from error
    except wandb.errors.CommError as error:
        if mode == "offline" or (is_new and cfg.logger.wandb_mode == "online"):
            raise _refusal(error) from error
        _LOG.warning("W&B's server cannot be reached (%s): this run is kept offline", error)
        wandb.teardown()
        run = start(cfg, config, folder, identity, "offline")
    except wandb.Error as error:
        raise _refusal(error) from error
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def start(
    cfg: DictConfig,
    config: Mapping[str, Any],
    folder: RunFolder,
    identity: WandbIdentity,
    mode: Mode,
    *,
    job_type: str | None = None,
) -> wandb.Run:
    """Open a W&B run.

    Args:
        cfg: configuration with ``name`` and ``logger``.
        config: what is sent as the run's configuration.
        folder: run folder.
        identity: which run it is.
        mode: online or offline.
        job_type: what it does, where it is no training.

    Raises:
        wandb.Error: it cannot be opened.
    """
    import wandb

    limit = float(cfg.logger.wandb_timeout_seconds)
    return wandb.init(
        id=identity.id,
        project=identity.project,
        entity=identity.entity,
        group=identity.group,
        job_type=job_type,
        name=f"{cfg.name}/{_short_name(folder)}",
        tags=list(cfg.logger.wandb_tags) or None,
        config=dict(config),
        dir=folder.root,
        mode=mode,
        resume="allow",
        # The run folder keeps the output; capturing it would disturb the progress line.
        settings=wandb.Settings(
            silent=True,
            console="off",
            reinit="finish_previous",
            init_timeout=min(limit, _MAX_START_SECONDS),
            finish_timeout=limit,
            finish_timeout_raises=True,
        ),
    )


def _refusal(error: Exception) -> UserError:
    return UserError(
        f"W&B could not start the run: {error}",
        remedy="use logger.wandb_mode=offline and upload later with wandb sync",
    )


def _end_service() -> None:
    """End the process that sends to W&B's server; what it has on disk stays, and waiting calls return."""
    import psutil

    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.name().startswith(_SERVICE):
                child.terminate()


def _record_folder(run: wandb.Run) -> Path:
    """Return the folder that ``wandb sync`` takes."""
    return Path(run.dir).parent


def _predictions_table(path: Path) -> wandb.Table:
    """Return the first rows of the predictions, test rows before validation rows."""
    import pyarrow.parquet as pq
    import wandb

    records = pq.read_table(path).to_pylist()
    records.sort(key=lambda record: record["split"] != "test")
    columns = list(records[0]) if records else ["id", "split"]
    return wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in records[:MAX_TABLE_ROWS]])
