"""Commands that train in several processes, and how their results compare."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from run_helpers import TINY, molecules

RELATIVE_TOLERANCE = 1e-4
"""Between one process and several: the same sums in another order, in float32, over a few dozen steps."""

FAULT = """
import os, signal
if os.environ.get("TEST_FAULT"):
    kind, rank, step = os.environ["TEST_FAULT"].split(":")
    from lightning.pytorch.callbacks import Callback
    from crystalfm.run import network

    class Fault(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_rank != int(rank) or trainer.global_step != int(step):
                return
            if kind == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            elif kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "bug":
                raise ZeroDivisionError("broken on purpose")
            elif kind == "nan":
                print("BROKEN ROWS", batch["row"].tolist(), flush=True)
                batch["targets"][:] = float("nan")

    original = network.NetworkSession._callbacks
    network.NetworkSession._callbacks = lambda self, console: [Fault(), *original(self, console)]
"""


class Runs:
    """Starts commands in a folder of their own."""

    def __init__(self, folder: Path, trainer: str = "ddp") -> None:
        self.folder = folder
        self.trainer = trainer
        (folder / "sitecustomize.py").write_text(FAULT)

    def table(self, num_rows: int) -> Path:
        path = self.folder / f"molecules_{num_rows}.csv"
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", "smiles", "energy", "gap"])
            for number, smiles in enumerate(molecules(num_rows)):
                writer.writerow([f"m{number}", smiles, len(smiles) + 0.5 * smiles.count("N"), 0.1 + 0.02 * number])
        return path

    def command(self, *overrides: str, processes: int, num_rows: int = 60) -> list[str]:
        return [
            *(sys.executable, "-m", "crystalfm", "train", *TINY, f"trainer={self.trainer}", "trainer.accelerator=cpu"),
            *("trainer.precision=32-true", f"trainer.devices={processes}", f"data.path={self.table(num_rows)}"),
            *("data.id_column=name", f"paths.cache={self.folder / 'cache'}", f"paths.runs={self.folder / 'runs'}"),
            *overrides,
        ]

    def environment(self, fault: str = "") -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "SLURM_"))}
        own = {"PYTHONPATH": str(self.folder), "TEST_FAULT": fault, "OMP_NUM_THREADS": "1", "HOME": str(self.folder)}
        return known | own

    def __call__(
        self, *overrides: str, processes: int = 2, num_rows: int = 60, fault: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*overrides, processes=processes, num_rows=num_rows),
            env=self.environment(fault),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def only(self, name: str) -> Path:
        (folder,) = (self.folder / "runs" / name).iterdir()
        return folder


NO_DROPOUT = ["encoders.smiles.dropout=0", "model.dropout=0", "llm.dropout=0"]


def ended(result: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    assert result.returncode == code, result.stdout + result.stderr
    return result


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def predictions_of(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(folder / "predictions.parquet").to_pydict()
    return found


def assert_close(first: Path, second: Path) -> None:
    """Compare validation losses, weights and predictions of two runs."""
    one, two = predictions_of(first), predictions_of(second)
    assert one["id"] == two["id"]
    assert len(set(one["id"])) == len(one["id"])
    for name in ("energy_eV_predicted", "gap_hartree_predicted"):
        np.testing.assert_allclose(one[name], two[name], rtol=RELATIVE_TOLERANCE, atol=1e-5)
    curves = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (first, second)]
    losses = [[float(row["val/loss"]) for row in rows if row["val/loss"]] for rows in curves]
    assert len(losses[0]) == len(losses[1]) > 1
    np.testing.assert_allclose(losses[0], losses[1], rtol=RELATIVE_TOLERANCE)
