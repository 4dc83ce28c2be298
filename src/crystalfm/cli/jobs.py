"""What Hydra runs: one job of a command, with a user's mistakes carried out of Hydra unharmed."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, read_write
from rich.console import Console

from crystalfm.cli.multirun import FailedJobError, JobFailure
from crystalfm.cli.multirun_table import update_table
from crystalfm.config.extras import accept_own_launchers
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel.memory import keep_freed_memory
from crystalfm.run.parallel.slurm import QueuedAgain
from crystalfm.run.parallel.stamp import is_child_rank, register_resolvers

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LOG = logging.getLogger(__name__)
_IN_PROCESS_LAUNCHER = "BasicLauncher"
_PLAIN_SWEEPER = "BasicSweeper"

# Launchers that start other processes import this module there; the folder names of the config need the resolvers.
register_resolvers()
accept_own_launchers()


class JobStopped(BaseException):
    """A job failed: ends a multirun of this process at once, past Hydra's handling of exceptions.

    Args:
        error: what the job raised.
        job: number of the multirun's job, from 0.
        overrides: its overrides.
    """

    def __init__(self, error: Exception, job: int | None, overrides: list[str]) -> None:
        super().__init__(str(error))
        self.error = error
        self.job = job
        self.overrides = overrides


@dataclass
class Job:
    """Callable that Hydra calls with the configuration of each job.

    Attributes:
        task: ``train``, ``evaluate`` or ``generate``.
        command: words of the command line before the overrides (``["train"]`` for ``crystalfm train``).
        num_jobs: jobs of the multirun; one outside of it.
        results: what each job returned, in the order in which they ended.
    """

    task: str
    command: list[str] = field(default_factory=list)
    num_jobs: int = 1
    results: list[Any] = field(default_factory=list)

    def __call__(self, cfg: DictConfig) -> Any:
        """Run the job.

        Returns:
            the quantity to minimise for Hydra's sweepers where the result has one, else the result; a ``JobFailure``
            for a failed job of another process, so that the process that started it hears of every failure.

        Raises:
            JobStopped: the job failed in this process.
            FailedJobError: the job failed, under a sweeper that counts its failures.
        """
        hydra_cfg: Any = HydraConfig.get()
        self._describe_to_children(hydra_cfg)
        self._announce(hydra_cfg)
        run_dir = Path(hydra_cfg.runtime.output_dir)
        try:
            with QueuedAgain(*_states(cfg, RunFolder(run_dir))):
                result = self._run(cfg, run_dir)
        except Exception as error:
            if _runs_here(hydra_cfg) and not _is_tolerated(error, hydra_cfg):
                raise JobStopped(error, _job_number(hydra_cfg), list(hydra_cfg.overrides.task)) from error
            _LOG.info("the job failed", exc_info=error)
            if not _is_named(hydra_cfg.sweeper, _PLAIN_SWEEPER):
                raise FailedJobError(JobFailure.of(error)) from error
            return JobFailure.of(error)
        finally:
            if _job_number(hydra_cfg) is not None and not is_child_rank():
                update_table(Path(hydra_cfg.sweep.dir))
        self.results.append(result)
        return objective(result)

    def _run(self, cfg: DictConfig, run_dir: Path) -> Any:
        keep_freed_memory()
        function = getattr(importlib.import_module(f"crystalfm.run.{self.task}"), self.task)
        if "run_dir" in inspect.signature(function).parameters:
            return function(cfg, run_dir)
        return function(cfg)

    def _announce(self, hydra_cfg: Any) -> None:
        """Head the output of a multirun's job with its number and overrides."""
        number = _job_number(hydra_cfg)
        if number is not None and not is_child_rank():
            title = f"job {number + 1} of {self.num_jobs}: {' '.join(hydra_cfg.overrides.task)}"
            Console(highlight=False).print(title, style="bold", markup=False, soft_wrap=True)

    def _describe_to_children(self, hydra_cfg: Any) -> None:
        """Let data-parallel ranks, which are started with this process's arguments, run this job alone."""
        overrides = [str(item) for item in hydra_cfg.overrides.task]
        sys.argv[1:] = [*self.command, *overrides]
        with read_write(hydra_cfg):
            hydra_cfg.run.dir = str(hydra_cfg.runtime.output_dir)


def _states(cfg: DictConfig, folder: RunFolder) -> list[Path]:
    """Return the files that a training's newest state is written to: one, or one of each member of an ensemble."""
    num_members = int(cfg.get("ensemble") or 1)
    if num_members == 1:
        return [folder.last]
    return [folder.member(number).last for number in range(1, num_members + 1)]


def _runs_here(hydra_cfg: Any) -> bool:
    """Say whether the job runs in the process that the user started."""
    return hydra_cfg.mode == RunMode.RUN or _is_named(hydra_cfg.launcher, _IN_PROCESS_LAUNCHER)


def _is_tolerated(error: Exception, hydra_cfg: Any) -> bool:
    """Say whether a search was told to go on after a failed job; a signal stops it all the same."""
    return bool(hydra_cfg.sweeper.get("max_failure_rate")) and not hasattr(error, "signal_number")


def _is_named(node: Any, name: str) -> bool:
    return str(node.get("_target_", "")).endswith(name)


def _job_number(hydra_cfg: Any) -> int | None:
    """Return the number of a multirun's job, from 0, or ``None`` outside of a multirun."""
    return None if OmegaConf.is_missing(hydra_cfg.job, "num") else int(hydra_cfg.job.num)


def objective(result: Any) -> Any:
    """Return ``val/loss`` of a result that has one, for sweepers; else the result itself."""
    if isinstance(result, Mapping):
        for key in ("objective", "val/loss"):
            if isinstance(result.get(key), (int, float)):
                return float(result[key])
    return result
