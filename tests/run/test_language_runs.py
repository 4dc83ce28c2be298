"""Training a generator as a user does: run folder, exact resume with adapters too, and the model back from the file."""

from __future__ import annotations

import csv
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from language_helpers import PLAIN, SIZES, TINY_GENERATOR, write_salts
from run_helpers import MakeConfig, assert_same_training, interrupt_at

from crystalfm.contracts import UserError
from crystalfm.models.language.scoring import mean_nll
from crystalfm.run.build import asset_store
from crystalfm.run.callbacks import TrainingInterruptedError
from crystalfm.run.evaluate import evaluate
from crystalfm.run.language import evaluate as language_evaluate
from crystalfm.run.language.restore import restore_writer
from crystalfm.run.train import train


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Made-up salts in MP-20's columns."""
    return write_salts(tmp_path / "mp")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A mirror with a tiny LLaMA and its tokenizer in Hugging Face's own format, under the name of a real asset."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
    from crystalfm.generation.prompts import PromptSettings

    folder = tmp_path / "mirror" / "llama2_7b"
    tokenizer = build_crystal_tokenizer(PromptSettings())
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tmp_path / "mirror"


def settings(crystals: Path, *overrides: str) -> list[str]:
    return [*TINY_GENERATOR, f"data.path={crystals}", *overrides]


def adapters(crystals: Path, base: Path, *overrides: str) -> list[str]:
    lora = ("llm=llama2_7b", "llm.lora_rank=2", "llm.weights_dtype=float32", "llm.gradient_checkpointing=false")
    kept = [word for word in PLAIN if not word.startswith("llm=")]
    return [*kept, *lora, f"data.path={crystals}", f"paths.mirror={base}", *overrides]


