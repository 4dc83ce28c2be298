"""Loggers: what a training leaves in an offline W&B run, and how the run is found again."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from run_helpers import TINY, MakeConfig
from wandb_records import OfflineRun, offline_runs

from crystalfm.cli.task import run_task
from crystalfm.config import extras
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.contracts import UserError
from crystalfm.run import network
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.folder import RunFolder
from crystalfm.run.tracking.loggers import build_loggers
from crystalfm.run.tracking.metrics_logger import MetricsTable
from crystalfm.run.tracking.wandb_identity import WandbIdentity, has_credentials, resolve_mode
from crystalfm.run.tracking.wandb_run import WandbCurves, WandbRun, wandb_run
from crystalfm.run.train import train

FAST = ["modalities=[fingerprint]", "logger=wandb"]
MEAN = ["model=mean", "modalities=auto"]
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the account of the person who runs the tests."""
    for name in ("API_KEY", "MODE", "BASE_URL", "DATA_DIR", "RUN_ID", "SWEEP_ID", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    # W&B's own telemetry would try to reach the network, also in the tests that follow.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only_run(folder: Path) -> OfflineRun:
    pytest.importorskip("wandb")
    (run,) = offline_runs(folder)
    return run


def test_an_offline_run_holds_everything(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "runs" / "one"
    metrics = train(make_config(*FAST, "logger.wandb_tags=[first,second]", "name=mine", "baselines=[mean]"), folder)
    run = only_run(folder)
    assert run.exit_code == 0
    assert (run.run.project, list(run.run.tags)) == ("crystalfm", ["first", "second"])
    assert run.run.display_name == "mine/one"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: value for key, value in run.config.items() if key != "_wandb"} == config
    # 48 training rows in batches of 8, two epochs, a point at each step.
    assert [step for step, _ in run.curve("train/loss")] == list(range(12))
    table = (folder / "metrics.csv").read_text().splitlines()
    column = table[0].split(",").index("val/loss")
    logged = [float(line.split(",")[column]) for line in table[1:] if line.split(",")[column]]
    assert [value for _, value in run.curve("val/loss")] == pytest.approx(logged)
    for name, value in metrics.items():
        assert run.summary[name] == pytest.approx(value), name
    images = run.folder / "files" / "media" / "images" / "figures"
    assert {path.stem.partition("_5")[0].rsplit("_", 2)[0] for path in images.glob("*.png")} == {
        "parity",
        "learning_curve",
        "comparison",
    }


def test_artifacts_and_predictions_lie_in_the_run_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "runs" / "one"
    train(make_config(*FAST), folder)
    run = only_run(folder)
    number = json.loads((folder / "wandb_run.json").read_text())["id"]
    assert sorted(run.aliases[f"model-{number}"]) == ["best", "latest"]
    expected = {
        f"split-{number}": [folder / "split.json", folder / "rejected.csv"],
        f"predictions-{number}": [folder / "predictions.parquet", folder / "summary.json"],
        f"model-{number}": [folder / "checkpoints" / "best.ckpt", folder / "config.yaml"],
        f"report-{number}": [folder / "report.html", *(folder / "figures").glob("*.png")],
    }
    assert (folder / "figures" / "parity.png").is_file()
    for artifact, files in expected.items():
        staged = run.artifacts[artifact]
        named = {str(path.relative_to(folder)).removeprefix("checkpoints/"): path for path in files}
        assert set(staged) == set(named)
        for name, path in named.items():
            assert staged[name].is_relative_to(folder)
            assert digest(staged[name]) == digest(path)
    (table,) = (run.folder / "files" / "media" / "table").glob("predictions*.table.json")
    shown = json.loads(table.read_text())
    records = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert shown["columns"] == list(records[0])
    assert len(shown["data"]) == len(records) == 12
    assert [row[1] for row in shown["data"]] == ["test"] * 6 + ["val"] * 6


def test_a_resumed_run_is_the_same_run(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "one"
    train(make_config(*FAST, "trainer.max_epochs=1", "logger.wandb_project=first"), folder)
    # The run stays where it began, whatever is asked for later.
    train(make_config(*FAST, f"ckpt={folder}", "logger.wandb_project=other"), tmp_path / "unused")
    first, second = offline_runs(folder)
    assert first.run.run_id == second.run.run_id
    assert (first.run.project, second.run.project) == ("first", "first")
    steps = [step for run in (first, second) for step, _ in run.curve("train/loss")]
    assert steps == list(range(12))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("no such luck"), "UserError: no such luck"),
        (TrainingInterruptedError(15), "TrainingInterruptedError: interrupted by SIGTERM"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
    ],
    ids=["mistake", "signal", "ctrl-c"],
)
def test_a_run_that_fails_is_closed_as_failed(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, text: str
) -> None:
    pytest.importorskip("wandb")

    def fail(self: Any, resume_from: Path | None) -> None:
        raise error

    monkeypatch.setattr(network.NetworkSession, "fit", fail)
    with pytest.raises(type(error)):
        train(make_config(*FAST), tmp_path / "one")
    run = only_run(tmp_path / "one")
    assert run.exit_code == 1
    assert run.summary["error"] == text
    assert run.preempting == isinstance(error, TrainingInterruptedError)
    assert [name.partition("-")[0] for name in run.artifacts] == ["split"]


