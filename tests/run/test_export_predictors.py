"""Exported predictors: what the folder holds, that it predicts what the run does, and what is said where it differs."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from run_helpers import TINY, molecules
from safetensors.torch import load_file, save_file

import crystalfm
from crystalfm.cli.main import main
from crystalfm.config.location import conf_folder
from crystalfm.contracts import UserError
from crystalfm.io.files import sha256_file
from crystalfm.run.api import ChangedPredictionsWarning
from crystalfm.run.evaluate import evaluate
from crystalfm.run.exporting import reference
from crystalfm.run.exporting.plain import from_json, to_json
from crystalfm.run.predict import predict
from crystalfm.run.train import train

SMILES = ["CCO", "CCCN", "c1ccccc1", "CSC"]
TREES = ("model.num_trees=5", "modalities=[fingerprint]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    rows = [f"m{number},{smiles},{len(smiles)},{smiles.find('O')}" for number, smiles in enumerate(molecules(60))]
    (folder / "molecules.csv").write_text("\n".join(["name,smiles,energy,gap", *rows]))
    return folder


def config(place: Path, *overrides: str, name: str = "train", without: str = "none") -> Any:
    base = [f"paths.cache={place / 'cache'}", f"paths.runs={place / 'runs'}"]
    if name == "train":
        tiny = [word for word in TINY if not word.startswith(without)]
        base += [*tiny, f"data.path={place / 'molecules.csv'}", "data.id_column=name", "data.val_fraction=0.3"]
        base += ["coverage=0.8", "trainer.max_epochs=1", "callbacks.ema_decay=0.5"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(name, overrides=[*base, *overrides])


def export(place: Path, run: Path, out: Path, *words: str) -> int:
    return main(["export", str(run), f"out={out}", f"paths.cache={place / 'cache'}", *words])


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    train(config(place), place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def original(place: Path, run: Path) -> Path:
    assert export(place, run, place / "original") == 0
    return place / "original"


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "exported"))


Load = Callable[..., crystalfm.Predictor]


@pytest.fixture
def load(place: Path) -> Load:
    return lambda folder, **options: crystalfm.load(folder, accelerator="cpu", cache=place / "cache", **options)


def mend_checksum(folder: Path, name: str) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["files"][name] = sha256_file(folder / name)
    (folder / "config.json").write_text(json.dumps(content))


def change_reference(folder: Path, **changes: Any) -> None:
    path = folder / "reference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    mend_checksum(folder, path.name)


def assert_same(first: Any, second: Any) -> None:
    for name in ("values", "std", "lower", "upper"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None), name
        assert one is None or np.array_equal(one, two, equal_nan=True), name
    assert first.coverage == second.coverage
    assert first.targets == second.targets


def test_the_folder_predicts_what_the_run_does_to_the_last_bit(run: Path, exported: Path, load: Load) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedPredictionsWarning)
        predictor = load(exported)
    found = predictor.predict([*SMILES, "not_a_smiles"])
    assert_same(found, load(run).predict([*SMILES, "not_a_smiles"]))
    assert found.lower is not None
    assert predictor.modalities == ["smiles", "fingerprint"]
    assert predictor.exported_folder == exported
    assert load(run).exported_folder is None


def test_what_lies_in_the_folder(run: Path, exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    files = {"model.safetensors", "reference.json", "splits.json", "test_predictions.parquet"}
    assert names == {*files, "config.json", "README.md"}
    content = json.loads((exported / "config.json").read_text())
    assert content["files"].keys() == files
    assert not content["config"].keys() & {"paths", "trainer", "callbacks", "logger", "baselines"}
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    weights = load_file(exported / "model.safetensors")
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert (exported / "splits.json").read_bytes() == (run / "split.json").read_bytes()
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_test_rows_are_there_without_their_true_values(run: Path, exported: Path) -> None:
    before = pq.read_table(run / "predictions.parquet").to_pandas()
    before = before[before["split"] == "test"].reset_index(drop=True)
    found = pq.read_table(exported / "test_predictions.parquet").to_pandas()
    assert found.equals(before[list(found.columns)])
    assert len(found) > 0
    assert not [name for name in found.columns if name.endswith("_true")]


def test_the_card_is_the_runs_and_says_what_is_in_the_folder(exported: Path, place: Path) -> None:
    text = (exported / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "crystalfm"
    assert 'crystalfm.load("FOLDER")' in text
    assert "`model.safetensors`" in text
    assert "MAE" in text
    assert "Not in the folder" not in text
    assert str(place) not in text


def test_evaluate_and_predict_take_the_folder(exported: Path, place: Path, tmp_path: Path) -> None:
    evaluate(config(place, f"ckpt={exported}", "trainer=cpu", name="evaluate"), tmp_path / "evaluation")
    again = pq.read_table(tmp_path / "evaluation" / "predictions.parquet").to_pydict()
    before = pq.read_table(exported / "test_predictions.parquet").to_pydict()
    assert {name: again[name] for name in before} == before
    said = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert said["checkpoint"] == str(exported)
    words = [f"ckpt={exported}", "input=CCO", f"output={tmp_path / 'out.csv'}", "trainer=cpu"]
    assert predict(config(place, *words, name="predict"))["predicted"] == 1


def test_a_version_that_changes_the_numbers_is_told(
    exported: Path, load: Load, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((exported / "reference.json").read_text())
    values = content["values"]
    values[3][1] += 0.25
    values[5][0] -= 0.125
    change_reference(exported, values=values, environment=content["environment"] | {"torch": "1.0", "numpy": "0.1"})
    pattern = r"gap differs by up to 0\.250 Ha \(tolerance .*numpy 0\.1, now \d.*torch 1\.0, now"
    with pytest.warns(ChangedPredictionsWarning, match=pattern):
        predictor = load(exported)
    assert np.isfinite(predictor.predict(SMILES).values).all()
    words = [f"ckpt={exported}", "input=CCO", f"paths.cache={place / 'cache'}", "trainer.accelerator=cpu"]
    assert main(["predict", *words]) == 0
    assert "warning: " in (shown := capsys.readouterr().out)
    assert "gap differs by up to 0.250 Ha" in shown
    assert main(["predict", *words, "check=false"]) == 0
    assert "warning" not in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedPredictionsWarning)
        load(exported, check=False)
        # Versions alone are no reason to warn, nor are differences that another processor makes.
        change_reference(exported, values=content["values"], environment={"torch": "1.0"})
        content["values"][3][1] -= 0.25 + 0.9 * content["tolerances"][1]
        content["values"][5][0] += 0.125
        change_reference(exported, values=content["values"])
        load(exported)


def test_another_weight_is_told(exported: Path, load: Load) -> None:
    path = exported / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("output.weight"))
    torch.manual_seed(0)
    save_file({**weights, name: weights[name] + 0.1 * torch.randn_like(weights[name])}, path)
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that was exported"):
        load(exported)
    mend_checksum(exported, path.name)
    with pytest.warns(ChangedPredictionsWarning, match="no version that is recorded has changed"):
        load(exported)


def test_an_input_that_is_rejected_now_is_told(exported: Path, load: Load) -> None:
    content = json.loads((exported / "reference.json").read_text())
    inputs = [*content["inputs"][:-1], {"smiles": "no molecule"}]
    change_reference(exported, inputs=inputs)
    with pytest.warns(ChangedPredictionsWarning, match="1 of 10 inputs are rejected"):
        load(exported)


@pytest.mark.parametrize("name", ["model.safetensors", "reference.json", "splits.json", "config.json"])
def test_a_missing_file_is_named(exported: Path, load: Load, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        load(exported)


def damaged(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (damaged("crystalfm_export", 2), "has format 2"),
        (damaged("members", [{}]), "cannot be read"),
        (damaged("targets", [{"nothing": 1}]), "cannot be read"),
        (damaged("files", {"../run/config.yaml": "ab"}), "outside of its folder"),
        (lambda folder: change_reference(folder, version=9), "has version 9"),
        (lambda folder: change_reference(folder, values="none"), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(exported: Path, load: Load, damage: Callable[[Path], None], message: str) -> None:
    damage(exported)
    with pytest.raises(UserError, match=message):
        load(exported)


def test_an_ensemble_is_exported_whole(place: Path, tmp_path: Path, load: Load) -> None:
    train(config(place, "ensemble=2"), tmp_path / "run")
    assert export(place, tmp_path / "run", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"member_1.safetensors", "member_2.safetensors"} <= names
    found, before = load(tmp_path / "out").predict(SMILES), load(tmp_path / "run").predict(SMILES)
    assert found.std is not None
    assert_same(found, before)
    with pytest.raises(UserError, match="ensemble, and one model is needed"):
        crystalfm.io.checkpoints.find_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "package", "suffix"), [("xgboost", "xgboost", "ubj"), ("catboost", "catboost", "cbm")]
)
def test_trees_are_in_the_format_of_their_library(
    place: Path, tmp_path: Path, load: Load, model: str, package: str, suffix: str
) -> None:
    library = pytest.importorskip(package, reason=f"the package {package} is not installed")
    train(config(place, f"model={model}", *TREES, "callbacks.ema_decay=null", without="llm."), tmp_path / "run")
    assert export(place, tmp_path / "run", tmp_path / "out") == 0
    path = tmp_path / "out" / f"model_gap_hartree.{suffix}"
    trees = library.Booster() if model == "xgboost" else library.CatBoostRegressor()
    trees.load_model(str(path))
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert_same(load(tmp_path / "out").predict(SMILES), load(tmp_path / "run").predict(SMILES))


def test_the_mean_needs_no_file_of_its_own(place: Path, tmp_path: Path, load: Load) -> None:
    train(config(place, "model=mean", "modalities=auto", "callbacks.ema_decay=null", without="llm."), tmp_path / "run")
    assert export(place, tmp_path / "run", tmp_path / "out") == 0
    assert_same(load(tmp_path / "out").predict(SMILES), load(tmp_path / "run").predict(SMILES))


def refusal(place: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["export", *words, f"paths.cache={place / 'cache'}"]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    run: Path, exported: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'out'}"
    assert "is for generators" in refusal(place, [str(run), out, "adapter=true"], capsys)
    assert "is an exported folder already" in refusal(place, [str(exported), out], capsys)
    assert "is there already" in refusal(place, [str(run), f"out={exported}"], capsys)
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    assert "is no finished run" in refusal(place, [f"ckpt={tmp_path / 'alone.ckpt'}", out], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.ckpt", "exported"]


def test_an_export_that_does_not_repeat_the_run_is_not_kept(
    run: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = reference.predictions
    calls: list[int] = []

    def drifting(*given: Any) -> Any:
        calls.append(1)
        return original(*given) + len(calls)

    monkeypatch.setattr(reference, "predictions", drifting)
    assert "the export failed" in refusal(place, [str(run), f"out={tmp_path / 'out'}"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_plain_containers_come_back_as_they_were() -> None:
    value = {
        "numbers": [1, 2.5, True, None, "text"],
        "pair": (1, (2, "x")),
        "by_number": {1: "a", 2: torch.arange(3)},
        "bounds": [float("inf"), float("-inf")],
        "looks": {"$tensor": "like one"},
        "empty": {},
    }
    tensors: dict[str, torch.Tensor] = {}
    found = from_json(json.loads(json.dumps(to_json(value, tensors, "v"), allow_nan=False)), tensors)
    assert torch.equal(found["by_number"].pop(2), value["by_number"].pop(2))  # type: ignore[attr-defined]
    assert found == value
    assert isinstance(found["pair"], tuple)
    assert list(tensors) == ["v.by_number.2"]
    assert np.isnan(from_json(to_json(float("nan"), {}, "v"), {}))
    with pytest.raises(TypeError, match=r"v\.0 is a set"):
        to_json([{1}], {}, "v")
