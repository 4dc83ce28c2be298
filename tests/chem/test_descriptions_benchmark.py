"""The benchmark of descriptions runs, and its texts are equal."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_equal_texts_and_then_the_ratio(repository):
    script = repository / "benchmarks" / "descriptions.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    pytest.importorskip("robocrys", reason="needs the package robocrys")
    lines = subprocess.run(
        [sys.executable, str(script), "--crystals", "2"], check=True, capture_output=True, text=True, timeout=280
    ).stdout.splitlines()
    assert "texts equal: 2 of 2" in lines
    assert float(re.fullmatch(r"ratio: .* \((\S+) in CPU time\)", lines[-1])[1]) > 2
