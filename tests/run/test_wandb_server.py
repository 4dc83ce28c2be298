"""W&B online: a server that cannot be reached, one that goes away, and the agent of a sweep."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from run_helpers import MakeConfig
from wandb_records import offline_runs, read_offline_run
from wandb_server import StandInServer

from crystalfm.contracts import UserError
from crystalfm.run.folder import RunFolder
from crystalfm.run.tracking import wandb_run
from crystalfm.run.train import train

ONLINE = ["modalities=[fingerprint]", "trainer.max_epochs=1", "logger=wandb", "logger.wandb_timeout_seconds=2"]
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API key, and a server at an address where nobody listens."""
    pytest.importorskip("wandb")
    for name in ("MODE", "DATA_DIR", "RUN_ID", "SWEEP_ID", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("WANDB_BASE_URL", NOBODY)
    # W&B's own telemetry would try to reach the network, also in the tests that follow.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInServer]:
    made = StandInServer()
    monkeypatch.setenv("WANDB_BASE_URL", made.address)
    yield made
    made.close()


def is_complete(folder: Path) -> bool:
    """Say whether the run folder has all that a run leaves."""
    names = ("summary.json", "metrics.csv", "split.json", "config.yaml", "figures/parity.png", "checkpoints/best.ckpt")
    return all((folder / name).is_file() for name in names) and pq.read_table(folder / "predictions.parquet").num_rows


def test_online_without_a_server_stops_before_training(make_config: MakeConfig, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="W&B could not start the run") as caught:
        train(make_config(*ONLINE, "logger.wandb_mode=online"), tmp_path / "one")
    assert time.monotonic() - started < 20
    assert "logger.wandb_mode=offline" in str(caught.value)
    assert not (tmp_path / "one" / "checkpoints" / "last.ckpt").exists()


def test_auto_without_a_server_goes_on_offline(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config(*ONLINE), tmp_path / "one")
    assert "W&B's server cannot be reached" in caplog.text
    assert "this run is kept offline" in caplog.text
    assert is_complete(tmp_path / "one")
    (run,) = offline_runs(tmp_path / "one")
    assert run.exit_code == 0
    assert {name.partition("-")[0] for name in run.artifacts} >= {"split", "predictions", "model"}


def test_a_resumed_run_does_not_wait_for_a_server(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "one"
    train(make_config(*ONLINE, "logger.wandb_mode=offline"), folder)
    train(make_config(*ONLINE, "trainer.max_epochs=2", "logger.wandb_mode=online", f"ckpt={folder}"), tmp_path / "two")
    assert "this run is kept offline" in caplog.text
    assert len({run.run.run_id for run in offline_runs(folder)}) == 1
    assert len(offline_runs(folder)) == 2


@pytest.mark.slow
def test_a_server_that_goes_away_holds_nothing_up(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    server: StandInServer,
) -> None:
    opened = wandb_run._open

    def open_and_close_server(*args: Any) -> Any:
        run = opened(*args)
        server.close()
        return run

    monkeypatch.setattr(wandb_run, "_open", open_and_close_server)
    monkeypatch.setattr(wandb_run, "_GRACE_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    folder = tmp_path / "one"
    started = time.monotonic()
    train(make_config(*ONLINE, "logger.wandb_mode=online"), folder)
    assert time.monotonic() - started < 100
    assert f"{server.address}/team/crystalfm/runs/" in capsys.readouterr().out
    assert is_complete(folder)
    (record,) = (folder / "wandb").glob("run-*")
    assert "W&B did not take the rest (" in caplog.text
    assert f"wandb sync {record}" in caplog.text
    # What ``wandb sync`` will send.
    run = read_offline_run(record)
    assert run.curve("val/loss")
    assert run.run.run_id == json.loads((folder / "wandb_run.json").read_text())["id"]


@pytest.mark.parametrize("problem", ["TimeoutError", "HandleAbandonedError", "ConnectionResetError"])
def test_a_run_is_closed_whatever_becomes_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError

    errors = {"HandleAbandonedError": HandleAbandonedError, **vars(builtins)}

    class Lost:
        dir = str(tmp_path / "wandb" / "run-1" / "files")

        def finish(self, exit_code: int) -> None:
            raise errors[problem]("gone")

    monkeypatch.setattr(wandb, "teardown", lambda: (_ for _ in ()).throw(ConnectionResetError("lost")))
    lost: Any = Lost()
    with wandb_run.WandbRun(lost, RunFolder(tmp_path)):
        pass
    assert f"W&B did not take the rest ({problem}: gone)" in caplog.text
    assert f"wandb sync {tmp_path / 'wandb' / 'run-1'}" in caplog.text


def test_the_process_of_wandb_is_ended_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    child = subprocess.Popen(["sleep", "30"])
    monkeypatch.setattr(wandb_run, "_SERVICE", "sleep")
    monkeypatch.setattr(wandb_run, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(wandb, "teardown", lambda: None)

    class Waiting:
        def finish(self, exit_code: int) -> None:
            child.wait(timeout=20)

    waiting: Any = Waiting()
    with wandb_run.WandbRun(waiting, RunFolder(tmp_path), timeout_seconds=0.2):
        pass
    assert child.returncode == -15


def agent_commands(path: Path) -> list[list[str]]:
    """Return what W&B's agent would execute for the corners of a sweep, formed by its own functions."""
    from wandb.sdk.launch.sweeps import utils

    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for index in (0, -1):
        args = {}
        for key, choice in sweep["parameters"].items():
            values = choice.get("values", [choice[name] for name in ("value", "min", "max") if name in choice])
            args[key] = {"value": values[index]}
        variables = utils.create_sweep_command_args({"args": args})
        variables |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [sweep["program"]]}
        words = utils.create_sweep_command(list(sweep["command"]))
        found.append([part for word in words for part in variables.get(word[2:-1], [])])
    return found


@pytest.mark.parametrize("name", ["wandb_qm9.yaml"])
def test_what_the_agent_of_a_sweep_executes_is_accepted(repository: Path, name: str) -> None:
    for command in agent_commands(repository / "sweeps" / name):
        assert command[:3] == ["/usr/bin/env", sys.executable, "train.py"]
        done = subprocess.run([*command, "--cfg", "job"], cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown = yaml.safe_load(done.stdout)
        assert shown["logger"]["wandb"] is True
        assert f"optimizer.lr={shown['optimizer']['lr']}" in command
