"""Multiruns in other processes: their results, their failures, and the settings of their launchers."""

from __future__ import annotations

import json
import logging
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from run_helpers import TINY

from crystalfm.cli import jobs
from crystalfm.cli.multirun import FailedJobError, FinishedJob, JobFailure, conclude, finished_jobs
from crystalfm.cli.task import run_task
from crystalfm.config import extras
from crystalfm.config.compose import Composer
from crystalfm.config.location import conf_folder
from crystalfm.config.preflight import preflight
from crystalfm.contracts import UserError

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")
PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher.config", "JobLibLauncherConf"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher.config", "LocalQueueConf"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher.config", "SlurmQueueConf"),
}


@pytest.fixture
def multirun(tmp_path: Path, molecule_csv: Path) -> Any:
    """Start a multirun of tiny trainings; return its exit code and the folders of its jobs."""

    def start(launcher: str, *overrides: str) -> tuple[int, list[Path]]:
        small = [item for item in TINY if not item.startswith("modalities")]
        folders = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
        given = ["trainer.max_epochs=1", "trainer.num_threads=1", "data.id_column=name", f"data.path={molecule_csv}"]
        code = run_task("train", ["-m", f"hydra/launcher={launcher}", *small, *folders, *given, *overrides])
        logging.getLogger().handlers.clear()
        (sweep,) = (tmp_path / "runs" / "multirun").iterdir()
        return code, sorted(path for path in sweep.iterdir() if path.is_dir() and path.name != ".submitit")

    return start


def read_config(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.slow
def test_every_job_has_a_folder_and_a_result(multirun: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    code, folders = multirun("submitit_local", "modalities=[smiles,fingerprint],[fingerprint]", "name=both")
    assert code == 0
    assert [read_config(folder)["modalities"] for folder in folders] == [["smiles", "fingerprint"], ["fingerprint"]]
    shown = capsys.readouterr().out
    for folder in folders:
        loss = json.loads((folder / "summary.json").read_text())["validation"]["loss"]
        assert f" {loss:#.4g} ".replace(". ", " ") in shown
        assert (folder / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_failing_job_is_told_and_the_others_finish(
    multirun: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], launcher: str
) -> None:
    pytest.importorskip(launcher.partition("_")[0])
    small_table = tmp_path / "two.csv"
    small_table.write_text("name,smiles,energy,gap\na,CO,1,2\nb,CN,2,3\n")
    code, folders = multirun(
        launcher, f"data.path={small_table},{tmp_path / 'molecules.csv'}", "model=mean", "modalities=auto"
    )
    assert code == UserError.exit_code
    failed, finished = folders
    assert (finished / "summary.json").is_file()
    assert not (failed / "summary.json").exists()
    assert "leave none to train on" in (failed / "train.log").read_text()
    captured = capfd.readouterr()
    assert "job 1 of 2 failed" in captured.err
    assert "leave none to train on" in captured.err
    assert "Traceback" not in captured.err
    assert "is validated against ConfigStore" not in captured.err


class FickleError(Exception):
    """Cannot be pickled and made again."""

    def __init__(self, first: str, second: object) -> None:
        super().__init__(first)
        self.second = second


def run_job(monkeypatch: pytest.MonkeyPatch, error: Exception, **hydra_node: Any) -> Any:
    """Run a job that raises, under a configuration of Hydra."""
    node = {"mode": "MULTIRUN", "launcher": "x.LocalLauncher", "sweeper": "x.BasicSweeper", **hydra_node}
    tree = {
        "mode": jobs.RunMode[node["mode"]],
        "launcher": {"_target_": node["launcher"]},
        "sweeper": {"_target_": node["sweeper"]},
        "overrides": {"task": ["seed=1"]},
        "job": {"num": 0},
        "runtime": {"output_dir": "x"},
        "run": {"dir": "x"},
        "sweep": {"dir": "sweep"},
    }
    monkeypatch.setattr(jobs.HydraConfig, "get", lambda: OmegaConf.create(tree))
    monkeypatch.setattr(jobs.sys, "argv", ["train.py"])

    def fail(self: jobs.Job, cfg: Any, run_dir: Path) -> None:
        raise error

    monkeypatch.setattr(jobs.Job, "_run", fail)
    return jobs.Job("train")(OmegaConf.create())


def test_any_exception_travels_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = run_job(monkeypatch, FickleError("first", lambda: None))
    assert cloudpickle.loads(cloudpickle.dumps(failure)) == failure
    assert failure.exit_code == 1
    assert failure.message == "FickleError: first"
    assert "Traceback" in failure.trace


def test_other_sweepers_and_this_process_get_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FailedJobError) as told:
        run_job(monkeypatch, FickleError("no", lambda: None), sweeper="x.OptunaSweeper")
    error = cloudpickle.loads(cloudpickle.dumps(told.value))
    assert (str(error), error.failure.exit_code) == ("FickleError: no", 1)
    for here in ({"launcher": "x.BasicLauncher"}, {"mode": "RUN"}):
        with pytest.raises(jobs.JobStopped) as caught:
            run_job(monkeypatch, UserError("no"), **here)
        assert isinstance(caught.value.error, UserError)


class StoppedError(Exception):
    signal_number = 15


def test_exit_code_of_a_multirun(capsys: pytest.CaptureFixture[str]) -> None:
    def code(*results: Any) -> int:
        return conclude([FinishedJob(f"seed={number}", Path("f"), result) for number, result in enumerate(results)])

    mistake, bug = JobFailure.of(UserError("no", remedy="yes")), JobFailure.of(ValueError("oh"))
    assert (code(), code(0.5, {"test/mae": 1.0}, None)) == (0, 0)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("multirun, 3 jobs", "val/loss", "0.5000", "test/mae", "1.000"))
    assert (code(0.5, mistake), code(bug, 0.5), code(mistake, bug)) == (2, 1, 1)
    assert code(JobFailure.of(StoppedError("stopped"))) == 143
    err = capsys.readouterr().err
    assert "job 2 of 2 failed (seed=1), see f" in err
    assert "no\n  yes" in err


