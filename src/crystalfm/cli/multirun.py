"""The end of a multirun: what became of each job, whatever process it ran in."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILED = 1
_SIGNAL_BASE = 128
_SHOWN_METRICS = 2


@dataclass(frozen=True)
class JobFailure:
    """What a job of another process returns in place of its result; plain text, so that it reaches this process.

    Attributes:
        message: what the user is told.
        trace: traceback, empty for a user's mistake.
        exit_code: 2 for a user's mistake, 128 + the signal for a stopped job, else 1.
    """

    message: str
    trace: str
    exit_code: int

    @classmethod
    def of(cls, error: Exception) -> JobFailure:
        """Describe an exception."""
        if isinstance(error, UserError):
            return cls(str(error), "", error.exit_code)
        number = getattr(error, "signal_number", None)
        if isinstance(number, int):
            return cls(str(error), "", _SIGNAL_BASE + number)
        return cls(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)), EXIT_FAILED)


@dataclass(frozen=True)
class FinishedJob:
    """One job of a multirun.

    Attributes:
        overrides: those that not every job has, as one line.
        folder: its run folder.
        result: what it returned, or a ``JobFailure``.
    """

    overrides: str
    folder: Path
    result: Any


def finished_jobs(returned: Any) -> list[FinishedJob]:
    """Return the jobs that Hydra's own sweeper ran, in order; other sweepers return none."""
    jobs = [job for batch in returned for job in batch] if isinstance(returned, list) else []
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [
        FinishedJob(
            overrides=" ".join(item for item in job.overrides if item not in shared),
            folder=Path(str(OmegaConf.select(job.hydra_cfg, "hydra.runtime.output_dir"))),
            result=job.return_value,
        )
        for job in jobs
    ]


def conclude(jobs: Sequence[FinishedJob]) -> int:
    """Show a table of the jobs and the error of each that failed.

    Returns:
        exit code: 0, or that of the failures where they agree, else 1.
    """
    if not jobs:
        return 0
    _console(stderr=False).print(_table(jobs))
    codes = set()
    errors = _console(stderr=True)
    for number, job in enumerate(jobs, 1):
        if isinstance(job.result, JobFailure):
            codes.add(job.result.exit_code)
            title = f"job {number} of {len(jobs)} failed ({job.overrides}), see {_shown(job.folder)}"
            errors.print(title, style="bold red", markup=False, soft_wrap=True)
            errors.print(job.result.trace or job.result.message, markup=False, soft_wrap=True)
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else EXIT_FAILED


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def _table(jobs: Sequence[FinishedJob]) -> Table:
    table = Table("job", "overrides", "result", Column("folder", overflow="fold"), title="multirun")
    for number, job in enumerate(jobs, 1):
        cells = [job.overrides, _described(job.result), _shown(job.folder)]
        # Overrides are full of brackets, which rich would take for its own.
        table.add_row(str(number), *(cell.replace("[", r"\[") for cell in cells))
    return table


def _shown(folder: Path) -> str:
    """Return the path as short as it can be typed from here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _described(result: Any) -> str:
    if isinstance(result, JobFailure):
        return "failed"
    if isinstance(result, float):
        return f"val/loss {result:.4g}"
    if isinstance(result, Mapping):
        numbers = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float)]
        return ", ".join(numbers[:_SHOWN_METRICS])
    return "finished"
