"""The benchmark of defect generation runs, and its sides differ as they should."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_edits_need_a_fraction_of_the_tokens(repository):
    script = repository / "benchmarks" / "defect_generation.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    words = ["--configurations", "4", "--turns", "1", "--host", "BN"]
    lines = subprocess.run(
        [sys.executable, str(script), *words], check=True, capture_output=True, text=True, timeout=240
    ).stdout.splitlines()
    assert lines[0].startswith("BN, 3 defects, 0.6 M parameters, 1 threads")
    rows = {line[:24].strip(): line[24:].split() for line in lines[2:5]}
    assert list(rows) == ["edits", "full", "full, no grammar"]
    tokens = {name: float(columns[3]) for name, columns in rows.items()}
    assert tokens == {"edits": 13, "full": 4 * 128 + 1, "full, no grammar": 4 * 128 + 1}
    drawn = {name: float(columns[4]) for name, columns in rows.items()}
    assert drawn["edits"] <= 13 < drawn["full"] <= 128 < drawn["full, no grammar"]
    assert re.fullmatch(r"edits over full: [\d.]+ by the clock, [\d.]+ by CPU seconds", lines[5])
