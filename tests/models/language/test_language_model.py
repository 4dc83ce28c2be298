"""Language models that write crystals: what is built, what learns, what a checkpoint holds and gives back."""

import importlib.util
import io
import json

import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.models.language.build import (
    language_model,
    load_saved_weights,
    names_to_save,
    restore_language_model,
    weights_to_save,
)
from crystalfm.models.language.settings import settings_from_node, settings_from_state

NODE = {"_target_": "crystalfm.models.backbones.PretrainedBackbone", "name": "x", "asset": "llama"}
TINY_NODE = {"_target_": "crystalfm.models.backbones.TinyBackbone", "name": "tiny"}


def trained_names(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def checkpointed(built):
    """What a checkpoint file gives back."""
    stream = io.BytesIO()
    torch.save({"architecture": built.architecture, "weights": weights_to_save(built.model)}, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def test_tiny_is_a_small_llama_over_the_tokens_of_crystals(build):
    built = build(dropout=0.1, mlp_ratio=2.0)
    config = built.model.config
    assert (config.model_type, config.hidden_size, config.intermediate_size) == ("llama", 32, 64)
    assert config.attention_dropout == 0.1
    assert config.vocab_size == len(built.tokenizer)
    assert (config.eos_token_id, config.pad_token_id) == (built.tokenizer.eos_token_id, built.tokenizer.pad_token_id)
    assert built.model.lm_head.weight is built.model.model.embed_tokens.weight
    assert built.model.training
    assert built.model.config._attn_implementation == "sdpa"


def test_tiny_begins_with_small_weights_and_nearly_even_odds(build, logits):
    built = build()
    layer = built.model.model.layers[0]
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.01, rel=0.1)  # / sqrt(2 * 2 layers)
    even = torch.log(torch.tensor(float(len(built.tokenizer))))
    values = logits(built.model, built.tokenizer).log_softmax(-1)
    assert abs(values.mean() + even) < 0.1


def test_the_same_seed_gives_the_same_weights(build, logits):
    one, same, other = (build(seed=seed) for seed in (1, 1, 2))
    values = [logits(built.model, built.tokenizer) for built in (one, same, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


CASES = [
    {},
    {"asset": "llama"},
    {"asset": "llama", "num_layers": 1, "dropout": 0.2, "weights_dtype": "bfloat16"},
    {"asset": "llama", "lora_rank": 2, "lora_alpha": 4.0},
    {"asset": "untied", "lora_rank": 2, "lora_targets": ["q_proj", "v_proj"]},
    {"asset": "llama", "lora_rank": 2, "trainable": "norms", "gradient_checkpointing": True},
    {"asset": "llama", "trainable": "norms"},
    {"asset": "gpt2", "lora_rank": 2},
    {"asset": "untied"},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_checkpoint_alone_rebuilds_a_trained_model(build, train, logits, llm_assets, settings):
    built = build(**settings)
    losses = train(built)
    assert losses[-1] < losses[0]
    saved = checkpointed(built)
    assert json.loads(json.dumps(saved["architecture"])) == saved["architecture"]
    twin = restore_language_model(saved["architecture"], saved["weights"], llm_assets)
    assert torch.equal(logits(twin.model, twin.tokenizer), logits(built.model, built.tokenizer))
    assert trained_names(twin.model) == trained_names(built.model)
    assert not twin.model.training
    again = checkpointed(twin)
    assert again["architecture"] == saved["architecture"]
    assert again["weights"].keys() == saved["weights"].keys()


def test_a_model_trained_whole_needs_no_asset(build, logits):
    built = build("untied")

    class NoStore:
        def fetch(self, name):
            raise AssertionError(name)

    saved = checkpointed(built)
    twin = restore_language_model(saved["architecture"], saved["weights"], NoStore())
    assert torch.equal(logits(twin.model, twin.tokenizer), logits(built.model, built.tokenizer))


def test_only_adapters_learn_and_are_saved(build):
    built = build("llama", lora_rank=2)
    names = names_to_save(built.model)
    assert names == trained_names(built.model)
    assert len(names) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all("lora_" in name for name in names)
    few = build("llama", lora_rank=2, lora_targets=["q_proj", "v_proj"])
    assert len(names_to_save(few.model)) == 2 * 2 * 2
    assert names_to_save(build("llama").model) == set(build("llama").model.state_dict())


def test_adapters_start_as_the_base_and_train_in_float32(build, logits, train):
    plain, adapted = build("llama", weights_dtype="bfloat16"), build("llama", weights_dtype="bfloat16", lora_rank=2)
    assert torch.equal(logits(plain.model, plain.tokenizer), logits(adapted.model, adapted.tokenizer))
    kinds = {("lora_" in name, weight.dtype) for name, weight in adapted.model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    losses = train(adapted)
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_changes_no_gradient(build):
    gradients = []
    for checkpointing in (False, True):
        built = build("llama", lora_rank=2, gradient_checkpointing=checkpointing)
        assert built.model.get_base_model().is_gradient_checkpointing is checkpointing
        ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
        built.model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([weight.grad for weight in built.model.parameters() if weight.requires_grad])
    assert len(gradients[0]) == 28
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_padding_token_is_added_only_where_there_is_none(build, llm_assets):
    kept = build("llama")
    assert kept.tokenizer.pad_token == "<s>"
    assert kept.model.config.vocab_size == len(kept.tokenizer) == 260
    added = build("untied")
    assert (len(added.tokenizer), added.tokenizer.pad_token_id, added.model.config.pad_token_id) == (261, 260, 260)
    for table in (added.model.get_input_embeddings().weight, added.model.get_output_embeddings().weight):
        assert table.shape[0] == 261
        torch.testing.assert_close(table[260], table[:260].mean(dim=0))


def test_rows_to_spare_are_used_for_the_padding_token(build, llm_assets):
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(llm_assets.root / "untied")
    model.resize_token_embeddings(264, mean_resizing=False)
    model.save_pretrained(llm_assets.root / "spare")
    AutoTokenizer.from_pretrained(llm_assets.root / "untied").save_pretrained(llm_assets.root / "spare")
    built = build("spare")
    assert built.tokenizer.pad_token_id == 260
    assert built.model.config.vocab_size == 264


def test_adapters_of_another_base_are_refused(build, llm_assets, tmp_path):
    from transformers import LlamaForCausalLM

    built = build("llama", lora_rank=2)
    other = tmp_path / "llama"
    model = LlamaForCausalLM.from_pretrained(llm_assets.root / "llama")
    with torch.no_grad():
        model.model.norm.weight.add_(1e-3)
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((llm_assets.root / "llama" / name).read_bytes())
    store = type(llm_assets)(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"trained on other weights.*\n.*sha256"):
        restore_language_model(built.architecture, weights_to_save(built.model), store)


def test_weights_that_do_not_fit_are_refused(build):
    built = build("llama", lora_rank=2)
    weights = weights_to_save(built.model)
    name = min(weights)
    with pytest.raises(UserError, match="1 names differ"):
        load_saved_weights(built.model, {key: value for key, value in weights.items() if key != name})
    with pytest.raises(UserError, match="do not fit"):
        load_saved_weights(built.model, weights | {name: torch.zeros(1, 1)})


def test_unknown_targets_are_named_with_those_that_fit(build):
    with pytest.raises(UserError, match=r"no linear layer query\n.*down_proj.*v_proj"):
        build("llama", lora_rank=2, lora_targets=["query"])
    with pytest.raises(UserError, match="no linear layer lm_head"):
        build("llama", lora_rank=2, lora_targets=["lm_head"])


def test_state_of_settings_gives_them_back():
    for node in ({**NODE, "lora_rank": 4, "lora_targets": ["q_proj"], "quantization": "4bit"}, TINY_NODE):
        settings = settings_from_node(node)
        assert settings_from_state(json.loads(json.dumps(settings.state()))) == settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"positions": "zero"}, r"llm\.positions"),
        ({"causal": False}, r"llm\.causal"),
        ({"trainable": "none"}, "nothing to learn"),
        ({"quantization": "4bit"}, r"add adapters"),
        ({"quantization": "2bit", "lora_rank": 2}, r"llm\.quantization"),
        ({"lora_rank": 2, "trainable": "all"}, "contradict"),
        ({"lora_rank": 2, "lora_targets": []}, r"llm\.lora_targets"),
        ({"dropout": 1.0}, r"llm\.dropout"),
    ],
)
def test_what_means_nothing_for_a_writer_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        settings_from_node({**NODE, **settings})


def test_heads_of_odd_width_are_refused():
    with pytest.raises(UserError, match="rotary"):
        settings_from_node({**TINY_NODE, "width": 30, "num_heads": 2})


def test_fusion_refuses_quantised_weights_before_it_loads_them():
    from crystalfm.models.backbones import PretrainedBackbone

    class NoStore:
        def fetch(self, name):
            raise AssertionError(name)

    with pytest.raises(UserError, match=r"llm\.quantization=8bit"):
        PretrainedBackbone(store=NoStore(), asset="llama", lora_rank=2, quantization="8bit")


def test_broken_folders_are_the_users_error(build, llm_assets):
    torn = llm_assets.root / "torn"
    torn.mkdir()
    with pytest.raises(UserError, match=r"no file model\.safetensors"):
        build("torn")
    whole = llm_assets.root / "llama"
    (torn / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"no file config\.json"):
        build("torn")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (torn / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(UserError, match="cannot be read"):
        build("torn")


def test_missing_weights_are_an_error(build, llm_assets):
    from safetensors.torch import load_file, save_file

    holey, whole = llm_assets.root / "holey", llm_assets.root / "llama"
    holey.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (holey / name).write_bytes((whole / name).read_bytes())
    weights = load_file(whole / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, holey / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors: model\.layers\.1\.mlp\.up_proj\.weight"):
        build("holey")


@pytest.mark.parametrize(
    ("package", "settings"), [("peft", {}), ("bitsandbytes", {"quantization": "4bit"})], ids=["peft", "bitsandbytes"]
)
def test_a_missing_package_names_its_extra(build, monkeypatch, package, settings):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find_spec(name, *rest)
    )
    with pytest.raises(UserError, match=rf"{package}\n.*crystalfm\[generate\]"):
        build("llama", lora_rank=2, **settings)


def test_a_gguf_file_is_converted_once(llm_assets, write_gguf, logits, monkeypatch):
    from transformers import AutoTokenizer, LlamaForCausalLM

    from crystalfm.models.language import weights

    model = LlamaForCausalLM.from_pretrained(llm_assets.root / "llama")
    tokenizer = AutoTokenizer.from_pretrained(llm_assets.root / "llama")
    packed = llm_assets.root / "packed"
    packed.mkdir()
    write_gguf(model, tokenizer, packed / "model.gguf")
    settings = settings_from_node({**NODE, "asset": "packed", "gguf_file": "model.gguf"})
    first = language_model(settings, None, llm_assets)
    torch.testing.assert_close(logits(first.model, first.tokenizer), logits(model, tokenizer), rtol=1e-4, atol=1e-4)
    base = weights.base_weights(llm_assets, "packed", "model.gguf")
    assert (base.folder / "model.safetensors").is_file()
    assert base.folder.is_relative_to(llm_assets.cache)
    assert not list(base.folder.parent.glob(".converting-*"))
    with monkeypatch.context() as patch:  # the second time nothing is converted
        patch.setattr(weights, "_convert", None)
        second = language_model(settings, None, llm_assets)
    assert torch.equal(logits(second.model, second.tokenizer), logits(first.model, first.tokenizer))
    file = base.folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])  # a damaged copy is made again
    assert weights.base_weights(llm_assets, "packed", "model.gguf") == base
    assert file.read_bytes() == whole
