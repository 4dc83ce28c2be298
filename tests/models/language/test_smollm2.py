"""SmolLM2-135M itself, where its file is at hand."""

import time
from types import SimpleNamespace

import pytest
import torch

from crystalfm.assets.store import AssetStore
from crystalfm.generation.prompts import PromptSettings
from crystalfm.models.language.build import language_model
from crystalfm.models.language.scoring import mean_nll
from crystalfm.models.language.settings import settings_from_node

NODE = {
    "_target_": "crystalfm.models.backbones.PretrainedBackbone",
    "name": "smollm2_135m",
    "asset": "smollm2_135m",
    "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf",
}
SENTENCE = "The capital of France is Paris, and the capital of Italy is Rome."
SCRAMBLED = "Rome the is of Paris capital, Italy France The and of is capital."


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    """Where the file is converted to, once for the tests of this module."""
    return tmp_path_factory.mktemp("conversions")


@pytest.fixture
def smollm2(asset_cache, conversions):
    store = AssetStore(asset_cache, offline=True)
    if not store.is_cached("smollm2_135m"):
        pytest.skip("needs the asset smollm2_135m")
    return SimpleNamespace(fetch=store.fetch, cache=conversions)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_file_is_converted_once_and_holds_a_language_model(smollm2):
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        built = language_model(settings_from_node(NODE), PromptSettings(), smollm2)
        seconds.append(time.monotonic() - start)
    assert seconds[1] < seconds[0] / 3
    assert built.tokenizer.convert_ids_to_tokens(built.tokenizer("0.25")["input_ids"]) == ["0", ".", "2", "5"]
    assert len(built.tokenizer) == built.model.config.vocab_size == 49152
    good, bad = mean_nll(built.model, built.tokenizer, [("", SENTENCE), ("", SCRAMBLED)])
    assert good < 3 < bad


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "8bit", "4bit"])
def test_adapters_learn_on_every_kind_of_weights(smollm2, train, quantization):
    pytest.importorskip("peft")
    if quantization is not None:
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    settings = settings_from_node({**NODE, "lora_rank": 8, "lora_alpha": 32.0, "quantization": quantization})
    losses = train(language_model(settings, PromptSettings(), smollm2), num=3, lr=0.1)
    assert losses[0] > losses[1] > losses[2]
