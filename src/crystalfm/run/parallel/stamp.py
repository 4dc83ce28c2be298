"""Names of run folders: when a run started, and a random part so that no two runs share a folder."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

STAMP_VARIABLE = "CRYSTALFM_RUN_STAMP"
"""Environment variable through which a process tells its distributed children the run's stamp."""

_RANK_VARIABLES = ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID")
_MAX_NAME_CHARACTERS = 80
_DIGEST_CHARACTERS = 6


def run_stamp() -> str:
    """Return the stamp of this process's run, ``2026-01-31_12-00-00_1a2b3c``."""
    stamp = os.environ.get(STAMP_VARIABLE)
    return stamp or new_stamp()


def new_stamp() -> str:
    """Draw a stamp for a new run and share it with the children of this process."""
    now = datetime.now().astimezone()
    stamp = f"{now:%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"
    os.environ[STAMP_VARIABLE] = stamp
    return stamp


def begin_run() -> None:
    """Forget the stamp of an earlier run, unless this process is a rank of a distributed one; take SLURM's signals."""
    from crystalfm.run.parallel.slurm import hold_signals

    hold_signals()
    shared = shared_stamp()
    if shared is not None:
        os.environ[STAMP_VARIABLE] = shared
    elif not is_child_rank():
        os.environ.pop(STAMP_VARIABLE, None)


def shared_stamp() -> str | None:
    """Return the stamp that all ranks of a run have without talking, where another program started every one of them.

    Under SLURM's ``srun`` it is made of the job's numbers; other programs have to pass ``CRYSTALFM_RUN_STAMP``. A
    training of a batch job has the same stamp whenever SLURM starts the job again, also as a single process: the job's
    number and a short hash of the arguments, which tells several trainings of one job apart.
    """
    known = os.environ.get
    if "LOCAL_RANK" not in os.environ and in_batch_job() and _is_training():
        digest = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()
        return f"slurm_{known('SLURM_JOB_ID')}_{digest[:_DIGEST_CHARACTERS]}"
    if int(known("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ:
        return f"slurm_{known('SLURM_JOB_ID')}_{known('SLURM_STEP_ID')}_{known('SLURM_RESTART_COUNT', '0')}"
    return known(STAMP_VARIABLE) if "LOCAL_RANK" in os.environ else None


def in_batch_job() -> bool:
    """Say whether this process belongs to a job that SLURM runs by itself and can start again."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("ENVIRONMENT") == "BATCH"


def is_own_folder(folder: Path) -> bool:
    """Say whether a run folder, or the multirun's around it, has the name that this batch job uses at every start."""
    stamp = os.environ.get(STAMP_VARIABLE, "")
    named = stamp in {folder.name, folder.parent.name}
    return in_batch_job() and stamp.startswith(f"slurm_{os.environ['SLURM_JOB_ID']}_") and named


def _is_training() -> bool:
    """Say whether this is ``train.py`` or ``crystalfm train``: other commands may be repeated with other results."""
    return Path(sys.argv[0]).stem == "train" or sys.argv[1:2] == ["train"]


def is_child_rank() -> bool:
    """Say whether this process works for a run that another process started."""
    return any(os.environ.get(name, "0") != "0" for name in _RANK_VARIABLES)


def folder_name(text: str) -> str:
    """Return overrides as a short name that needs no quoting anywhere (``model-llm_fusion_data.limit-200``)."""
    name = re.sub(r"[^\w.\-]+", "-", text.replace(",", "_")).strip("-._")
    return name[:_MAX_NAME_CHARACTERS].rstrip("-._") or "default"


def register_resolvers() -> None:
    """Make ``${run_stamp:}`` and ``${folder_name:TEXT}`` known to the configuration."""
    # Cached per configuration, so that a launcher's other processes see the folder of the first.
    OmegaConf.register_new_resolver("run_stamp", run_stamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
