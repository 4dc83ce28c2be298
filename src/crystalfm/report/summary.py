"""The run's ``summary.json``: what came out, on what data, in what environment."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crystalfm
from crystalfm.io.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.metrics.scores import ModelScores
    from crystalfm.report.facts import RunFacts

SUMMARY_VERSION = 1
_PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "transformers",
    "tokenizers",
    "numpy",
    "pandas",
    "rdkit",
    "selfies",
    "scikit-learn",
    "xgboost",
    "xgboost-cpu",
)
_GIT_TIMEOUT_SECONDS = 10.0
_BYTES_PER_GIB = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How the work ended.

    Attributes:
        num_epochs: epochs completed.
        wall_time_seconds: time of the whole run; of what came before a resume the training alone.
        train_time_seconds: time spent in training alone, over all interruptions, or ``None`` when nothing was trained.
        peak_device_memory_gib: peak memory of the accelerator, where there is one.
        validation: best validation quantities, such as ``{"loss": 0.12, "epoch": 21}``.
        finished: false when the run was interrupted.
    """

    num_epochs: int
    wall_time_seconds: float
    train_time_seconds: float | None = None
    peak_device_memory_gib: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    finished: bool = True


def git_commit(folder: Path) -> str | None:
    """Return the commit checked out in ``folder``, ``-dirty`` where files differ; ``None`` outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def package_commit() -> str | None:
    """Return the commit of the checkout this package runs from, or ``None`` for an installed copy."""
    root = Path(crystalfm.__file__).resolve().parents[2]
    is_checkout = (root / "pyproject.toml").is_file() and (root / ".git").exists()
    return git_commit(root) if is_checkout else None


def package_versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the installed versions of ``names``; packages that are not installed are left out."""
    return {"crystalfm": crystalfm.__version__, **installed_versions(names)}


def environment_facts() -> dict[str, Any]:
    """Return versions, commit, Python and platform, fit for ``summary.json``."""
    return {
        "versions": package_versions(),
        "commit": package_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def peak_memory_gib() -> float:
    """Return the largest resident memory this process has had, in GiB.

    Linux keeps it per program in ``/proc``; ``getrusage`` would also count what the parent held before it
    started us, and is used elsewhere.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _BYTES_PER_GIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _BYTES_PER_GIB


def build_summary(
    facts: RunFacts,
    outcome: Outcome,
    results: Sequence[ModelScores],
    *,
    split: str = "test",
    uncertainty: Mapping[str, Any] | None = None,
    members: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put together ``summary.json``.

    Args:
        facts: what the run knows of itself.
        outcome: how the work ended.
        results: scores of the model and of its baselines, all on ``split``.
        split: split that was scored.
        uncertainty: level, quantiles and test coverage of the prediction intervals.
        members: number and seeds of an ensemble's members.

    Returns:
        plain containers; ``metrics[split][model][target]`` holds ``mae``, ``rmse``, ``mse``, ``r2``,
        ``num_rows``, ``unit`` and ``mae_ev``, in physical units.
    """
    metrics = {result.model: {score.target.name: score.as_dict() for score in result.scores} for result in results}
    return {
        "version": SUMMARY_VERSION,
        "name": facts.run_name,
        "finished": outcome.finished,
        "model": _model_facts(facts),
        "data": {
            "name": facts.data,
            "content_hash": facts.data_hash,
            "split_sizes": dict(facts.split_sizes),
            "num_rejected": facts.num_rejected,
            "targets": [{"name": target.name, "unit": target.unit} for target in facts.targets],
        },
        "seed": facts.seed,
        "metrics": {split: metrics},
        "uncertainty": None if uncertainty is None else dict(uncertainty),
        "ensemble": None if members is None else dict(members),
        "validation": dict(outcome.validation),
        "training": {
            "num_epochs": outcome.num_epochs,
            "wall_time_seconds": outcome.wall_time_seconds,
            "train_time_seconds": outcome.train_time_seconds,
            "device": facts.device,
            "precision": facts.precision,
            "num_threads": facts.num_threads,
            "peak_memory_gib": peak_memory_gib(),
            "peak_device_memory_gib": outcome.peak_device_memory_gib,
        },
        "environment": environment_facts(),
    }


def _model_facts(facts: RunFacts) -> dict[str, Any]:
    encoders = [
        {"modality": report.modality, "name": report.name, "frozen": report.frozen, "width": report.width}
        for report in facts.encoders
    ]
    return {
        "name": facts.model,
        "encoders": encoders,
        "parameters": {"total": facts.num_parameters, "trainable": facts.num_trainable},
    }
