"""Adapters as files of peft's own format, and merged into the weights."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from crystalfm.contracts import UserError
from crystalfm.models.language.adapters import has_adapters, merge_adapters, save_adapters

peft = pytest.importorskip("peft")


@pytest.mark.filterwarnings("error::FutureWarning")
def test_adapters_are_added_without_a_word(build):
    assert has_adapters(build("llama", lora_rank=2).model)


@pytest.mark.parametrize("asset", ["llama", "untied", "gpt2"])
def test_plain_peft_loads_the_adapters(build, train, logits, llm_assets, tmp_path, asset):
    built = build(asset, lora_rank=2, lora_alpha=32.0, lora_dropout=0.05)
    train(built)
    save_adapters(built.model, tmp_path, base_name="someone/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["task_type"]) == (
        2,
        32,
        0.05,
        "CAUSAL_LM",
    )
    assert isinstance(config["lora_alpha"], int)
    assert config["base_model_name_or_path"] == "someone/base"
    base = AutoModelForCausalLM.from_pretrained(llm_assets.root / asset)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path)
    size = base.config.vocab_size  # the base alone has no row for a padding token
    torch.testing.assert_close(
        logits(loaded, built.tokenizer), logits(built.model, built.tokenizer)[..., :size], rtol=1e-5, atol=1e-5
    )
    plain = AutoModelForCausalLM.from_pretrained(llm_assets.root / asset)
    assert not torch.allclose(logits(plain, built.tokenizer), logits(loaded, built.tokenizer), atol=1e-3)


@pytest.mark.parametrize("asset", ["llama", "untied", "gpt2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_merged_weights_give_the_same_logits(build, train, logits, asset, dtype, tolerance):
    built = build(asset, lora_rank=2, weights_dtype=dtype)
    base = logits(build(asset, weights_dtype=dtype).model, built.tokenizer)
    train(built, num=5)
    expected = logits(built.model, built.tokenizer)
    merged = merge_adapters(built.model)
    assert not has_adapters(merged)
    assert not [name for name in merged.state_dict() if "lora_" in name]
    error = (logits(merged, built.tokenizer) - expected).norm() / expected.norm()
    assert error < tolerance
    assert (base - expected).norm() / expected.norm() > 2 * tolerance


def test_a_model_without_adapters_is_its_own_merge(build, tmp_path):
    built = build()
    assert merge_adapters(built.model) is built.model
    with pytest.raises(UserError, match="no adapters"):
        save_adapters(built.model, tmp_path, base_name=None)


def test_adapters_that_diverged_are_not_merged(build):
    built = build("llama", lora_rank=2)
    with torch.no_grad():
        for name, weight in built.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        merge_adapters(built.model)
