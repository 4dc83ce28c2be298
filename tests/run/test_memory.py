"""Freed memory is used again, where the C library can be told so."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystalfm.run.parallel import memory
from crystalfm.run.parallel.memory import keep_freed_memory

HAS_MALLOPT = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
SCRIPT = """
import resource, sys, torch
from crystalfm.run.parallel.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    arrays = [torch.empty(2 ** 21).fill_(1.0) for _ in range(8)]
for _ in range(4): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in memory.OF_THE_USER} | variables
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, setting],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    return int(found.stdout)


@pytest.mark.skipif(not HAS_MALLOPT, reason="needs a C library with mallopt")
def test_freed_arrays_cost_no_page_faults() -> None:
    # The threshold that glibc starts from. Left alone it raises it, and what it gives back then depends on what lies
    # behind the arrays.
    given_back = faults("leave", MALLOC_MMAP_THRESHOLD_="131072")
    kept = faults("keep")
    assert given_back > 5 * 8 * 2**21 * 4 / 4096 / 2  # half of the pages of each step, at least
    assert kept < given_back / 5  # an array or two may find no place among the freed ones


def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory()


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MALLOPT, reason="needs a C library with mallopt")
def test_the_benchmark_prints_both_and_then_the_ratio(repository: Path) -> None:
    script = repository / "benchmarks" / "freed_memory.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    lines = subprocess.run(
        [sys.executable, str(script), "--quick", "--threads", "1"],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    ).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["freed", "given", "kept", "ratio:"]
