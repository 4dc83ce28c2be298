"""An ensemble: members on one split, their mean and spread, calibrated intervals, and going on after a stop."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from run_helpers import TINY, MakeConfig, molecules

import crystalfm
from crystalfm.cli.jobs import _states
from crystalfm.cli.main import main
from crystalfm.config.location import conf_folder
from crystalfm.contracts import UserError
from crystalfm.run import network, single
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.checkpoints.resume_point import ensemble_location, resume_location
from crystalfm.run.ensemble import member_config
from crystalfm.run.evaluate import evaluate
from crystalfm.run.folder import RunFolder, find_checkpoints
from crystalfm.run.parallel.slurm import QueuedAgain
from crystalfm.run.predict import predict
from crystalfm.run.tracking.wandb_identity import _group
from crystalfm.run.tracking.wandb_run import _short_name
from crystalfm.run.train import train

SETTINGS = ["data.val_fraction=0.3", "coverage=0.8", "trainer.max_epochs=1", "model.dropout=0.1"]


def weights(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    return loaded["state_dict"]


def same_weights(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def table_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = pq.read_table(folder / "predictions.parquet").to_pydict()
    return found


def written_at(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    rows = [f"m{number},{smiles},{len(smiles)},{smiles.find('O')}" for number, smiles in enumerate(molecules(60))]
    (folder / "molecules.csv").write_text("\n".join(["name,smiles,energy,gap", *rows]))
    return folder


def config(place: Path, *overrides: str, name: str = "train") -> DictConfig:
    base = [f"paths.cache={place / 'cache'}", f"paths.runs={place / 'runs'}"]
    if name == "train":
        base += [*TINY, f"data.path={place / 'molecules.csv'}", "data.id_column=name", *SETTINGS]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(name, overrides=[*base, *overrides])


@pytest.fixture(scope="module")
def parent(place: Path) -> Path:
    """A finished ensemble of three; tests must not change it."""
    folder = place / "whole"
    train(config(place, "ensemble=3", "baselines=[mean]"), folder)
    return folder


def test_every_member_is_a_run_of_its_own_seed_on_the_common_split(parent: Path) -> None:
    members = [parent / "members" / str(number) for number in (1, 2, 3)]
    assert sorted(path.name for path in (parent / "members").iterdir()) == ["1", "2", "3"]
    for number, member in enumerate(members):
        assert (member / "split.json").read_text() == (parent / "split.json").read_text()
        kept = yaml.safe_load((member / "config.yaml").read_text())
        assert (kept["seed"], kept["data"]["split_seed"], kept["ensemble"]) == (42 + number, 42, 1)
        assert json.loads((member / "summary.json").read_text())["finished"]
    assert not any(same_weights(first, second) for first, second in itertools.pairwise(members))
    assert not (parent / "checkpoints").exists()


def test_a_member_is_the_single_run_of_its_seed(parent: Path, place: Path) -> None:
    train(config(place, "seed=43", "data.split_seed=42"), place / "alone")
    assert same_weights(parent / "members" / "2", place / "alone")
    assert table_of(parent / "members" / "2") == table_of(place / "alone")


def test_predictions_are_mean_and_spread_of_the_members(parent: Path) -> None:
    found = table_of(parent)
    members = [table_of(parent / "members" / str(number)) for number in (1, 2, 3)]
    assert all(member["id"] == found["id"] for member in members)
    values = np.array([member["gap_hartree_predicted"] for member in members])
    np.testing.assert_allclose(found["gap_hartree_predicted"], values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["gap_hartree_std"], values.std(axis=0, ddof=1), rtol=1e-9)
    lower, upper = np.array(found["gap_hartree_lower"]), np.array(found["gap_hartree_upper"])
    assert (lower < found["gap_hartree_predicted"]).all()
    widths = upper - lower
    assert widths.max() > 1.01 * widths.min()
    assert np.corrcoef(widths, found["gap_hartree_std"])[0, 1] > 0.999


def test_the_summary_tells_coverage_members_and_baselines(parent: Path) -> None:
    summary = json.loads((parent / "summary.json").read_text())
    found = table_of(parent)
    test = [row for row, part in enumerate(found["split"]) if part == "test"]
    inside = [
        found["energy_eV_lower"][row] <= found["energy_eV_true"][row] <= found["energy_eV_upper"][row] for row in test
    ]
    said = summary["uncertainty"]["targets"]["energy"]
    assert said["test"]["coverage"] == pytest.approx(np.mean(inside))
    assert said["test"]["num_rows"] == len(test)
    assert said["num_validation_rows"] == found["split"].count("val")
    assert summary["uncertainty"]["normalized"]
    assert summary["ensemble"]["seeds"] == [42, 43, 44]
    of_members = [json.loads((parent / "members" / str(number) / "summary.json").read_text()) for number in (1, 2, 3)]
    errors = [one["metrics"]["test"]["llm_fusion"]["gap"]["mae"] for one in of_members]
    assert summary["ensemble"]["mae"]["gap"] == errors
    assert summary["metrics"]["test"]["llm_fusion"]["gap"]["mae"] <= max(errors)
    assert summary["validation"]["loss"] == pytest.approx(np.mean([one["validation"]["loss"] for one in of_members]))
    assert set(summary["metrics"]["test"]) == {"llm_fusion", "mean"}
    assert all(set(one["metrics"]["test"]) == {"llm_fusion"} for one in of_members)
    assert (parent / "figures" / "parity.png").is_file()


def test_evaluate_predict_and_load_agree_with_the_training(parent: Path, place: Path, tmp_path: Path) -> None:
    evaluate(config(place, f"ckpt={parent}", name="evaluate"), tmp_path / "evaluation")
    again, found = table_of(tmp_path / "evaluation"), table_of(parent)
    test = [row for row, part in enumerate(found["split"]) if part == "test"]
    assert again["id"] == [found["id"][row] for row in test]
    names = [f"gap_hartree_{kind}" for kind in ("predicted", "std", "lower", "upper")]
    for name in names:
        np.testing.assert_allclose(again[name], [found[name][row] for row in test], rtol=1e-4, atol=1e-5)
    said = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    summary = json.loads((parent / "summary.json").read_text())
    assert said["intervals"]["gap"]["coverage"] == summary["uncertainty"]["targets"]["gap"]["test"]["coverage"]
    predictor = crystalfm.load(parent, accelerator="cpu", cache=place / "cache")
    smiles = dict(line.split(",")[:2] for line in (place / "molecules.csv").read_text().splitlines()[1:])
    predictions = predictor.predict([smiles[name] for name in again["id"]])
    assert predictions.coverage == 0.8
    for name, part in zip(names, ("values", "std", "lower", "upper"), strict=True):
        np.testing.assert_allclose(getattr(predictions, part)[:, 1], again[name], rtol=1e-4, atol=1e-5)
    assert list(predictions.to_dict())[1:5] == ["energy_eV", "energy_eV_std", "energy_eV_lower", "energy_eV_upper"]
    output = tmp_path / "out.csv"
    source = tmp_path / "in.smi"
    source.write_text("\n".join(["C1CC", *(smiles[name] for name in again["id"])]))
    predict(config(place, f"ckpt={parent}", f"input={source}", f"output={output}", name="predict"))
    with output.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["target"] == "gap"]
    assert list(rows[0]) == ["id", "target", "value", "std", "lower", "upper", "unit"]
    np.testing.assert_allclose([float(row["upper"]) for row in rows], again[names[3]], rtol=1e-4, atol=1e-5)


def test_evaluating_the_rows_of_the_fit_says_nothing_of_the_coverage(parent: Path, place: Path, tmp_path: Path) -> None:
    evaluate(config(place, f"ckpt={parent}", "split=val", name="evaluate"), tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["intervals"] is None


def test_a_member_can_be_used_alone(parent: Path, place: Path) -> None:
    predictions = crystalfm.load(parent / "members" / "3", accelerator="cpu", cache=place / "cache").predict(["CCO"])
    assert predictions.std is None
    assert predictions.lower is not None


def test_finished_members_are_left_alone_and_more_are_added(parent: Path, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(parent, folder)
    shutil.rmtree(folder / "members" / "3")
    before = written_at(folder / "members")
    train(config(place, "ensemble=2", f"ckpt={folder}"), tmp_path / "unused")
    assert written_at(folder / "members") == before
    assert json.loads((folder / "summary.json").read_text())["ensemble"]["seeds"] == [42, 43]
    assert table_of(folder)["gap_hartree_predicted"] != table_of(parent)["gap_hartree_predicted"]
    train(config(place, "ensemble=3", f"ckpt={folder}", "coverage=0.9"), tmp_path / "unused")
    after = written_at(folder / "members")
    assert {name: after[name] for name in before} == before
    assert not (tmp_path / "unused").exists()
    assert table_of(folder)["gap_hartree_predicted"] == table_of(parent)["gap_hartree_predicted"]
    assert json.loads((folder / "uncertainty.json").read_text())["coverage"] == 0.9


class SignalAtStep(Callback):
    """Sends this process a signal in the middle of one training step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_member_goes_on_exactly_and_finished_ones_are_kept(
    parent: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, original = tmp_path / "stopped", network.NetworkSession._callbacks

    def stopping(self: Any, console: Any) -> list[Callback]:
        extra = [SignalAtStep()] if self._cfg.seed == 43 else []
        return [*original(self, console), *extra]

    with monkeypatch.context() as patch:
        patch.setattr(network.NetworkSession, "_callbacks", stopping)
        with pytest.raises(TrainingInterruptedError):
            train(config(place, "ensemble=3"), folder)
    assert not (folder / "summary.json").exists()
    assert not (folder / "members" / "3").exists()
    with pytest.raises(UserError, match="not finished"):
        evaluate(config(place, f"ckpt={folder}", name="evaluate"), tmp_path / "evaluation")
    before = written_at(folder / "members" / "1")
    train(config(place, "ensemble=3", f"ckpt={folder}"), tmp_path / "unused")
    assert written_at(folder / "members" / "1") == before
    assert same_weights(folder / "members" / "2", parent / "members" / "2")
    assert table_of(folder) == table_of(parent)


def test_members_finished_before_train_on_when_the_training_gets_longer(
    parent: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(parent, folder)
    trained = []
    original = single.fit_and_report
    monkeypatch.setattr(
        "crystalfm.run.ensemble.fit_and_report",
        lambda work, *given, **named: trained.append(work.cfg.seed) or original(work, *given, **named),
    )
    train(config(place, "ensemble=2", "trainer.max_epochs=2", f"ckpt={folder}"), folder)
    assert trained == [42, 43]
    assert json.loads((folder / "members" / "1" / "summary.json").read_text())["training"]["num_epochs"] == 2


def test_another_configuration_is_refused_before_anything_is_trained(parent: Path, place: Path) -> None:
    before = written_at(parent)
    with pytest.raises(UserError, match=r"seed: 42 -> 7"):
        train(config(place, "ensemble=3", "seed=7", f"ckpt={parent}"), parent)
    with pytest.raises(UserError, match="is an ensemble"):
        train(config(place, f"ckpt={parent}"), parent)
    with pytest.raises(UserError, match="holds an ensemble already"):
        train(config(place, "ensemble=3"), parent)
    with pytest.raises(UserError, match="one process, on one device"):
        train(config(place, "ensemble=2", "trainer.devices=2"), parent)
    with pytest.raises(UserError, match="is no ensemble"):
        train(config(place, "ensemble=2", f"ckpt={parent / 'members' / '1'}"), parent)
    assert written_at(parent) == before


def test_a_member_without_its_predictions_is_named(parent: Path, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(parent, folder)
    (folder / "members" / "2" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match=r"members/2/predictions\.parquet is missing"):
        train(config(place, "ensemble=2", f"ckpt={folder}"), folder)


def test_classical_models_have_ensembles_too(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [item for item in TINY if not item.startswith(("llm.", "encoders.smiles", "modalities"))]
    overrides = [
        *words, "model=xgboost", "modalities=[fingerprint]", "model.num_trees=5", "model.subsample=0.5", "ensemble=2",
        f"data.path={place / 'molecules.csv'}", "data.id_column=name", "data.val_fraction=0.3", "coverage=0.8",
        f"paths.cache={place / 'cache'}",
    ]  # fmt: skip
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        train(compose("train", overrides=overrides), folder)
        before = written_at(folder / "members")
        train(compose("train", overrides=[*overrides, f"ckpt={folder}"]), folder)
    assert written_at(folder / "members") == before
    assert max(table_of(folder)["gap_hartree_std"]) > 0
    assert "val/loss" not in json.loads((folder / "summary.json").read_text())["validation"]


def test_auto_finds_the_newest_ensemble_and_no_single_run(tmp_path: Path) -> None:
    for name, stamp in (("a/members/1", 10), ("b/members/2", 30), ("c", 50)):
        path = tmp_path / "runs" / "mine" / name / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (stamp, stamp))
    runs = tmp_path / "runs"
    assert ensemble_location("auto", runs, "mine") == runs / "mine" / "b"
    assert ensemble_location("auto", runs, "other") is None
    assert ensemble_location(None, runs, "mine") is None
    assert resume_location("auto", runs, "mine") == runs / "mine" / "c" / "checkpoints" / "last.ckpt"


def test_a_restarted_slurm_job_goes_on_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("ENVIRONMENT", "BATCH")
    assert ensemble_location(None, tmp_path, "mine", run_dir=tmp_path / "run") is None
    (tmp_path / "run" / "members").mkdir(parents=True)
    assert ensemble_location(None, tmp_path, "mine", run_dir=tmp_path / "run") is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert ensemble_location(None, tmp_path, "mine", run_dir=tmp_path / "run") == tmp_path / "run"


def test_a_job_is_worth_repeating_when_any_member_has_saved(tmp_path: Path) -> None:
    first, second = tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    first.touch()
    queued = QueuedAgain(first, second)
    assert queued._written() == queued._at_start
    second.touch()
    os.utime(second, ns=(1, first.stat().st_mtime_ns + 1000))
    assert queued._written() != queued._at_start


def test_a_job_watches_the_states_of_every_member(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert _states(make_config(), folder) == [folder.last]
    assert _states(make_config("ensemble=2"), folder) == [folder.member(1).last, folder.member(2).last]
    assert _states(make_config("ckpt=x", config="evaluate", tiny=False), folder) == [folder.last]


def test_members_have_names_of_their_own_elsewhere(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "qm9" / "2026_ab").member(2)
    assert (_group(folder), _short_name(folder)) == ("ensemble_qm9_2026_ab", "2026_ab/2")
    assert _short_name(RunFolder(tmp_path / "2026_ab")) == "2026_ab"


def test_the_split_seed_of_the_user_is_kept(make_config: MakeConfig) -> None:
    cfg = make_config("ensemble=3", "data.split_seed=5", "baselines=[mean]")
    member = member_config(cfg, 3)
    assert (member.seed, member.data.split_seed, member.ensemble, list(member.baselines)) == (44, 5, 1, [])
    assert (cfg.seed, cfg.ensemble) == (42, 3)


def test_an_unfinished_ensemble_has_no_checkpoints(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").create_ensemble()
    with pytest.raises(UserError, match="not finished"):
        find_checkpoints(tmp_path / "run")


def test_the_command_line_goes_on_in_the_folder_of_the_ensemble(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    words = [*TINY, f"data.path={place / 'molecules.csv'}", "data.id_column=name", *SETTINGS, "name=both"]
    words += [f"paths.cache={place / 'cache'}", f"paths.runs={tmp_path / 'runs'}", "ensemble=2"]
    assert main(["train", *words]) == 0
    assert main(["train", *words, "ckpt=auto"]) == 0
    (run,) = (tmp_path / "runs" / "both").iterdir()
    assert "member 2 of 2, seed 43: finished before" in capsys.readouterr().out
    assert (run / "summary.json").is_file()
    assert main(["evaluate", f"ckpt={run}", f"paths.cache={place / 'cache'}", f"paths.runs={tmp_path / 'runs'}"]) == 0
