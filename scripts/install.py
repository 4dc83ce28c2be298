"""Install the project with pinned versions into the environment of the Python that runs this script.

usage: VENV/bin/python scripts/install.py [EXTRA ...]

On Linux the Python package index offers PyTorch with gigabytes of CUDA libraries. Where no CUDA device is
present they are not wanted, so the build is chosen first:

* ``TORCH_INDEX_URL`` is set: PyTorch comes from that index (https://download.pytorch.org/whl/cpu, .../cu128).
* a CUDA device is present: PyTorch comes from pip's own index.
* otherwise pip is asked what it would install, and where that includes CUDA libraries PyTorch comes from its
  own CPU index instead.

Needs the standard library and pip alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX_URL = "https://download.pytorch.org/whl/cpu"
SUPPORTED = ((3, 11), (3, 13))


def say(text: str) -> None:
    """Write a line for the user."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def pip(*arguments: str, quiet: bool = True) -> subprocess.CompletedProcess[str]:
    """Run pip of this environment; its errors go to the terminal, its answer is returned."""
    noise = ["-qq"] if quiet and not os.environ.get("VERBOSE") else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, *noise]
    return subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE if quiet else None)


def pinned(name: str) -> str:
    """Return ``name==version`` as the constraints file pins it.

    Raises:
        SystemExit: the file does not pin it.
    """
    text = CONSTRAINTS.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)}==\S+", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{CONSTRAINTS.name} does not pin {name}")
    return found.group()


def has_cuda_device() -> bool:
    """Return whether an NVIDIA device can be seen without PyTorch."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def cuda_packages(report: str) -> list[str]:
    """Return the CUDA packages named in the JSON of ``pip install --report``."""
    names = [item["metadata"]["name"].lower() for item in json.loads(report)["install"]]
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def torch_index(requirement: str) -> str | None:
    """Return the index to take PyTorch from, or ``None`` for pip's own.

    Raises:
        SystemExit: pip could not say what it would install.
    """
    chosen = os.environ.get("TORCH_INDEX_URL")
    if chosen:
        return chosen
    if has_cuda_device():
        return None
    plan = pip("install", "--dry-run", "--report", "-", "-c", str(CONSTRAINTS), requirement)
    if plan.returncode != 0:
        raise SystemExit(f"pip finds no {requirement} for Python {sys.version.split()[0]}")
    unwanted = cuda_packages(plan.stdout)
    if not unwanted:
        return None
    say(f"no CUDA device here: PyTorch comes from {CPU_INDEX_URL}, without {len(unwanted)} CUDA packages")
    return CPU_INDEX_URL


def install_torch() -> None:
    """Install PyTorch, unless pip's own index is the right place for it.

    Raises:
        SystemExit: the index does not answer or has no such version.
    """
    requirement = pinned("torch")
    index = torch_index(requirement)
    if index is None:
        return
    if pip("install", "--index-url", index, requirement).returncode != 0:
        raise SystemExit(
            f"could not install {requirement} from {index}\n"
            "  set TORCH_INDEX_URL to an index that has it: a mirror of PyTorch's CPU index, or\n"
            "  the Python package index itself, whose build brings CUDA libraries (several gigabytes)"
        )


def main(extras: list[str]) -> int:
    """Install PyTorch, then the project with ``extras``; return the exit status."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        say("crystalfm needs Python 3.11 to 3.13; choose one with: make PYTHON=python3.11 ...")
        return 1
    say(f"installing into {sys.prefix} (first time: a few hundred megabytes, minutes)")
    install_torch()
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    return pip("install", "-c", str(CONSTRAINTS), "--editable", project).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
