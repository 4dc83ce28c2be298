"""What reaches the model: official splits, limits, and modalities that no training row has."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from run_helpers import TINY, MakeConfig, molecules

from crystalfm.contracts import UserError
from crystalfm.data.chebi import ChEBI20
from crystalfm.data.records import RecordTable
from crystalfm.data.splits import Splits
from crystalfm.run.evaluate import evaluate
from crystalfm.run.predict import predict
from crystalfm.run.prepare import learnable_modalities, load_table, split_table
from crystalfm.run.train import train

SMALL = [item for item in TINY if not item.startswith(("data", "modalities"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ChEBI-20 in small: 30 training molecules without texts, 12 to validate and 8 to test on with texts."""
    path = tmp_path / "chebi20"
    path.mkdir()
    smiles = molecules(50)
    rows = [f"{number}\t{text}" for number, text in enumerate(smiles)]
    (path / "train_smiles_only.tsv.gz").write_bytes(gzip.compress("\n".join(["CID\tSMILES", *rows[:30], ""]).encode()))
    for name, part in (("validation.txt", rows[30:42]), ("test.txt", rows[42:])):
        described = [f"{row}\tThe molecule has {len(row)} letters." for row in part]
        (path / name).write_text("\n".join(["CID\tSMILES\tdescription", *described, ""]))
    return path


def load(
    dataset: ChEBI20, *modalities: str, **settings: bool
) -> tuple[RecordTable, dict[str, list[str | None]], Splits]:
    given = {"all_rows": False} | settings
    return load_table(dataset, modalities, max_rejected_fraction=0.01, **given)


def test_the_official_split_is_used(folder: Path) -> None:
    table, _, splits = load(ChEBI20(path=str(folder)), "smiles")
    assert splits.sizes == {"train": 30, "val": 12, "test": 8}
    assert table.ids[splits.test].tolist() == [str(number) for number in range(42, 50)]


def test_a_split_file_goes_before_the_official_split(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["42"], "val": [], "test": ["0", "1"]}))
    assert load(ChEBI20(path=str(folder), split_file=str(path)), "smiles")[2].sizes["test"] == 2


def test_a_random_split_is_drawn_from_all_rows(folder: Path) -> None:
    dataset = ChEBI20(path=str(folder), split="random", seed=3)
    splits = split_table(dataset, dataset.load())
    assert splits.sizes == {"train": 40, "val": 5, "test": 5}
    assert set(splits.test.tolist()) != set(range(42, 50))


def test_a_modality_that_no_training_row_has_is_left_out(folder: Path) -> None:
    dataset = ChEBI20(path=str(folder))
    assert list(load(dataset, "smiles", "description")[1]) == ["smiles"]
    assert list(load(dataset, "smiles", "description", fitted=True)[1]) == ["smiles", "description"]
    assert list(load(dataset, "smiles", "description", all_rows=True)[1]) == ["smiles", "description"]
    extended = ChEBI20(path=str(folder), split="extended")
    assert list(load(extended, "smiles", "description")[1]) == ["smiles", "description"]


def test_without_any_modality_to_learn_from_the_run_stops(folder: Path) -> None:
    with pytest.raises(UserError, match="no training row has the modality description"):
        load(ChEBI20(path=str(folder)), "description")


def test_models_that_look_at_no_modality_need_none(folder: Path) -> None:
    dataset = ChEBI20(path=str(folder))
    table = dataset.load()
    assert learnable_modalities(table, split_table(dataset, table), []) == []
    none = np.empty(0, dtype=np.int64)
    assert learnable_modalities(table, Splits(none, none, none), ["description"]) == ["description"]


def test_a_run_without_training_texts_says_so_and_works_alone(
    make_config: MakeConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    cfg = make_config(*SMALL, "data=chebi", f"data.path={folder}", "trainer.max_epochs=1", tiny=False)
    metrics = train(cfg, run)
    assert "description (no training row has it)" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["split_sizes"] == {"train": 30, "val": 12, "test": 8}
    modalities = [item["modality"] for item in summary["model"]["encoders"]]
    assert modalities == ["smiles", "selfies", "fingerprint", "molecular_graph"]
    score = summary["metrics"]["test"]["llm_fusion"]["logp"]
    assert score["mse"] == pytest.approx(score["rmse"] ** 2)
    again = evaluate(make_config(f"ckpt={run}", config="evaluate", tiny=False), tmp_path / "e")
    assert again["mae_logp"] == pytest.approx(metrics["test/mae_logp"], rel=1e-6)
    assert predict(make_config(f"ckpt={run}", "input=CCO", config="predict", tiny=False))["predicted"] == 1


def test_the_combinations_of_the_paper_are_one_multirun() -> None:
    from crystalfm.config.compose import Composer
    from crystalfm.config.preflight import preflight

    with Composer("train") as composer:
        jobs = preflight(composer, ["experiment=chebi_modalities"], multirun=True)
        single = preflight(composer, ["experiment=chebi_modalities"])[0]
    chosen = [tuple(sorted(job.modalities)) for job in jobs]
    assert len(set(chosen)) == len(chosen) == 6
    assert {job.data.name for job in jobs} == {"chebi"}
    assert ("description", "fingerprint", "selfies", "smiles") in chosen
    assert single.modalities == "auto"
