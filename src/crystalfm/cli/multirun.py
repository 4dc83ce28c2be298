"""The end of a multirun: what became of each job, whatever process it ran in."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console

from crystalfm.cli.multirun_table import (
    FAILED,
    FINISHED,
    STOPPED,
    JobRow,
    closing_lines,
    differing,
    read_metrics,
    render_table,
    result_metrics,
    scan_jobs,
    write_table,
)
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILED = 1
_SIGNAL_BASE = 128


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


class FailedJobError(Exception):
    """A failed job, for sweepers that take failures as exceptions; it can travel between processes.

    Args:
        failure: what became of the job.
    """

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.message


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
    folders = [Path(str(OmegaConf.select(job.hydra_cfg, "hydra.runtime.output_dir"))) for job in jobs]
    lines = differing([job.overrides for job in jobs])
    return [FinishedJob(*item) for item in zip(lines, folders, (job.return_value for job in jobs), strict=True)]


def conclude(jobs: Sequence[FinishedJob], sweep_folder: Path | None = None) -> int:
    """Show a table of the jobs and the error of each that failed; write the table into the multirun's folder.

    Args:
        jobs: what the sweeper returned; where it returns nothing, the jobs are those with a folder in
            ``sweep_folder``.
        sweep_folder: folder of the multirun.

    Returns:
        exit code: 0, or that of the failures where they agree, else 1. A sweeper that returns nothing has raised the
        failures that count.
    """
    rows = [_row(number, job) for number, job in enumerate(jobs, 1)]
    if not rows and sweep_folder is not None:
        rows = scan_jobs(sweep_folder, ended=True)
    if not rows:
        return 0
    show_rows(rows, sweep_folder)
    from crystalfm.report.tables import shown_path

    codes = set()
    errors = _console(stderr=True)
    for number, job in enumerate(jobs, 1):
        if isinstance(job.result, JobFailure):
            codes.add(job.result.exit_code)
            title = f"job {number} of {len(jobs)} failed ({job.overrides}), see {shown_path(job.folder)}"
            errors.print(title, style="bold red", markup=False, soft_wrap=True)
            report_failure(job.result)
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else EXIT_FAILED


def show_rows(rows: Sequence[JobRow], sweep_folder: Path | None) -> None:
    """Write the table into the multirun's folder, and show it with where it is and the best job."""
    console = _console(stderr=False)
    file = None if sweep_folder is None else write_table(sweep_folder, rows)
    console.print(render_table(rows, title=f"multirun, {len(rows)} job{'s' if len(rows) > 1 else ''}"))
    for line in closing_lines(rows, file):
        console.print(line, markup=False, soft_wrap=True)


def show_ended(sweep_folder: Path) -> None:
    """Show the jobs of a multirun that a failure ended, where there is more than the failed one."""
    rows = scan_jobs(sweep_folder, ended=True)
    if len(rows) > 1:
        show_rows(rows, sweep_folder)


def has_finished(sweep_folder: Path) -> bool:
    """Say whether any job of a multirun has results."""
    return any(row.status == FINISHED for row in scan_jobs(sweep_folder, ended=True))


def report_failure(failure: JobFailure) -> None:
    """Write what a job failed of to stderr."""
    _console(stderr=True).print(failure.trace or failure.message, markup=False, soft_wrap=True)


def _row(number: int, job: FinishedJob) -> JobRow:
    status = FINISHED
    if isinstance(job.result, JobFailure):
        status = FAILED if job.result.exit_code < _SIGNAL_BASE else STOPPED
        return JobRow(number, job.overrides, job.folder, status)
    return JobRow(number, job.overrides, job.folder, status, read_metrics(job.folder) or result_metrics(job.result))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=160)
