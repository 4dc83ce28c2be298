"""``crystalfm bench``: how fast the configured network trains, in one process and in several.

Each number of processes is measured in a fresh process of its own, which trains through the same session as
``train`` and writes what it found; this one waits, compares and reports.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from crystalfm.assets.progress import RichProgress
from crystalfm.config.bench import num_gpus, process_counts
from crystalfm.config.build import resolve_modalities
from crystalfm.contracts import UserError
from crystalfm.io.files import write_json
from crystalfm.report.summary import environment_facts
from crystalfm.report.tables import shown_path
from crystalfm.report.throughput import throughput_table
from crystalfm.run.build import asset_store, construct, is_classical, is_generator
from crystalfm.run.folder import RunFolder
from crystalfm.run.language.session import LanguageSession, build_language
from crystalfm.run.network import NetworkSession
from crystalfm.run.parallel.distributed import gather
from crystalfm.run.parallel.ranks import PARENT_VARIABLE, follow_parent, local_ranks, rank_command
from crystalfm.run.parallel.stamp import is_child_rank, shared_stamp
from crystalfm.run.prepare import prepare_data
from crystalfm.run.setup import resolved_config, seed_everything
from crystalfm.run.throughput import PhaseTimer, ThroughputMeter, combine
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.run.prepare import PreparedData
    from crystalfm.run.trainer_session import TrainerSession

RESULT_VARIABLE = "CRYSTALFM_BENCH_RESULT"
"""Environment variable that makes a process measure and write what it found to this file."""

RESULTS = "bench.json"
_RESULTS_VERSION = 1
_LOG = "output.log"
_SHOWN_LINES = 25
_END_SECONDS = 10.0


class BenchError(UserError):
    """The process that measured failed.

    Args:
        processes: number of processes it measured with.
        code: its return code.
        log: what it wrote.
    """

    def __init__(self, processes: int, code: int, log: Path) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        super().__init__(
            f"the measurement with {_named(processes)} ended with exit code {code}",
            remedy="\n  ".join([f"the end of {log}:", *lines]),
        )
        self.exit_code = code if code > 0 else 128 - code


def bench(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Measure the training of the configured network and write the results.

    Args:
        cfg: checked configuration.
        run_dir: folder for results and logs.

    Returns:
        rows a second by number of processes (``rows_per_second_2``).

    Raises:
        UserError: something the user can mend.
        BenchError: a measurement failed; the results of those before it are written.
    """
    if is_classical(cfg.model):
        raise UserError(
            f"bench measures the training of networks; model={cfg.model.name} is none",
            remedy="choose model=llm_fusion; the summary.json of a training says how long a classical model took",
        )
    target = os.environ.get(RESULT_VARIABLE)
    if target is not None:
        return measure(cfg, run_dir, Path(target))
    if is_child_rank() or shared_stamp() is not None:
        raise UserError("bench starts its processes itself", remedy="start it once, without srun or torchrun")
    console = run_console()
    output = _output_file(cfg, run_dir)
    runs: list[dict[str, Any]] = []
    report = {
        "version": _RESULTS_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": resolved_config(cfg),
        "environment": environment_facts(),
        "hardware": hardware_facts(),
        "warmup_steps": int(cfg.bench.warmup),
        "runs": runs,
    }
    for processes in process_counts(cfg.bench.processes, cfg.trainer.accelerator):
        console.print(f"measuring {_named(processes)}: {cfg.bench.warmup} + {cfg.bench.steps} steps", highlight=False)
        runs.append(_run_apart(processes, run_dir))
        add_scaling(runs)
        write_json(output, report)
    console.print(_title(cfg, runs[0]), style="bold", highlight=False, markup=False)
    console.print(throughput_table(runs))
    console.print(f"results: {shown_path(output.resolve())}", highlight=False, markup=False, soft_wrap=True)
    return {f"rows_per_second_{run['processes']}": float(run["rows_per_second"]) for run in runs}


