"""The benchmark of a whole training runs, beside the package's own loop where that is installed and without it."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_errors_times_and_then_the_ratios(repository, tmp_path):
    script = repository / "benchmarks" / "alignn_training.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    sizes = ["--crystals", "32", "--epochs", "2", "--layers", "1", "--width", "8", "--batch", "4", "--threads", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "CRYSTALFM_MIRROR"}
    lines = subprocess.run(
        [sys.executable, str(script), *sizes, "--precision", "32-true", "bf16-mixed"],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**environment, "CRYSTALFM_CACHE": str(tmp_path / "cache")},
    ).stdout.splitlines()
    assert lines[0] == (
        "32 crystals (made up): train 24, val 4, test 4; 1 + 1 layers of 8, 2 epochs, batches of 4, 1 threads"
    )
    assert re.fullmatch(r"mean +\d\.\d{4}", lines[2])
    rows = [line for line in lines[3:] if re.search(r"\ds +[\d,]+ +[\d,]+$", line)]
    errors = {line[:24].strip(): float(line[24:36]) for line in rows}
    assert len({tuple(line.split()[-2:]) for line in rows}) == 1, "both sides train on the same graphs"
    has_peer = find_spec("alignn") is not None and find_spec("lmdb") is not None
    assert set(errors) == {"crystalfm, 32-true", "crystalfm, bf16-mixed", *(["alignn"] if has_peer else [])}
    assert all(0 < error < 10 for error in errors.values())
    expected = "ratio crystalfm, bf16-mixed over alignn: training" if has_peer else "no ratio without the peer"
    assert lines[-1].startswith(expected)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == []
