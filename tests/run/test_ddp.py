"""Several processes train as one: same numbers, every row once, one voice, and no process left waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from rank_runs import NO_DROPOUT, Runs, assert_close, ended, metrics_of, predictions_of
from run_helpers import MakeConfig, last_state

from crystalfm.contracts import UserError
from crystalfm.data.sampler import ResumableBatchSampler
from crystalfm.run.checkpoints.resume import ExactResume
from crystalfm.run.folder import RunFolder
from crystalfm.run.parallel import distributed, ranks
from crystalfm.run.parallel.ranks import LocalRanks, RankError, local_ranks
from crystalfm.run.parallel.stamp import shared_stamp
from crystalfm.run.train import train


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


DROPOUT = ["model.dropout=0.1", "optimizer.lr=0.01", "trainer.max_epochs=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two processes, with dropout."""
    runs = Runs(tmp_path_factory.mktemp("whole"))
    ended(runs(*DROPOUT, "name=whole"), 0)
    return runs.only("whole")


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(runs: Runs, make_config: MakeConfig) -> None:
    two = ended(runs(*NO_DROPOUT, "name=two", "baselines=[mean]"), 0)
    one = runs.folder / "one"
    train(make_config(*NO_DROPOUT, f"data.path={runs.table(60)}", "data.batch_size=16"), one)
    assert_close(one, runs.only("two"))
    assert two.stdout.count("run folder") == 2
    assert two.stdout.count("epoch 1/2") <= 1
    assert "2 x cpu" in two.stdout
    assert two.stderr == ""
    folder = runs.only("two")
    assert {path.name for path in folder.iterdir()} >= {"summary.json", "figures", "metrics.csv", "rank_1.log"}
    assert len(last_state(folder)["callbacks"]["exact_resume"]["random"]) == 2
    assert "finished" not in (folder / "rank_1.log").read_text()


@pytest.mark.slow
def test_ten_rows_on_four_ranks(runs: Runs, make_config: MakeConfig) -> None:
    settings = [*NO_DROPOUT, "data.test_fraction=0.35", "data.val_fraction=0.2"]
    ended(runs(*settings, "name=four", "data.batch_size=2", processes=4, num_rows=20), 0)
    one = runs.folder / "one"
    train(make_config(*settings, f"data.path={runs.table(20)}", "data.batch_size=8"), one)
    predicted = predictions_of(runs.only("four"))
    assert len(predicted["id"]) == 10
    assert predicted["split"].count("val") == 3  # fewer than ranks
    assert_close(one, runs.only("four"))


@pytest.mark.slow
def test_resume_in_mid_epoch_is_exact(runs: Runs, whole: Path) -> None:
    stopped = ended(runs(*DROPOUT, "name=parts", fault="signal:1:4"), 143)
    assert "interrupted by SIGTERM" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    folder = runs.only("parts")
    assert last_state(folder)["global_step"] == 5
    resumed = ended(runs(*DROPOUT, "name=parts", "ckpt=auto"), 0)
    assert resumed.stdout.count("resuming from") == 1
    uninterrupted, parts = last_state(whole), last_state(folder)
    for name, tensor in uninterrupted["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    states = [state["callbacks"]["exact_resume"]["random"] for state in (uninterrupted, parts)]
    assert [torch.equal(a["torch"], b["torch"]) for a, b in zip(*states, strict=True)] == [True, True]
    assert not torch.equal(states[0][0]["torch"], states[0][1]["torch"])
    assert (whole / "metrics.csv").read_text() == (folder / "metrics.csv").read_text()
    assert predictions_of(whole) == predictions_of(folder)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    sampler = ResumableBatchSampler(np.arange(8), batch_size=2, seed=1)
    resume = ExactResume(RunFolder(tmp_path), sampler)
    state = {"position": {"epoch": 1, "batch": 2}, "random": [{}, {}]}
    checkpoint = {"callbacks": {resume.state_key: state}}
    with pytest.raises(UserError, match="trained in 2 processes, now there are 3"):
        resume.on_load_checkpoint(SimpleNamespace(world_size=3), None, checkpoint)
    resume.on_load_checkpoint(SimpleNamespace(world_size=2), None, checkpoint)
    assert (sampler.epoch, sampler.start_batch) == (1, 2)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(runs: Runs) -> None:
    told = ended(runs("name=run", fault="nan:1:2"), 2)
    log = (runs.only("run") / "rank_1.log").read_text()
    rows = json.loads(log.partition("BROKEN ROWS ")[2].partition("\n")[0])
    assert told.stderr.count("error:") == 1
    named = told.stderr.partition("holds the ids ")[2].splitlines()[0]
    assert named == ", ".join(f"m{row}" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [("bug", 1, "ZeroDivisionError: broken on purpose"), ("kill", 137, "SIGKILL")],
)
def test_a_rank_that_fails_alone_ends_the_run(runs: Runs, kind: str, code: int, told: str) -> None:
    result = ended(runs("name=run", fault=f"{kind}:1:2"), code)
    assert "error: rank 1" in result.stderr
    assert told in result.stderr
    assert "gloo" not in result.stderr.partition("rank_1.log")[0]


@pytest.mark.slow
def test_a_first_rank_that_fails_alone_leaves_nobody(runs: Runs) -> None:
    result = ended(runs("name=run", fault="bug:0:2"), 1)
    assert "ZeroDivisionError: broken on purpose" in result.stderr
    assert not ranks_of(runs.folder)


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in ``folder``."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or [])
    ]


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(runs: Runs) -> None:
    first = subprocess.Popen(
        runs.command("name=run", "trainer.max_epochs=5000", processes=2),
        env=runs.environment(),
        cwd=runs.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(list(runs.folder.glob("runs/run/*/checkpoints/last.ckpt"))), 60)
    assert len(ranks_of(runs.folder)) == 2
    first.kill()
    first.wait()
    wait_until(lambda: not ranks_of(runs.folder), 20)


def wait_until(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)


@pytest.mark.slow
def test_jobs_of_a_multirun_start_their_own_ranks(runs: Runs) -> None:
    (runs.folder / "mine" / "experiment").mkdir(parents=True)
    (runs.folder / "mine" / "experiment" / "brief.yaml").write_text("# @package _global_\ntrainer:\n  max_epochs: 1\n")
    result = ended(runs("--config-dir", "mine", "-m", "seed=1,2", "experiment=brief"), 0)
    assert "job 2 of 2" in result.stdout
    (sweep,) = (runs.folder / "runs" / "multirun").iterdir()
    folders = sorted(path.parent for path in sweep.glob("*/summary.json"))
    assert len(folders) == 2
    assert all((folder / "rank_1.log").is_file() for folder in folders)
    assert [metrics_of(folder)["seed"] for folder in folders] == [1, 2]


@pytest.mark.slow
def test_processes_that_another_program_starts_share_a_folder(runs: Runs) -> None:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port()), "CRYSTALFM_RUN_STAMP": "job_17"}
    command = runs.command("name=run", "trainer.max_epochs=1", processes=2)
    processes = [
        subprocess.Popen(
            command,
            env={**runs.environment(), **shared, "LOCAL_RANK": str(number), "NODE_RANK": "0"},
            cwd=runs.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1] == ("", "")
    assert "finished" in told[0][0]
    assert runs.only("run").name == "job_17"


@pytest.mark.parametrize(
    ("environment", "stamp"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, "slurm_7_0_0"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),
        ({"CRYSTALFM_RUN_STAMP": "mine"}, None),
        ({"CRYSTALFM_RUN_STAMP": "mine", "LOCAL_RANK": "0"}, "mine"),
    ],
)
def test_the_name_that_ranks_share_without_talking(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], stamp: str | None
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CRYSTALFM_RUN_STAMP", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shared_stamp() == stamp


def python(code: str) -> list[str]:
    # The word that every rank gets at the end is an argument of the program.
    return [sys.executable, "-c", code]


def test_ranks_that_end_well(tmp_path: Path) -> None:
    processes = LocalRanks(3, python("import os; print(os.environ['LOCAL_RANK'])"), tmp_path)
    processes.start()
    processes.finish()
    assert [(tmp_path / f"rank_{number}.log").read_text() for number in (1, 2)] == ["1\n", "2\n"]


def test_a_failure_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    processes = LocalRanks(2, python("import sys; print('so it goes'); sys.exit(7)"), tmp_path)
    processes.start()
    with pytest.raises(RankError, match="rank 1 ended with exit code 7") as caught:
        processes.finish()
    assert "so it goes" in str(caught.value)
    assert caught.value.exit_code == 7


def test_ranks_that_hang_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_GRACE_SECONDS", 0.5)
    processes = LocalRanks(2, python("import time; time.sleep(60)"), tmp_path)
    processes.start()
    started = time.monotonic()
    assert processes.abandon(ValueError("mine")) is None
    assert time.monotonic() - started < 5
    assert processes.failure() is not None


def test_the_cause_of_a_lost_connection_is_the_rank_that_failed(tmp_path: Path) -> None:
    processes = LocalRanks(2, python("raise SystemExit(3)"), tmp_path)
    processes.start()
    failure = processes.abandon(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert failure is not None
    assert failure.exit_code == 3


def test_a_process_that_waits_for_a_lost_rank_is_ended(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from crystalfm.run.parallel import ranks;"
        "ranks._GRACE_SECONDS = 0.5;"
        "ranks.LocalRanks(2, [sys.executable, '-c', 'raise SystemExit(5)'], Path(sys.argv[1])).start(); time.sleep(60)"
    )
    result = subprocess.run([*python(code), str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 5
    assert "rank 1 ended with exit code 5" in result.stderr


def test_the_environment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "0")
    for name in ("MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with local_ranks(1, tmp_path, []):
        assert os.environ["LOCAL_RANK"] == "0"
        assert int(os.environ["MASTER_PORT"]) > 0
    assert "LOCAL_RANK" not in os.environ
    assert "MASTER_PORT" not in os.environ
    assert os.environ["NODE_RANK"] == "0"


def test_several_processes_need_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with pytest.raises(UserError, match="needs the command line"), local_ranks(2, tmp_path, []):
        pass


def test_one_process_agrees_with_itself() -> None:
    distributed.require_same({"run folder": "here"})
    assert distributed.largest(3) == 3
    assert distributed.gather({"a": [1, "x"]}) == [{"a": [1, "x"]}]
    rows, values = distributed.gather_rows(np.array([4, 1, 4]), np.array([[0.4], [0.1], [0.4]]))
    assert rows.tolist() == [1, 4]
    assert values.ravel().tolist() == [0.1, 0.4]


EXCHANGE = """
import os, sys
import numpy as np, torch, torch.distributed as dist
from crystalfm.contracts import UserError
from crystalfm.run.parallel import distributed
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=3)
assert distributed.largest(rank) == 2
received = distributed.gather({"rank": rank, "states": torch.arange(rank * 1000), "name": "x" * rank})
assert [item["rank"] for item in received] == [0, 1, 2]
assert [len(item["states"]) for item in received] == [0, 1000, 2000]
own = {0: [5, 2], 1: [], 2: [2, 9]}[rank]
rows, values = distributed.gather_rows(np.array(own, dtype=np.int64), np.array(own, dtype=float).reshape(-1, 1))
assert rows.tolist() == [2, 5, 9] and values.ravel().tolist() == [2.0, 5.0, 9.0]
distributed.require_same({"data": "abc"})
try:
    distributed.require_same({"data": "abc", "run folder": "b" if rank == 1 else "a"})
except UserError as error:
    assert "rank 0: a; rank 1: b" in str(error), error
else:
    raise SystemExit(9)
dist.barrier()
distributed.disconnect()
assert distributed.world_size() == 1
# As ranks do: threads that gloo has left can abort the interpreter while it ends.
os._exit(0)
"""


def test_three_processes_exchange_what_they_have(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([*python(EXCHANGE), str(number), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [code for _, code in results] == [0, 0, 0], results
