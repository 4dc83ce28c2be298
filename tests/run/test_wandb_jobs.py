"""Evaluations, generations and comparisons in W&B: what an offline run of each holds, and what it says it is of."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from run_helpers import MakeConfig
from wandb_records import OfflineRun, offline_runs

from crystalfm.cli.main import main
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.contracts import UserError
from crystalfm.report.figures import save
from crystalfm.run import evaluate as evaluating
from crystalfm.run import generate as generating
from crystalfm.run.evaluate import evaluate
from crystalfm.run.generate import generate
from crystalfm.run.tracking import wandb_job
from crystalfm.run.tracking.wandb_identity import WandbIdentity
from crystalfm.run.tracking.wandb_job import Source, TrackedJob, sources_of
from crystalfm.run.train import train

pytest.importorskip("wandb", reason="needs wandb")

IDENTITY = {"id": "1a2b3c4d", "project": "gaps", "entity": None, "group": "first"}
OFFLINE = ["logger=wandb", "logger.wandb_mode=offline"]


@pytest.fixture(autouse=True)
def _own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the account of the person who runs the tests."""
    for name in ("API_KEY", "MODE", "BASE_URL", "DATA_DIR", "RUN_ID", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def only_run(folder: Path) -> OfflineRun:
    (run,) = offline_runs(folder)
    assert run.exit_code == 0
    return run


def tracked_folder(root: Path, **changed: Any) -> Path:
    """A folder that says which W&B run it belongs to."""
    root.mkdir(parents=True)
    (root / "wandb_run.json").write_text(json.dumps(IDENTITY | changed))
    return root


def media(run: OfflineRun, kind: str) -> set[str]:
    """Names of the pictures or tables in a run, without the step and the digest that W&B adds."""
    folder = run.folder / "files" / "media" / kind
    files = [path.relative_to(folder) for path in folder.rglob("*.*")]
    return {str(path.parent / path.name.rsplit("_", 2)[0]) for path in files}


def check_files(run: OfflineRun, artifact: str, folder: Path, names: set[str]) -> None:
    staged = run.artifacts[artifact]
    assert set(staged) == names
    for name, path in staged.items():
        assert path.is_relative_to(folder), "staged outside of the folder"
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256((folder / name).read_bytes()).digest()


def test_an_evaluation_is_a_job_beside_its_training(make_config: MakeConfig, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "evaluation"
    train(make_config("trainer.max_epochs=1"), run)
    (run / "wandb_run.json").write_text(json.dumps(IDENTITY))
    asked = [f"ckpt={run}", "trainer=cpu", "explain=modalities", *OFFLINE, "logger.wandb_project=elsewhere"]
    metrics = evaluate(make_config(*asked, config="evaluate", tiny=False), folder)
    job = only_run(folder)
    assert (job.run.project, job.run.run_group, job.run.job_type) == ("gaps", "first", "evaluate")
    assert job.run.run_id != IDENTITY["id"]
    assert job.config["sources"] == [{"location": str(run), "run": IDENTITY, "model": "gaps/model-1a2b3c4d:best"}]
    assert (job.config["explain"], job.config["ckpt"]) == ("modalities", str(run))
    for name, value in metrics.items():
        assert job.summary[name] == pytest.approx(value), name
    names = {"modalities", "modalities_attention"}
    assert media(job, "images") == {"figures/parity", *(f"explanations/{name}" for name in names)}
    assert media(job, "table") == {"predictions", *(f"tables/{name}" for name in names)}
    below = {f"explanations/{name}.{kind}" for name in names for kind in ("png", "csv")}
    own = {"evaluation.json", "predictions.parquet", "rejected.csv", "report.html"}
    expected = own | below | {"explanations/modalities.json", "figures/parity.png"}
    check_files(job, f"evaluate-{job.run.run_id}", folder, expected)
    (file,) = (job.folder / "files" / "media" / "table" / "tables").glob("modalities_0*.json")
    shown, table = json.loads(file.read_text()), pd.read_csv(folder / "explanations" / "modalities.csv")
    assert shown["columns"] == list(table.columns)
    assert len(shown["data"]) == len(table) == 4


def test_without_being_asked_nothing_goes_to_wandb(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_config("model=mean", "modalities=auto"), run)
    (run / "wandb_run.json").write_text(json.dumps(IDENTITY))
    for name, logger in (("plain", []), ("disabled", ["logger=wandb", "logger.wandb_mode=disabled"])):
        evaluate(make_config(f"ckpt={run}", "trainer=cpu", *logger, config="evaluate", tiny=False), tmp_path / name)
        assert (tmp_path / name / "evaluation.json").is_file()
        assert not list((tmp_path / name).glob("wandb*"))


def test_what_cannot_be_online_is_said_before_the_work(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(evaluating, "_evaluate_model", lambda *given: started.append(given))
    asked = make_config(f"ckpt={tmp_path}", "logger=wandb", "logger.wandb_mode=online", config="evaluate", tiny=False)
    with pytest.raises(UserError, match="no API key for online mode"):
        evaluate(asked, tmp_path / "evaluation")
    assert not started


def test_wandb_takes_no_finished_evaluation_away(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    modes = []

    def refuse(*given: Any, **named: Any) -> None:
        modes.append(given[4])
        raise wandb.errors.CommError("nobody there")

    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(wandb_job, "start", refuse)
    monkeypatch.setattr(evaluating, "_evaluate_model", lambda *given: {"mae": 0.5})
    for mode, tried in (("online", ["online", "offline"]), ("offline", ["offline"])):
        modes.clear()
        asked = [f"ckpt={tmp_path}", "logger=wandb", f"logger.wandb_mode={mode}"]
        cfg = make_config(*asked, config="evaluate", tiny=False)
        folder = tmp_path / mode
        folder.mkdir()
        assert evaluate(cfg, folder) == {"mae": 0.5}
        assert modes == tried
    assert "W&B could not open a run online (nobody there): the job is kept offline" in caplog.text
    assert "W&B could not open a run offline (nobody there)" in caplog.text


def test_an_online_job_is_linked_to_the_checkpoint_it_used(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[tuple[str, str]] = []

    class Online:
        id, offline, url, summary = "x", False, "somewhere", {}  # type: ignore[var-annotated]

        def use_artifact(self, name: str, type: str) -> None:  # noqa: A002
            used.append((name, type))
            if len(used) > 1:
                raise ValueError("no such artifact")

        def log_artifact(self, *args: Any, **kwargs: Any) -> None:
            """Take it."""

        def finish(self, exit_code: int) -> None:
            """End."""

    online: Any = Online()
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(wandb_job, "start", lambda *given, **named: online)
    run, folder = tracked_folder(tmp_path / "run", entity="team"), tmp_path / "job"
    folder.mkdir()
    job = TrackedJob("evaluate", make_config("logger=wandb", config="evaluate", tiny=False), folder)
    for _ in range(2):
        job.send({}, {"mae": 1.0, "rate": math.nan}, [run], Console())
    assert used == [("team/gaps/model-1a2b3c4d:best", "model")] * 2
    assert online.summary == {"mae": 1.0}
    assert "W&B did not take that the evaluate is of team/gaps/model-1a2b3c4d:best (ValueError" in caplog.text


def test_a_generation_and_the_judgement_of_it(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation stands beside the training, and what judges its crystals beside the generation."""
    run, samples, judged = tracked_folder(tmp_path / "run"), tmp_path / "samples", tmp_path / "judged"
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")

    def results(folder: Path) -> dict[str, float]:
        (folder / "crystals").mkdir(parents=True)
        (folder / "figures").mkdir()
        (folder / "crystals" / "0.cif").write_text("data_")
        (folder / "report.json").write_text("{}")
        pd.DataFrame({"index": [0, 1], "formula": ["NaCl", None]}).to_parquet(folder / "samples.parquet")
        pd.DataFrame({"index": [0, 1], "formula": ["NaCl", None]}).to_csv(folder / "samples.csv")
        save(Figure((1, 1)), folder / "figures" / "shares.png")
        return {"valid": 0.5}

    monkeypatch.setattr(generating, "_generate", lambda cfg, folder, console: results(folder))
    monkeypatch.setattr("crystalfm.run.judge.judge_structures", lambda cfg, folder: results(folder))
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert generate(make_config(f"ckpt={checkpoint}", *OFFLINE, config="generate", tiny=False), samples) == {
        "valid": 0.5
    }
    table = samples / "samples.parquet"
    evaluate(make_config(f"structures={table}", *OFFLINE, config="evaluate", tiny=False), judged)
    generation, judgement = only_run(samples), only_run(judged)
    assert generation.config["sources"] == [
        {"location": str(checkpoint), "run": IDENTITY, "model": "gaps/model-1a2b3c4d:best"}
    ]
    assert judgement.config["sources"][0]["run"]["id"] == generation.run.run_id
    for job, kind, folder in ((generation, "generate", samples), (judgement, "judge", judged)):
        assert (job.run.job_type, job.run.project, job.run.run_group) == (kind, "gaps", "first")
        assert job.summary["valid"] == 0.5
        assert (media(job, "images"), media(job, "table")) == ({"figures/shares"}, {"samples"})
        names = {"report.json", "samples.csv", "samples.parquet", "figures/shares.png"}
        check_files(job, f"{kind}-{job.run.run_id}", folder, names)
    (file,) = (generation.folder / "files" / "media" / "table").glob("samples*.json")
    assert json.loads(file.read_text())["data"] == [[0, "NaCl"], [1, None]]


def finished(root: Path, shift: float) -> Path:
    tracked_folder(root, id=root.name)
    (root / "summary.json").write_text(json.dumps({"data": {"targets": [{"name": "gap", "unit": "eV"}]}}))
    true = [float(number) for number in range(20)]
    columns = {"id": [f"m{number:02d}" for number in range(20)], "split": "test", "gap_eV_true": true}
    pd.DataFrame({**columns, "gap_eV_predicted": [value + shift for value in true]}).to_parquet(
        root / "predictions.parquet"
    )
    return root


def test_a_comparison_says_what_it_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finished(tmp_path / "sweep" / "a", 0.1), finished(tmp_path / "sweep" / "b", 0.3)
    output = tmp_path / "out"
    words = ["compare", str(tmp_path / "sweep"), *OFFLINE, "logger.wandb_tags=[paper]"]
    assert main(words) == 2
    assert "output=FOLDER" in " ".join(capsys.readouterr().err.split())
    assert main([*words, f"output={output}"]) == 0
    job = only_run(output)
    assert (job.run.job_type, job.run.project, list(job.run.tags)) == ("compare", "gaps", ["paper"])
    assert [(one["location"], one["run"]["id"]) for one in job.config["sources"]] == [
        (str(first), "a"),
        (str(second), "b"),
    ]
    assert job.summary["sweep/b/mae_gap_eV"] == pytest.approx(0.3)
    assert (media(job, "images"), media(job, "table")) == ({"comparison"}, {"tables/comparison"})
    check_files(job, f"compare-{job.run.run_id}", output, {"comparison.csv", "comparison.png"})
    logging.getLogger().handlers.clear()
    assert main([*words, f"output={output}", "logger.wandb_tagz=[x]"]) == 2
    assert "wandb_tags" in capsys.readouterr().err


def test_where_a_run_is_found(tmp_path: Path) -> None:
    run = tracked_folder(tmp_path / "run")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")
    (run / "other").mkdir()
    identity = WandbIdentity(**IDENTITY)
    assert sources_of(run) == [Source(str(run), identity)]
    assert sources_of(run / "checkpoints" / "best.ckpt")[0].identity == identity
    for untracked in (run / "other", "hf://owner/name", tmp_path / "absent"):
        assert sources_of(untracked) == [Source(str(untracked), None)]
    assert Source("x", None).described() == {"location": "x"}


def test_a_job_has_no_curves(tmp_path: Path) -> None:
    for task in ("evaluate", "generate"):
        with Composer(task) as composer, pytest.raises(UserError, match="has no curves to show"):
            preflight(composer, ["logger=tensorboard", f"ckpt={tmp_path}"])
