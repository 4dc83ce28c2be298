"""Adapters on weights of 8 and 4 bits, on a CPU."""

import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.models.language.adapters import merge_adapters
from crystalfm.models.language.build import restore_language_model, weights_to_save
from crystalfm.models.language.quantization import is_quantized

pytest.importorskip("bitsandbytes")

KINDS = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}


def base_layers(model):
    return [layer for name, layer in model.named_modules() if name.endswith("base_layer")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_adapters_learn_on_frozen_quantised_weights(build, train, quantization, dtype):
    built = build("llama", lora_rank=2, quantization=quantization, weights_dtype=dtype, gradient_checkpointing=True)
    assert is_quantized(built.model)
    layers = base_layers(built.model)
    assert len(layers) == 2 * 7
    assert {type(layer).__name__ for layer in layers} == {KINDS[quantization]}
    before = [layer.weight.clone() for layer in layers]
    losses = train(built, num=4)
    assert losses[-1] < losses[0]
    assert all(torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True))
    assert all(weight.dtype == torch.float32 for weight in built.model.parameters() if weight.requires_grad)


def test_four_bits_are_nf4_and_compute_as_the_weights_dtype_says(build):
    layer = base_layers(build("llama", lora_rank=2, quantization="4bit", weights_dtype="bfloat16").model)[0]
    assert layer.weight.quant_type == "nf4"
    assert layer.compute_dtype == torch.bfloat16


@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.05), ("4bit", 0.5)])
def test_quantised_weights_are_near_the_plain_ones(build, logits, quantization, tolerance):
    plain, packed = build("llama"), build("llama", lora_rank=2, quantization=quantization)
    expected, found = logits(plain.model, plain.tokenizer), logits(packed.model, packed.tokenizer)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < tolerance


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_checkpoint_holds_adapters_and_rebuilds_the_model(build, train, logits, llm_assets, quantization):
    built = build("llama", lora_rank=2, quantization=quantization)
    train(built)
    weights = weights_to_save(built.model)
    assert all("lora_" in name for name in weights)
    twin = restore_language_model(built.architecture, weights, llm_assets)
    assert torch.equal(logits(twin.model, twin.tokenizer), logits(built.model, built.tokenizer))


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_merging_into_few_bits_is_refused(build, quantization):
    built = build("llama", lora_rank=2, quantization=quantization)
    with pytest.raises(UserError, match=r"cannot be merged.*\n.*adapter=true"):
        merge_adapters(built.model)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_validation_between_two_steps_changes_no_gradient(build, logits, quantization):
    """bitsandbytes packs 4-bit weights anew in evaluation mode on some CPUs, and then loses gradients."""
    built = build("llama", lora_rank=2, quantization=quantization)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    gradients = []
    for _ in range(2):
        built.model.train()
        built.model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([weight.grad.clone() for weight in built.model.parameters() if weight.requires_grad])
        built.model.zero_grad()
        logits(built.model, built.tokenizer)
    assert all(torch.equal(before, after) for before, after in zip(*gradients, strict=True))
    assert any(gradient.any() for gradient in gradients[0])
