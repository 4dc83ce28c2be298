"""From a command line to Hydra and back: compose, check, run, and turn what happened into an exit code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from rich.console import Console

from crystalfm.cli.jobs import Job, JobStopped
from crystalfm.cli.multirun import (
    EXIT_FAILED,
    FailedJobError,
    JobFailure,
    conclude,
    finished_jobs,
    has_finished,
    report_failure,
    show_ended,
)
from crystalfm.config.compose import Composer, message_of
from crystalfm.config.extras import quiet_optuna
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import COMMAND_LINE, ConfigError, Problem
from crystalfm.config.sweeps import plan_jobs
from crystalfm.contracts import UserError
from crystalfm.run.parallel.stamp import begin_run, is_child_rank, new_stamp, shared_stamp

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

EXIT_INTERRUPTED = 130
_SIGNAL_BASE = 128
_REFUSED_FLAGS = {
    "experimental_rerun": "--experimental-rerun runs a pickle and is refused; repeat the overrides instead",
    "config_path": "--config-path would hide the shipped configuration; use --config-dir to add your own",
    "config_name": "--config-name is fixed; use experiment=NAME for a ready-made configuration",
}


def run_task(task: str, argv: Sequence[str] | None = None, *, command: Sequence[str] = ()) -> int:
    """Run ``train``, ``evaluate`` or ``generate`` with Hydra's command line.

    Args:
        task: the command; its configuration is ``<task>.yaml``.
        argv: arguments; ``None`` takes those of the process.
        command: words before them on the command line of the process (``["train"]`` for ``crystalfm train``).

    Returns:
        exit code: 0, 2 after a user's mistake, 130 after Ctrl-C, 143 after a termination signal. An unexpected
        exception is raised, so that the process shows its traceback and ends with 1.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    saved_argv = list(sys.argv)
    try:
        return guarded(lambda: _run(task, arguments, list(command)))
    finally:
        sys.argv[:] = saved_argv


def guarded(action: Callable[[], int]) -> int:
    """Run an action; tell a user's mistake without a traceback, and let everything unexpected through."""
    try:
        return action()
    except UserError as error:
        report_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        # A run that stopped on a signal after saving its state says which signal it was.
        number = getattr(error, "signal_number", None)
        if not isinstance(number, int):
            raise
        Console(stderr=True).print(f"{error}; go on with ckpt=auto", style="yellow", highlight=False, markup=False)
        return _SIGNAL_BASE + number


def report_error(error: UserError) -> None:
    """Write a user's mistake to stderr."""
    console = Console(stderr=True, highlight=False)
    console.print("error:", style="bold red", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)


def _run(task: str, arguments: list[str], command: list[str]) -> int:
    options = _parse(arguments)
    options.overrides = [_written_out(task, item) for item in options.overrides]
    begin_run()
    with Composer(task, options.config_dir) as composer:
        if options.help or options.hydra_help:
            show = composer.hydra.app_help if options.help else composer.hydra.hydra_help
            show(config_name=task, args_parser=get_args_parser(), args=options)
            return 0
        if options.shell_completion:
            composer.hydra.shell_completion(config_name=task, overrides=options.overrides)
            return 0
        if options.info is not None:
            composer.hydra.show_info(options.info, config_name=task, overrides=options.overrides)
            return 0
        if options.cfg is not None:
            preflight(composer, options.overrides, fit=False)
            composer.hydra.show_cfg(task, options.overrides, options.cfg, options.package, options.resolve)
            return 0
        return _start(composer, options, Job(task, command))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = get_args_parser()
    options, rest = parser.parse_known_intermixed_args(arguments)
    if rest:
        raise UserError(f"unknown option {' '.join(rest)}", remedy="see --help; overrides are written key=value")
    for name, reason in _REFUSED_FLAGS.items():
        if getattr(options, name) is not None:
            raise UserError(reason)
    if options.resolve and options.cfg is None and not options.help:
        raise UserError("--resolve goes with --cfg or --help")
    commands = [options.run, options.multirun, options.cfg is not None, options.info is not None]
    if sum(map(bool, commands)) > 1:
        raise UserError("only one of --run, --multirun, --cfg and --info can be given")
    return options


def _written_out(task: str, override: str) -> str:
    """Return an override with its key's full name: ``infill=FILE`` is short for ``infill.structure=FILE``."""
    short = task == "generate" and override.startswith("infill=") and not override.startswith("infill={")
    return override.replace("infill=", "infill.structure=", 1) if short else override