def test_a_classical_model_without_its_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(make_config(*MEAN, "logger=wandb", "logger.wandb_checkpoint=false"), tmp_path / "one")
    run = only_run(tmp_path / "one")
    assert "test/mae_energy_eV" in run.summary
    assert not any(name.startswith("model-") for name in run.artifacts)


def test_tracking_does_not_change_the_training(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for name, logger in (("with", "wandb"), ("without", "csv")):
        train(make_config("modalities=[fingerprint]", "model.dropout=0.2", f"logger={logger}"), tmp_path / name)
    assert (tmp_path / "with" / "metrics.csv").read_text() == (tmp_path / "without" / "metrics.csv").read_text()


def test_jobs_of_a_multirun_are_grouped(molecule_csv: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    small = [item for item in TINY if not item.startswith("modalities")]
    given = [f"data.path={molecule_csv}", f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
    assert run_task("train", ["-m", *small, *given, *MEAN, "logger=wandb", "seed=1,2"]) == 0
    logging.getLogger().handlers.clear()
    (sweep,) = (tmp_path / "runs" / "multirun").iterdir()
    runs = [only_run(folder).run for folder in sorted(path for path in sweep.iterdir() if path.is_dir())]
    assert len({run.run_id for run in runs}) == 2
    assert {run.run_group for run in runs} == {f"multirun_{sweep.name}"}


def test_other_ranks_and_disabled_mode_open_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for overrides in (["logger=csv"], ["logger=wandb", "logger.wandb_mode=disabled"], ["logger=wandb"]):
        if overrides == ["logger=wandb"]:
            monkeypatch.setenv("LOCAL_RANK", "1")
        with wandb_run(make_config(*overrides), {}, RunFolder(tmp_path), Console()) as tracked:
            tracked.log_split()
            tracked.log_results({"loss": 1.0})
            WandbCurves().log_metrics({"loss": 1.0}, 3)
    assert not list(tmp_path.glob("wandb*"))


def test_a_server_that_refuses_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("wandb")

    class Refusing:
        id = "x"

        def log_artifact(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("connection lost")

    run: Any = Refusing()
    (tmp_path / "split.json").write_text("{}")
    WandbRun(run, RunFolder(tmp_path)).log_split()
    assert "W&B did not take the split (OSError: connection lost)" in caplog.text


def test_mode_follows_the_key(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_config("logger=wandb")
    assert resolve_mode(cfg) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert resolve_mode(cfg) == "online"
    assert resolve_mode(make_config("logger=wandb", "paths.offline=true")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(cfg) == "disabled"
    assert resolve_mode(make_config("logger=wandb", "logger.wandb_mode=offline")) == "offline"


def test_online_without_a_key_is_refused_rather_than_asked_for(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no API key") as caught:
        train(make_config(*MEAN, "logger=wandb", "logger.wandb_mode=online"), tmp_path / "one")
    assert "wandb login" in str(caught.value)
    with pytest.raises(UserError, match=r"paths\.offline"):
        resolve_mode(make_config("logger=wandb", "logger.wandb_mode=online", "paths.offline=true"))


def test_credentials_of_wandb_login(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_credentials()
    (Path.home() / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert has_credentials()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_credentials()
    monkeypatch.setenv("NETRC", str(Path.home() / "other"))
    (Path.home() / "other").write_text(f"machine wandb.example.org login user password {KEY}\n")
    assert has_credentials()
    (Path.home() / "other").write_text("machine")
    assert not has_credentials()


def test_identity_of_a_sweep_and_of_a_folder(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config("logger=wandb", "logger.wandb_entity=team", "logger.wandb_group=mine")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    identity = WandbIdentity.of(cfg, RunFolder(tmp_path))
    assert identity == WandbIdentity("given", "crystalfm", "team", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert WandbIdentity.of(cfg, RunFolder(tmp_path)) == identity


def test_lists_of_loggers(make_config: MakeConfig, tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")

    def names(*overrides: str) -> list[str]:
        return [type(item).__name__ for item in build_loggers(make_config(*overrides), RunFolder(tmp_path), table)]

    assert names() == ["MetricsTable"]
    assert names("logger.csv=false") == []
    assert names("logger=wandb") == ["MetricsTable", "WandbCurves"]
    pytest.importorskip("tensorboard")
    assert names("logger=tensorboard") == ["MetricsTable", "TensorBoardLogger"]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_logger_that_is_not_installed(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != name)
    with Composer("train") as composer, pytest.raises(UserError) as caught:
        preflight(composer, [f"logger={name}"])
    assert f"pip install 'crystalfm[{name}]'" in str(caught.value)
    with pytest.raises(UserError, match="not installed"):
        train(make_config(f"logger={name}"), tmp_path / "one")


def test_the_sweep_names_keys_that_exist(repository: Path) -> None:
    sweep = yaml.safe_load((repository / "sweeps" / "wandb_qm9.yaml").read_text())
    assert sweep["program"] == "train.py"
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["command"][-1] == "${args_no_hyphens}"
    corners: dict[str, list[Any]] = {}
    for key, choice in sweep["parameters"].items():
        given = choice.get("values", [choice[name] for name in ("value", "min", "max") if name in choice])
        corners[key] = given
    with Composer("train") as composer:
        for index in range(max(map(len, corners.values()))):
            job = [f"{key}={values[min(index, len(values) - 1)]}" for key, values in corners.items()]
            cfg = preflight(composer, job)[0]
            assert cfg.logger.wandb
        with pytest.raises(UserError):
            preflight(composer, ["optimizer.learning_rate=0.1"])