def test_jobs_are_told_apart_by_what_they_do_not_share() -> None:
    def returned(number: int, *overrides: str) -> SimpleNamespace:
        cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": f"folder/{number}"}}})
        return SimpleNamespace(overrides=list(overrides), hydra_cfg=cfg, return_value=float(number))

    found = finished_jobs([[returned(0, "data=csv", "seed=1")], [returned(1, "data=csv", "seed=[2]")]])
    assert [(job.overrides, str(job.folder), job.result) for job in found] == [
        ("seed=1", "folder/0", 0.0),
        ("seed=[2]", "folder/1", 1.0),
    ]
    assert finished_jobs([[returned(0, "seed=1")]])[0].overrides == "seed=1"
    assert finished_jobs(None) == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_files_list_every_setting_of_the_plugin(name: str) -> None:
    module, kind = PLUGINS[name]
    pytest.importorskip(module)
    expected = OmegaConf.structured(getattr(import_module(module), kind))
    own = yaml.safe_load((conf_folder() / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert set(own) == set(expected)
    assert own["_target_"] == expected["_target_"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_options_without_their_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with Composer("train"):
        known = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(known, f"{name}.yaml", raising=False)
    monkeypatch.setattr(extras, "is_installed", lambda module: not module.startswith("hydra_plugins"))
    # It can be looked at, and running it says what is missing.
    assert run_task("train", ["--cfg", "hydra", f"hydra/launcher={name}"]) == 0
    assert "_target_: hydra_plugins." in capsys.readouterr().out
    assert run_task("train", ["-m", f"hydra/launcher={name}", "seed=1,2"]) == UserError.exit_code
    extra = "sweep" if name == "joblib" else "slurm"
    assert f"pip install 'crystalfm[{extra}]'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_launcher_that_is_installed_is_no_problem() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with Composer("train") as composer:
        assert len(preflight(composer, ["hydra/launcher=joblib", "seed=1,2"], multirun=True)) == 2


def test_a_warning_before_the_start_of_a_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5"]
    assert run_task("train", ["-m", *launcher, "seed=1,2"]) == UserError.exit_code
    assert "hydra.launcher.signal_delay_s" in capsys.readouterr().err
    with Composer("train") as composer:
        assert len(preflight(composer, [*launcher, "hydra.launcher.signal_delay_s=60"], multirun=True)) == 1
