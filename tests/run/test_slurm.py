"""Trainings as jobs of SLURM, on a real controller where one can be had: arrays, time limits, requeues, lost nodes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from run_helpers import TINY, MakeConfig, last_state
from slurm_node import SlurmNode, require_slurm

from crystalfm.run.train import train
from debian_packages import NoProgramError

SETTINGS = [*TINY, "trainer.max_epochs=3", "model.dropout=0.1", "optimizer.lr=0.01", "trainer.num_threads=1"]

PAUSE = """
import os
where, _, steps = os.environ.get("TEST_PAUSE", "").rpartition(":")
start = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
if "SLURM_PROCID" in os.environ and start < len(steps.split(";")) and steps:
    import time
    from pathlib import Path
    from lightning.pytorch.callbacks import Callback
    from crystalfm.run import network
    from crystalfm.run.callbacks import StopOnSignal

    class Pause(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step != int(steps.split(";")[start]) or where not in str(trainer.default_root_dir):
                return
            (stop,) = [item for item in trainer.callbacks if isinstance(item, StopOnSignal)]
            Path(os.environ["TEST_FOLDER"], f"paused_{start}_{trainer.global_rank}").write_text(str(os.getpid()))
            end = time.monotonic() + 120
            while stop.received is None and time.monotonic() < end:
                time.sleep(0.05)

    original = network.NetworkSession._callbacks
    network.NetworkSession._callbacks = lambda self, console: [Pause(), *original(self, console)]
"""
"""Pauses the training of a job at a step, a different one at each of its starts, until a signal comes in."""


@pytest.fixture(scope="module")
def node() -> Iterator[SlurmNode]:
    # One at a time, whatever other processes run these tests.
    with FileLock(Path(tempfile.gettempdir()) / f"crystalfm-test-slurm-{os.getuid()}.lock"):
        try:
            require_slurm()
        except NoProgramError as reason:
            pytest.skip(str(reason))
        with SlurmNode() as started:
            yield started


class Jobs:
    """Trainings as jobs of the node, all on the same table."""

    def __init__(self, node: SlurmNode, folder: Path, table: Path) -> None:
        self.node = node
        self.folder = folder
        self.table = table
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(PAUSE)
        self.variables = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "TEST_FOLDER": str(folder)}

    def command(self, *overrides: str) -> list[str]:
        places = [f"paths.runs={self.folder / 'runs'}", f"paths.cache={self.folder / 'cache'}"]
        given = [f"data.path={self.table}", "data.id_column=name", *places, *overrides]
        return [sys.executable, "-m", "crystalfm", "train", *SETTINGS, *given]

    def submit(self, *overrides: str, tasks: int = 1, pause: str = "", after: str = "") -> str:
        """Queue a batch script with one ``srun``."""
        script = f"cd {self.folder}\nsrun {shlex.join(self.command(*overrides))}{after}"
        options = (f"--ntasks-per-node={tasks}", "--nodes=1", "--time=60")
        number = len(list(self.folder.glob("*.sh")))
        return self.node.submit(
            script, self.folder / f"job_{number}.out", *options, **self.variables, TEST_PAUSE=pause.replace(",", ";")
        )

    def output(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("job_*.out")))

    def until_paused(self, start: int, rank: int = 0) -> int:
        """Return the number of the process that pauses."""
        flag = self.folder / f"paused_{start}_{rank}"
        end = time.monotonic() + 150
        while not (flag.exists() and flag.read_text()):
            assert time.monotonic() < end, f"start {start} never came to its pause\n{self.output()}\n{self.node.logs()}"
            assert self.node.client("squeue", "-h"), f"the jobs ended before their pause\n{self.output()}"
            time.sleep(0.3)
        return int(flag.read_text())

    def only(self, name: str) -> Path:
        (folder,) = (self.folder / "runs" / name).iterdir()
        return folder


@pytest.fixture
def jobs(node: SlurmNode, tmp_path: Path, molecule_csv: Path) -> Jobs:
    return Jobs(node, tmp_path, molecule_csv)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.2)


def assert_same_run(first: Path, second: Path) -> None:
    """Compare weights, logged numbers and predictions, bit for bit."""
    one, two = last_state(first), last_state(second)
    assert one["global_step"] == two["global_step"]
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, two["state_dict"][name]), name
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    tables = [pq.read_table(folder / "predictions.parquet") for folder in (first, second)]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_multirun_is_an_array_whose_jobs_outlast_their_time_limit(jobs: Jobs) -> None:
    pytest.importorskip("submitit")
    asked = ["timeout_min=60", "mem_gb=1", "cpus_per_task=1"]
    launcher = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{item}" for item in asked)]
    process = subprocess.Popen(
        jobs.command("-m", *launcher, "name=through,stopped"),
        env={**jobs.node.environment, **jobs.variables, "TEST_PAUSE": "/1_:7"},
        cwd=jobs.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: jobs.node.client("squeue", "-h") or process.poll() is not None)
        jobs.until_paused(0)
        (sweep,) = (jobs.folder / "runs" / "multirun").iterdir()
        numbers = sorted(path.name for path in (sweep / ".submitit").glob("*_[0-9]"))
        array = numbers[0].partition("_")[0]
        assert numbers == [f"{array}_0", f"{array}_1"]
        described = [jobs.node.job(number) for number in numbers]
        assert [(item["ArrayJobId"], item["ArrayTaskId"]) for item in described] == [(array, "0"), (array, "1")]
        # What SLURM sends itself, signal_delay_s before the limit.
        jobs.node.client("scancel", "--signal=USR2", numbers[1])
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    assert jobs.node.job(numbers[1])["Restarts"] == "1"
    assert jobs.node.job(numbers[0])["Restarts"] == "0"
    through, stopped = sorted(path for path in sweep.iterdir() if path.name[:2] in {"0_", "1_"})
    assert_same_run(through, stopped)
    assert out.count("val/loss") == 2
    assert "resuming from" in (sweep / ".submitit" / numbers[1] / f"{numbers[1]}_0_log.out").read_text()
    assert (stopped / "train.log").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_goes_on_after_a_requeue_and_a_lost_node(jobs: Jobs, make_config: MakeConfig) -> None:
    pytest.importorskip("wandb")
    tracked = ["logger=wandb", "logger.wandb_mode=offline", "callbacks.checkpoint_every_n_steps=2"]
    # The script outlives its step, so that the job still runs when its node is lost.
    job = jobs.submit("name=run", *tracked, pause=":7,13", after=" || sleep 100")
    train(make_config(*SETTINGS[len(TINY) :]), jobs.folder / "whole")
    jobs.until_paused(0)
    jobs.node.client("scontrol", "requeue", job)
    os.kill(jobs.until_paused(1), signal.SIGKILL)
    folder = jobs.only("run")
    assert last_state(folder)["global_step"] == 12
    jobs.node.client("scontrol", "update", f"NodeName={jobs.node.host}", "State=DOWN", "Reason=lost")
    # Refused where the node has come back by itself.
    jobs.node.client("scontrol", "update", f"NodeName={jobs.node.host}", "State=RESUME", check=False)
    (ended,) = jobs.node.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), jobs.output()
    assert jobs.output().count("resuming from") == 2
    assert_same_run(jobs.folder / "whole", folder)
    parts = [path.name.split("-")[-1] for path in (folder / "wandb").glob("offline-run-*")]
    assert len(parts) >= 2
    assert len(set(parts)) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_tasks_of_srun_stop_and_go_on_together(jobs: Jobs) -> None:
    distributed = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    through = jobs.submit(*distributed, "name=through", tasks=2)
    stopped = jobs.submit(*distributed, "name=stopped", tasks=2, pause="stopped:4")
    jobs.until_paused(0, rank=0)
    jobs.until_paused(0, rank=1)
    # As with sbatch --signal: the job queues itself again.
    jobs.node.client("scancel", "--signal=USR2", stopped)
    ended = jobs.node.wait(through, stopped)
    assert [item["JobState"] for item in ended] == ["COMPLETED", "COMPLETED"], jobs.output()
    assert [item["Restarts"] for item in ended] == ["0", "1"]
    assert f"queueing job {stopped} again" in jobs.output()
    assert_same_run(jobs.only("through"), jobs.only("stopped"))
