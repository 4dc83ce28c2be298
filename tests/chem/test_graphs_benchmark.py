"""The benchmark of crystal graphs runs, with the peer where it is installed and without it."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_the_curve_and_then_the_ratios(repository):
    script = repository / "benchmarks" / "graphs.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    lines = subprocess.run(
        [sys.executable, str(script), "--quick"], check=True, capture_output=True, text=True, timeout=240
    ).stdout.splitlines()
    times = {line[:32].strip(): float(line.split()[-1]) for line in lines if re.match(r"(ours|alignn).*\d$", line)}
    assert 0 < times["ours, k-nearest"] < 5
    atoms = [int(line.split()[0]) for line in lines if re.match(r" *\d+( +[0-9.]+){4}$", line)]
    assert atoms == sorted(atoms)
    assert len(atoms) == 3
    if find_spec("alignn") is None:
        assert lines[-1] == "no ratio without the peer"
        assert any("pip install alignn" in line for line in lines)
    else:
        assert all(float(line.split()[3]) > 1 for line in lines if line.startswith("ratio"))
        assert lines[-1].startswith("ratio, ")
