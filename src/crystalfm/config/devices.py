"""Which accelerators this machine has, found without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

_SMI_TIMEOUT_SECONDS = 5
_DEVICE_FOLDER = Path("/dev")


def num_cuda_devices() -> int:
    """Return how many CUDA or ROCm devices this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = [item.strip() for item in visible.split(",") if item.strip()]
        if not chosen or chosen[0] == "-1":
            return 0
        return min(len(chosen), _num_present())
    return _num_present()


def _num_present() -> int:
    nodes = [path for path in _DEVICE_FOLDER.glob("nvidia*") if path.name[len("nvidia") :].isdigit()]
    if nodes:
        return len(nodes)
    if (_DEVICE_FOLDER / "kfd").exists():
        return len(list(_DEVICE_FOLDER.glob("dri/renderD*"))) or 1
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        found = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_SMI_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def has_mps() -> bool:
    """Say whether this is a Mac with Apple's GPU."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def torch_is_cpu_only() -> bool:
    """Say whether the installed PyTorch was built without GPU support."""
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False
