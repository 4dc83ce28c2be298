"""A generator trained in two processes has the losses of one, copied and shared weights alike."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from language_helpers import TINY_GENERATOR, write_salts
from rank_runs import RELATIVE_TOLERANCE, Runs, ended


def trained(folder: Path, name: str, *overrides: str) -> Path:
    command = [
        *(sys.executable, "-m", "crystalfm", "train", *TINY_GENERATOR, f"data.path={folder / 'mp'}", f"name={name}"),
        *(f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}", "trainer.log_every_n_steps=1"),
        *overrides,
    ]
    environment = Runs(folder).environment()
    ended(subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False), 0)
    (run,) = (folder / "runs" / name).iterdir()
    return run


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as stream:
        return [float(row["val/loss"]) for row in csv.DictReader(stream) if row["val/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(tmp_path: Path, strategy: str) -> None:
    write_salts(tmp_path / "mp")
    one = trained(tmp_path, "one", "data.batch_size=8", "optimizer.lr=0.01")
    many = [f"trainer.strategy={strategy}", "trainer.devices=2", "data.batch_size=4", "optimizer.lr=0.01"]
    two = trained(tmp_path, "two", *many)
    assert len(losses(one)) == 2
    np.testing.assert_allclose(losses(one), losses(two), rtol=RELATIVE_TOLERANCE)
    summaries = [json.loads((run / "summary.json").read_text())["metrics"]["test"] for run in (one, two)]
    assert summaries[0]["num_tokens"] == summaries[1]["num_tokens"]
    assert summaries[0]["loss"] == pytest.approx(summaries[1]["loss"], rel=RELATIVE_TOLERANCE)
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    assert {name: tensor.shape for name, tensor in weights[0].items()} == {
        name: tensor.shape for name, tensor in weights[1].items()
    }