def _named(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _output_file(cfg: DictConfig, run_dir: Path) -> Path:
    if cfg.bench.output is None:
        return run_dir / RESULTS
    path = Path(cfg.bench.output).expanduser()
    if path.is_dir():
        raise UserError(f"bench.output={path} is a folder", remedy=f"give a file, such as {path / RESULTS}")
    return path


def _title(cfg: DictConfig, run: Mapping[str, Any]) -> str:
    rows = f"{run['batch_size']} rows a process"
    return f"{cfg.model.name} on {cfg.data.name}, llm {cfg.llm.name}: {cfg.bench.steps} steps of {rows}"


def hardware_facts() -> dict[str, Any]:
    """Return CPU, cores that this process may use, and memory in GiB."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == "model name"
    ]
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(usable),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
    }


def add_scaling(runs: list[dict[str, Any]]) -> None:
    """Add to each run its speed-up over the first and the efficiency of that.

    The efficiency is the speed-up for each unit of hardware: GPUs, or CPU threads, which processes share.
    """
    first = runs[0]
    for run in runs:
        run["speedup"] = run["rows_per_second"] / first["rows_per_second"]
        run["scaling_efficiency"] = run["speedup"] * _units(first) / _units(run)


def _units(run: Mapping[str, Any]) -> int:
    threads = 1 if run["on_gpu"] else int(run["num_threads"])
    return int(run["processes"]) * threads


def _run_apart(processes: int, run_dir: Path) -> dict[str, Any]:
    """Measure in a fresh process, with ranks of its own where there are several."""
    folder = (run_dir / f"processes_{processes}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / "measured.json", folder / _LOG
    environment = {**os.environ, RESULT_VARIABLE: str(result), PARENT_VARIABLE: str(os.getpid())}
    if "SLURM_JOB_ID" in environment:
        # Lightning would take the tasks of the job for the ranks; to it, jobs of this name are interactive shells.
        environment["SLURM_JOB_NAME"] = "bash"
    command = rank_command(folder, [f"bench.processes=[{processes}]"])
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if code or not result.is_file():
        raise BenchError(processes, code, log)
    measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return measured


def measured_config(cfg: DictConfig) -> DictConfig:
    """Return the configuration of one measurement: a training of so many steps that writes and validates nothing."""
    own = copy.deepcopy(cfg)
    (processes,) = process_counts(own.bench.processes, own.trainer.accelerator)
    devices = own.trainer.devices
    own.trainer.devices = processes if isinstance(devices, (int, str)) else list(devices)[:processes]
    own.trainer.max_steps = own.bench.warmup + own.bench.steps
    own.trainer.max_epochs = -1
    own.trainer.max_minutes = None
    own.trainer.limit_val_batches = 0
    own.trainer.val_check_interval = 1.0
    own.trainer.num_sanity_val_steps = 0
    own.trainer.profiler = None
    own.callbacks.progress_bar = False
    own.logger.tensorboard = False
    own.logger.wandb = False
    if own.trainer.num_threads is None and not num_gpus(own.trainer.accelerator):
        import torch

        own.trainer.num_threads = max(1, torch.get_num_threads() // processes)
    return own


def measured_session(
    cfg: DictConfig, folder: RunFolder, store: AssetStore, console: Console
) -> tuple[TrainerSession, ThroughputMeter, PreparedData]:
    """Prepare the data and build the session of a training, with a meter in it.

    Args:
        cfg: configuration of ``measured_config``.
        folder: where the log of metrics goes.
        store: where data and pretrained weights come from.
        console: where progress is shown.

    Returns:
        the session, the meter that knows the result after ``fit``, and the data.
    """
    session: TrainerSession
    if is_generator(cfg.model):
        built, prepared, prompts = build_language(cfg, store)
        session = LanguageSession(cfg, resolved_config(cfg), built, prompts, prepared, folder, console)
    else:
        prepared = prepare_data(cfg, store, resolve_modalities(cfg, construct(cfg.data).spec()))
        session = NetworkSession(cfg, resolved_config(cfg), prepared, folder, store, console)
    timer = PhaseTimer()
    meter = ThroughputMeter(timer, warmup=cfg.bench.warmup, steps=cfg.bench.steps)
    session.measure_with(timer, meter)
    return session, meter, prepared


def measure(cfg: DictConfig, run_dir: Path, target: Path) -> dict[str, float]:
    """Train for the measured steps and write what was found.

    Args:
        cfg: configuration with one number of processes.
        run_dir: folder of this measurement.
        target: JSON file; the first process of the training writes it.

    Returns:
        rows a second; nothing in the other processes.

    Raises:
        UserError: something the user can mend.
    """
    import torch

    follow_parent()
    quiet_lightning()
    console = run_console()
    cfg = measured_config(cfg)
    seed_everything(cfg)
    store = asset_store(cfg, RichProgress(console))
    session, meter, prepared = measured_session(cfg, RunFolder(run_dir), store, console)
    with local_ranks(session.num_local_processes, run_dir, []):
        session.fit(None)
        measured = meter.measured
        if measured is None:
            raise UserError(
                "the training ended before the measurement did", remedy="is there a training row, and no other limit?"
            )
        parts = gather(asdict(measured))
    if is_child_rank():
        return {}
    on_gpu = measured.peak_device_memory_gib is not None
    found = {
        "processes": len(parts),
        "device": session.device,
        "device_name": torch.cuda.get_device_name() if on_gpu else None,
        "on_gpu": on_gpu,
        "num_threads": torch.get_num_threads(),
        "precision": session.precision,
        "batch_size": prepared.dataset.batch_size,
        "loader_workers": prepared.dataset.num_workers,
        "train_rows": prepared.splits.sizes["train"],
        "data_hash": prepared.table.content_hash,
        "parameters": session.num_parameters,
        "trainable_parameters": session.num_trainable,
        **combine(parts, peak_tflops=cfg.bench.peak_tflops),
    }
    write_json(target, found)
    return {"rows_per_second": found["rows_per_second"]}
