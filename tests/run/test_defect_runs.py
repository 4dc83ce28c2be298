"""Training a generator of defects as a user does: what it learns from, what is counted, and the model back alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from language_helpers import TINY_GENERATOR
from run_helpers import MakeConfig

from crystalfm.contracts import UserError
from crystalfm.generation.defects.answers import read_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.prompts import DefectPromptSettings, defect_prompt
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.models.language.build import language_model
from crystalfm.models.language.scoring import mean_nll
from crystalfm.models.language.settings import settings_from_node
from crystalfm.run.build import asset_store
from crystalfm.run.exporting.generator import Origin, export_writer
from crystalfm.run.language.defects import defect_text_settings, prepare_defects, read_records
from crystalfm.run.language.prepare import language_dataset
from crystalfm.run.language.restore import restore_writer
from crystalfm.run.train import train
from defect_release import write_release

RULES = {"v_Mo", "W_Mo", "v_S", "Se_S"}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release: MoS2 [4, 4, 1]."""
    return write_release(tmp_path_factory.mktemp("release"))


def settings(release: Path, *overrides: str) -> list[str]:
    kept = [word for word in TINY_GENERATOR if word != "data=mp"]
    return [*kept, "data=2dmd", f"data.path={release}", "trainer.max_epochs=1", *overrides]


def test_a_run_says_what_was_decided_and_the_model_comes_back_alone(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    own = tmp_path / "release"
    shutil.copytree(release, own)
    cfg = make_config(*settings(own), tiny=False)
    metrics = train(cfg, tmp_path / "run")
    shutil.rmtree(own)
    test = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["test"]
    assert metrics["test/decided_loss"] == pytest.approx(test["decided_loss"])
    assert metrics["val/decided_loss"] == pytest.approx(metrics["val/loss"], rel=0.5)
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    kept = np.array(table["split"]) == "test"
    nats, tokens = np.array(table["decided_nats"])[kept], np.array(table["decided_tokens"])[kept]
    assert test["decided_loss"] == pytest.approx(nats.sum() / tokens.sum())
    assert test["num_decided"] == tokens.sum()

    writer = restore_writer(tmp_path / "run", asset_store(cfg))
    assert isinstance(writer.prompts, DefectPromptSettings)
    assert {rule.name for rule in writer.prompts.rules_of("MoS2")} == RULES
    supercell = writer.prompts.supercell("MoS2")
    assert supercell.size == (4, 4, 1)
    constraint = DefectConstraint(supercell, writer.prompts.rules_of("MoS2"))
    prompt = defect_prompt(supercell, constraint.rules, {"homo_lumo_gap": 0.4}, writer.prompts)
    requests = [Request(index, prompt, "defects", constraint) for index in range(6)]
    for sample in TransformersEngine(writer).sample(requests, SamplingSettings(max_new_tokens=20)):
        assert constraint.allows(read_answer(sample.text, supercell, writer.prompts))
    with pytest.raises(UserError, match="writes defects of layers, not crystals"):
        _ = writer.crystal_prompts
    again = restore_writer(export_writer(writer, tmp_path / "out", Origin()), asset_store(cfg))
    assert again.prompts.state() == writer.prompts.state()
    assert "Point defects in a layer of MoS2" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture
def prepared(make_config: MakeConfig, release: Path):
    """Return data and model of a configuration."""

    def prepare(*overrides: str):
        cfg = make_config(*settings(release, *overrides), tiny=False)
        store = asset_store(cfg)
        dataset = language_dataset(cfg, store)
        texts = defect_text_settings(cfg.model, cfg.answer, dataset)
        built = language_model(settings_from_node(cfg.llm), texts.prompts, store)
        return prepare_defects(cfg, dataset, texts, built.tokenizer), built, texts.prompts

    return prepare


def test_examples_are_the_configurations_of_the_data(prepared) -> None:
    data, _, prompts = prepared()
    store = data.stores["crystal_text"]
    for row, record in enumerate(read_records(data.table)):
        plain = store.example(row, 0)
        assert read_answer(plain.completion, record.supercell, prompts) == record.configuration
        moved = read_answer(store.example(row, 3).completion, record.supercell, prompts)
        assert moved.type_name(record.supercell) == record.type_name
    names = [target.name for target in data.table.target_specs]
    gap = data.table.targets[0, names.index("homo_lumo_gap")]
    assert f"{round(float(gap), 4):.4f} eV" in store.example(0, 0).prompt


@pytest.mark.parametrize("answer", ["edits", "full"])
def test_marked_tokens_are_those_the_grammar_decides(prepared, answer: str) -> None:
    data, built, prompts = prepared(f"answer={answer}")
    assert prompts.answer == answer
    store = data.stores["crystal_text"]
    batch = store.gather(np.arange(3))
    decided, labels = batch["crystal_text.decided"], batch["crystal_text.labels"]
    assert not decided[labels == -100].any()
    for row in range(3):
        number = int(decided[batch["crystal_text.segments"] == row].sum())
        completion = store.example(row, 0).completion
        size = len(built.tokenizer(completion)["input_ids"])
        # In full answers a symbol for each site; in edits all but what a host's shape leaves no choice about.
        assert number == 48 if answer == "full" else size - 4 <= number <= size + 1
    assert "crystal_text.decided" not in store.gather(np.arange(3), np.arange(1, 4))


def test_the_loss_of_decided_tokens_is_that_of_these_tokens(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    cfg = make_config(*settings(release, "answer=full"), tiny=False)
    metrics = train(cfg, tmp_path / "run")
    writer = restore_writer(tmp_path / "run", asset_store(cfg))
    dataset = language_dataset(cfg, asset_store(cfg))
    data = prepare_defects(cfg, dataset, defect_text_settings(cfg.model, "full", dataset), writer.tokenizer)
    store = data.stores["crystal_text"]
    rows = data.splits.test
    examples = [store.example(row, 0) for row in rows.tolist()]
    usual = mean_nll(writer.model, writer.tokenizer, [(each.prompt, each.completion) for each in examples])
    assert metrics["test/loss"] == pytest.approx(usual.mean(), rel=1e-5)
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert set(table["decided_tokens"]) == {48}
    assert set(table["tokens"]) == {4 * 48 + 1}
    assert metrics["test/decided_loss"] != pytest.approx(metrics["test/loss"], rel=1e-3)
    assert math.isfinite(metrics["test/decided_loss"])


def test_answers_that_are_too_long_are_refused_with_the_reason(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    cfg = make_config(*settings(release, "answer=full", "model.max_length=100"), tiny=False)
    with pytest.raises(UserError) as caught:
        train(cfg, tmp_path / "run")
    assert "answer=full has up to 192 tokens, model.max_length is 100" in caught.value.message
    assert caught.value.remedy == "model.max_length=192, or answer=edits"


def test_conditions_that_the_data_do_not_know_are_refused(
    make_config: MakeConfig, tmp_path: Path, release: Path
) -> None:
    chosen = ("data.targets=[homo]", "model.conditions=[homo,lumo]")
    with pytest.raises(UserError, match="the data do not know lumo"):
        train(make_config(*settings(release, *chosen), tiny=False), tmp_path / "run")
