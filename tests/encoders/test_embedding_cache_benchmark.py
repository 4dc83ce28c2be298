"""The benchmark of the embedding cache runs, and shows what it is there to show."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_cache_beats_encoding_at_every_step_and_memory_stays_flat(repository):
    if not (repository / "benchmarks").is_dir():
        pytest.skip("needs the repository's benchmarks folder")
    command = [sys.executable, str(repository / "benchmarks" / "embedding_cache.py"), "--quick", "--threads", "1"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout.splitlines()
    assert float(lines[-1].removeprefix("ratio: ")) > 2
    added = [float(match[1]) for match in map(re.compile(r"reading adds +([0-9.]+) MB").search, lines) if match]
    assert len(added) == 2
    assert added[1] < 15  # of 31 MB of vectors