def _start(composer: Composer, options: argparse.Namespace, job: Job) -> int:
    overrides: list[str] = options.overrides
    multirun = bool(options.multirun) or "hydra.mode=MULTIRUN" in overrides
    configs = preflight(composer, overrides, multirun=multirun)
    importlib.import_module(f"crystalfm.run.{job.task}")
    mode = "MULTIRUN" if multirun else "RUN"
    overrides = [*(item for item in overrides if not item.startswith("hydra.mode=")), f"hydra.mode={mode}"]
    try:
        overrides += _folder_overrides(composer, overrides, configs[0], multirun=multirun)
    except HydraException as error:
        raise ConfigError([Problem("configuration", message_of(error), where=COMMAND_LINE)]) from error
    if multirun:
        return _run_jobs(composer, overrides, job)
    try:
        composer.hydra.run(config_name=job.task, task_function=job, overrides=overrides)
    except JobStopped as stop:
        raise stop.error from None
    return 0


def _run_jobs(composer: Composer, overrides: list[str], job: Job) -> int:
    """Run a multirun and tell how it ended."""
    plan = plan_jobs(composer, composer.parse(overrides)[0], multirun=True)
    job.num_jobs = plan.num_jobs
    if plan.is_search:
        quiet_optuna()
    folder = _sweep_folder(composer, overrides)
    try:
        returned = composer.hydra.multirun(config_name=job.task, task_function=job, overrides=overrides)
    except JobStopped as stop:
        show_ended(folder)
        _report_stopped(stop, plan.num_jobs)
        raise stop.error from None
    except FailedJobError as stop:
        show_ended(folder)
        report_failure(stop.failure)
        return stop.failure.exit_code
    except ValueError:
        # Optuna has no best trial to write down when every trial failed.
        if not plan.is_search or has_finished(folder):
            raise
        show_ended(folder)
        report_failure(JobFailure("no job of the search finished; the log of each job says why", "", EXIT_FAILED))
        return EXIT_FAILED
    return conclude(finished_jobs(returned), folder)


def _sweep_folder(composer: Composer, overrides: list[str]) -> Path:
    """Return the folder of the multirun."""
    cfg: Any = composer.hydra.compose_config(
        config_name=composer.task, overrides=overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    HydraConfig.instance().set_config(cfg)
    return Path(cfg.hydra.sweep.dir).expanduser().absolute()


def _report_stopped(stop: JobStopped, num_jobs: int) -> None:
    number = (stop.job or 0) + 1
    Console(stderr=True, highlight=False).print(
        f"job {number} of {num_jobs} failed ({' '.join(stop.overrides)}); {num_jobs - number} not started",
        style="bold red",
        markup=False,
        soft_wrap=True,
    )


def _folder_overrides(composer: Composer, overrides: list[str], cfg: DictConfig, *, multirun: bool) -> list[str]:
    """Return overrides for the folder of this run, made here so that no other run can have it."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    if is_child_rank() or any(item.lstrip("+").startswith(f"{key}=") for item in overrides):
        return []
    resumed = None if multirun else _resumed_folder(composer.task, cfg)
    if resumed is not None:
        return [f"{key}={_quoted(resumed)}", "hydra.output_subdir=null"]
    if shared_stamp() is not None:
        return []
    folder = _claim(composer, overrides, key, multirun=multirun)
    return [f"{key}={_quoted(folder)}"]


def _resumed_folder(task: str, cfg: DictConfig) -> Path | None:
    """Return the folder of the run that is to go on, or ``None``."""
    if task == "generate" and cfg.resume is not None:
        return Path(cfg.resume).expanduser().resolve()
    if task != "train" or cfg.ckpt is None:
        return None
    from crystalfm.run.checkpoints.resume_point import ensemble_location, resume_location

    runs = Path(cfg.paths.runs).expanduser()
    if cfg.ensemble > 1:
        root = ensemble_location(cfg.ckpt, runs, cfg.name)
        return None if root is None else root.resolve()
    checkpoint = resume_location(cfg.ckpt, runs, cfg.name)
    return None if checkpoint is None else checkpoint.resolve().parent.parent


def _claim(composer: Composer, overrides: list[str], key: str, *, multirun: bool) -> Path:
    """Make a folder that did not exist, with a new stamp until one is found."""
    while True:
        new_stamp()
        cfg: Any = composer.hydra.compose_config(
            config_name=composer.task,
            overrides=overrides,
            run_mode=RunMode.MULTIRUN if multirun else RunMode.RUN,
            with_log_configuration=False,
        )
        HydraConfig.instance().set_config(cfg)
        section, _, name = key.removeprefix("hydra.").partition(".")
        folder = Path(cfg.hydra[section][name]).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"the run folder {folder} cannot be made: {error.strerror}",
                remedy="choose another folder with paths.runs",
            ) from error
        return folder


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
