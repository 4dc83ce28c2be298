"""The benchmark of ALIGNN's training step runs, with the peers where they are installed and without them."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("graphs", ["k_nearest", "radius"])
def test_the_benchmark_prints_every_side_and_then_the_ratios(repository, graphs):
    script = repository / "benchmarks" / "alignn_step.py"
    if not script.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    lines = subprocess.run(
        [sys.executable, str(script), "--quick", "--threads", "1", "--graphs", graphs],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    ).stdout.splitlines()
    assert re.match(
        rf"4 crystals \((mp|made up)\), \d+ atoms, [\d,]+ bonds, [\d,]+ triplets \({graphs}\), width 16, 1 threads",
        lines[0],
    )
    times = {line[:38].strip(): line[38:].split() for line in lines if line.endswith("GiB")}
    ours = {f"crystalfm, {norm} norm, {kind}" for norm in ("batch", "layer") for kind in ("fp32", "bf16")}
    assert ours <= set(times)
    assert all(0 < float(columns[0].removesuffix("s")) < 60 for columns in times.values())
    if find_spec("alignn") is None:
        assert set(times) == ours
        assert lines[-1].startswith("no ratio without the peers")
    else:
        assert lines[-1].startswith("ratio crystalfm, layer norm, bf16 over alignn")