def test_a_run_folder_says_how_likely_the_crystals_are(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    metrics = train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert table["split"] == ["val"] * SIZES["val"] + ["test"] * SIZES["test"]
    test = np.array(table["split"]) == "test"
    nats, tokens = np.array(table["nats"])[test], np.array(table["tokens"])[test]
    assert metrics["test/loss"] == pytest.approx(nats.sum() / tokens.sum())
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/loss"]))
    assert summary["metrics"]["test"]["nats_per_crystal"] == pytest.approx(nats.mean())
    assert summary["metrics"]["val"]["loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)
    assert table["formula"][0] in {"ClNa", "ClK", "ClRb"}
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for part in ("Likelihood of the test crystals", 'id="curves"', "language model", f"{SIZES['test']} test crystals"):
        assert part in text


def test_the_restored_model_gives_the_likelihoods_of_the_run(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    from crystalfm.chem.crystal_io import crystal_from_text
    from crystalfm.generation.prompts import plain_example

    cfg = make_config(*settings(crystals), tiny=False)
    train(cfg, tmp_path / "run")
    writer = restore_writer(tmp_path / "run", asset_store(cfg))
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    with (crystals / "test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    pairs = []
    for row in rows:
        example = plain_example(crystal_from_text(row["cif"], "cif"), writer.prompts)
        pairs.append((example.prompt, example.completion))
    found = mean_nll(writer.model, writer.tokenizer, pairs)
    expected = np.array(table["nats"])[-len(rows) :] / np.array(table["tokens"])[-len(rows) :]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["scratch", "lora"])
def test_an_interrupted_training_goes_on_bit_for_bit(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, base: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    chosen = settings(crystals) if kind == "scratch" else adapters(crystals, base)
    train(make_config(*chosen, tiny=False), tmp_path / "whole")
    folder = tmp_path / "parts"
    interrupt_at(monkeypatch, 8, signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError):
        train(make_config(*chosen, tiny=False), folder)
    interrupt_at(monkeypatch, None)
    train(make_config(*chosen, f"ckpt={folder}", tiny=False), folder)
    assert_same_training(tmp_path / "whole", folder)


def test_a_checkpoint_of_adapters_holds_the_adapters_alone(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, base: Path
) -> None:
    cfg = make_config(*adapters(crystals, base), tiny=False)
    train(cfg, tmp_path / "run")
    for name in ("best.ckpt", "last.ckpt"):
        saved = torch.load(tmp_path / "run" / "checkpoints" / name, weights_only=True)
        assert saved["state_dict"]
        assert all("lora_" in key for key in saved["state_dict"])
    writer = restore_writer(tmp_path / "run", asset_store(cfg))
    assert any("lora_" in name for name, _ in writer.model.named_parameters())


def test_the_base_of_adapters_must_be_the_same(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, base: Path
) -> None:
    cfg = make_config(*adapters(crystals, base), tiny=False)
    train(cfg, tmp_path / "run")
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(base / "llama2_7b")
    model.lm_head.weight.data.mul_(2)
    model.save_pretrained(base / "llama2_7b")
    with pytest.raises(UserError, match="other weights"):
        restore_writer(tmp_path / "run", asset_store(cfg))


def test_too_long_a_crystal_is_rejected_with_its_length(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    chosen = settings(crystals, "model.max_length=5", "max_rejected_fraction=0.5")
    with pytest.raises(UserError, match=r"text too long: 17 tokens, model.max_length is 5"):
        train(make_config(*chosen, tiny=False), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ensemble=2", "a generator is trained alone"),
        ("baselines=[mean]", "a generator writes crystals"),
        ("model.conditions=[formula,colour]", "colour"),
        ("model.pack_length=0", "pack_length"),
    ],
)
def test_what_does_not_fit_a_generator_is_refused(
    make_config: MakeConfig, tmp_path: Path, crystals: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(make_config(*settings(crystals, override), tiny=False), tmp_path / "run")


def test_a_predictors_checkpoint_writes_no_crystals(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config()
    train(cfg, tmp_path / "run")
    with pytest.raises(UserError, match="predicts properties and writes no crystals"):
        restore_writer(tmp_path / "run", asset_store(cfg))


def test_other_targets_of_the_data_are_asked_for_when_named(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    cfg: Any = make_config(*settings(crystals, "data.targets=[band_gap]"), tiny=False)
    train(cfg, tmp_path / "run")
    writer = restore_writer(tmp_path / "run", asset_store(cfg))
    assert writer.prompts.conditions == ("formula", "spacegroup", "band_gap")


def test_an_evaluation_repeats_the_likelihood_and_measures_translations(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    metrics = train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    asked = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", "trainer.precision=32-true", "ipt_crystals=3"]
    found = evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "evaluation")
    assert found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written["ipt"]["num_crystals"] == 3
    assert written["ipt"]["mean"] == found["ipt"] > 0
    text = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "3 crystals, 20 translations each" in text
    assert 'id="gallery"' not in text
    table = pq.read_table(tmp_path / "evaluation" / "predictions.parquet").to_pydict()
    assert table["split"] == ["test"] * SIZES["test"]


def test_translations_are_read_in_the_precision_that_was_asked_for(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        asked = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", f"trainer.precision={precision}", "ipt_crystals=3"]
        metrics = evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / precision)
        found[precision] = metrics["ipt"]
    assert found["bf16-mixed"] != found["32-true"]
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=0.2)


def test_the_likelihood_of_some_of_the_crystals(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    asked = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", "ipt_crystals=3", "likelihood_crystals=2"]
    found = evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "some")
    table = pq.read_table(tmp_path / "some" / "predictions.parquet").to_pydict()
    assert len(set(table["id"])) == 2
    assert found["nats_per_crystal"] == pytest.approx(np.mean(table["nats"]))
    # The others are drawn of all rows.
    assert json.loads((tmp_path / "some" / "evaluation.json").read_text())["ipt"]["num_crystals"] == 3


def test_other_crystals_are_all_evaluated(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    other = write_salts(tmp_path / "other")
    asked = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", "ipt_crystals=0", "data=mp", f"data.path={other}"]
    found = evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "evaluation")
    assert "ipt" not in found
    table = pq.read_table(tmp_path / "evaluation" / "predictions.parquet").to_pydict()
    assert len(table["id"]) == sum(SIZES.values())


def test_crystals_asked_for_by_their_formula_are_compared(
    make_config: MakeConfig, tmp_path: Path, crystals: Path
) -> None:
    train(make_config(*settings(crystals), tiny=False), tmp_path / "run")
    asked = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", "ipt_crystals=0", "match_crystals=4"]
    found = evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "evaluation")
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["match"]
    assert written["rate"]["total"] == 4
    assert found["match_rate"] == written["rate"]["fraction"]
    assert written["rmse"]["total"] == written["rate"]["count"]


@pytest.mark.parametrize(
    ("trained", "asked", "message"),
    [
        ("model.conditions=[band_gap]", "trainer.precision=auto", "not trained to be asked for formulas"),
        ("model.conditions=[formula]", "trainer.precision=16-mixed", "16-mixed is not offered for sampling"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_computed(
    make_config: MakeConfig,
    tmp_path: Path,
    crystals: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: str,
    asked: str,
    message: str,
) -> None:
    train(make_config(*settings(crystals, trained), tiny=False), tmp_path / "run")
    monkeypatch.delattr(language_evaluate, "predict_rows")
    words = [f"ckpt={tmp_path / 'run'}", "trainer=cpu", "match_crystals=4", asked]
    with pytest.raises(UserError, match=message):
        evaluate(make_config(*words, config="evaluate", tiny=False), tmp_path / "evaluation")
