import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from crystalfm.contracts import UserError
from crystalfm.models.backbones import PretrainedBackbone, backbone_from_architecture

WIDTH = 32
MASKS = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
MODELS = {"gpt2": GPT2Model, "llama": LlamaModel}


class FolderStore:
    """An asset store over one folder."""

    def __init__(self, root):
        self.root = root

    def fetch(self, name):
        return SimpleNamespace(folder=self.root / name)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tiny random models in Hugging Face format."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    gpt2 = GPT2Config(vocab_size=50, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0)
    llama = LlamaConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    GPT2Model(gpt2).save_pretrained(root / "gpt2")
    LlamaModel(llama).save_pretrained(root / "llama")
    bert = BertConfig(vocab_size=50, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(bert).save_pretrained(root / "bert")
    return FolderStore(root)


@pytest.fixture
def inputs():
    return torch.randn(len(MASKS), 3, WIDTH, generator=torch.Generator().manual_seed(1))


def _reference(store, name, inputs, places):
    """Hidden states of transformers' own class with its own two-axis mask."""
    model = MODELS[name].from_pretrained(store.root / name).eval()
    if places == "zero" and name == "gpt2":
        torch.nn.init.zeros_(model.wpe.weight)
    position_ids = torch.arange(3).expand(len(MASKS), 3)
    if places == "zero":
        position_ids = torch.zeros_like(position_ids)
    with torch.no_grad():
        return model(inputs_embeds=inputs, attention_mask=MASKS.long(), position_ids=position_ids).last_hidden_state


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("positions", ["keep", "zero"])
def test_hidden_states_equal_transformers_own(store, inputs, name, positions):
    backbone = PretrainedBackbone(store=store, asset=name, positions=positions).eval()
    assert backbone.width == WIDTH
    expected = _reference(store, name, inputs, positions)
    torch.testing.assert_close(backbone(inputs, MASKS)[MASKS], expected[MASKS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_zero_forgets_the_order_that_keep_knows(store, inputs, name):
    """Without positions the last state of a causal decoder sees the ones before it as a set."""
    full = torch.ones(len(inputs), 3, dtype=torch.bool)
    swapped = inputs[:, [1, 0, 2]]
    for positions, same in (("zero", True), ("keep", False)):
        backbone = PretrainedBackbone(store=store, asset=name, positions=positions, num_layers=1).eval()
        last, last_swapped = backbone(inputs, full)[:, 2], backbone(swapped, full)[:, 2]
        assert torch.allclose(last, last_swapped, atol=1e-6) is same


def test_zero_positions_stay_zero_and_kept_ones_train(store):
    zero = PretrainedBackbone(store=store, asset="gpt2", positions="zero").model.wpe.weight
    assert zero.abs().max() == 0
    assert not zero.requires_grad
    assert PretrainedBackbone(store=store, asset="gpt2", positions="keep").model.wpe.weight.requires_grad


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("causal", [True, False])
def test_every_mask_gives_finite_states_and_gradients(store, inputs, name, causal):
    backbone = PretrainedBackbone(store=store, asset=name, causal=causal).train()
    leaf = inputs.clone().requires_grad_()
    hidden = backbone(leaf, MASKS)
    (hidden * inputs).sum().backward()
    assert hidden.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_absent_modalities_have_no_influence_and_shift_nobody(store, inputs, name):
    backbone = PretrainedBackbone(store=store, asset=name).eval()
    changed = torch.where(MASKS[:, :, None], inputs, torch.full_like(inputs, 5.0))
    assert torch.equal(backbone(inputs, MASKS)[MASKS], backbone(changed, MASKS)[MASKS])


def test_bidirectional_lets_the_first_see_the_last(store, inputs):
    full = torch.ones(len(inputs), 3, dtype=torch.bool)
    changed = inputs.clone()
    changed[:, 2] = inputs[:, 2].flip(-1)
    for causal in (True, False):
        backbone = PretrainedBackbone(store=store, asset="gpt2", causal=causal).eval()
        same = torch.equal(backbone(inputs, full)[:, 0], backbone(changed, full)[:, 0])
        assert same is causal


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_token_embedding_is_gone(store, name):
    backbone = PretrainedBackbone(store=store, asset=name)
    assert not [key for key in backbone.state_dict() if "wte" in key or "embed_tokens" in key]
    original = MODELS[name].from_pretrained(store.root / name)
    table = original.get_input_embeddings().weight
    count = sum(p.numel() for p in original.parameters()) - table.numel()
    assert sum(p.numel() for p in backbone.parameters()) == count


SETTINGS = [
    {},
    {"positions": "zero", "causal": False},
    {"num_layers": 1, "dropout": 0.3},
    {"trainable": "norms"},
    {"trainable": "none"},
    {"lora_rank": 2, "lora_alpha": 4.0},
    {"weights_dtype": "bfloat16"},
    {"weights_dtype": "bfloat16", "lora_rank": 2, "trainable": "norms"},
]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_architecture_and_weights_alone_rebuild_the_backbone(store, inputs, name, settings, tmp_path):
    if "lora_rank" in settings:
        pytest.importorskip("peft")
    backbone = PretrainedBackbone(store=store, asset=name, **settings)
    torch.save({"llm": backbone.architecture(), "state": backbone.state_dict()}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    twin = backbone_from_architecture(json.loads(json.dumps(saved["llm"])))
    twin.load_state_dict(saved["state"])
    assert torch.equal(twin.eval()(inputs, MASKS), backbone.eval()(inputs, MASKS))
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in backbone.parameters()]
    assert twin.architecture() == backbone.architecture()


def test_trainable_says_what_learns(store):
    def trained(**settings):
        backbone = PretrainedBackbone(store=store, asset="gpt2", **settings)
        return {name for name, p in backbone.named_parameters() if p.requires_grad}

    everything = {name for name, _ in PretrainedBackbone(store=store, asset="gpt2").named_parameters()}
    assert trained() == everything
    assert trained(trainable="none") == set()
    norms = trained(trainable="norms")
    assert {name for name in everything if "ln_" in name} | {"model.wpe.weight"} == norms
    assert trained(trainable="norms", positions="zero") == norms - {"model.wpe.weight"}


def test_fewer_layers_are_the_first_ones(store, inputs):
    short = PretrainedBackbone(store=store, asset="llama", num_layers=2)
    assert len(short.model.layers) == 2
    whole = PretrainedBackbone(store=store, asset="llama").model.layers
    assert torch.equal(short.model.layers[1].mlp.up_proj.weight, whole[1].mlp.up_proj.weight)
    with pytest.raises(UserError, match="has 3 layers"):
        PretrainedBackbone(store=store, asset="llama", num_layers=4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_dropout_is_on_in_training_and_can_be_set(store, inputs, name):
    full = torch.ones(len(inputs), 3, dtype=torch.bool)
    for rate, same in ((0.4, False), (0.0, True)):
        backbone = PretrainedBackbone(store=store, asset=name, dropout=rate)
        assert backbone.model.training
        assert torch.equal(backbone(inputs, full), backbone(inputs, full)) is same


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_no_gradient(store, inputs, name):
    gradients = []
    for checkpointing in (False, True):
        backbone = PretrainedBackbone(
            store=store, asset=name, dropout=0.0, gradient_checkpointing=checkpointing
        ).train()
        assert backbone.model.is_gradient_checkpointing is checkpointing
        (backbone(inputs, MASKS) * inputs).sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_lora_starts_as_the_base_trains_alone_and_merges_exactly(store, inputs, name):
    tuners = pytest.importorskip("peft.tuners.tuners_utils")
    plain = PretrainedBackbone(store=store, asset=name).eval()
    adapted = PretrainedBackbone(store=store, asset=name, lora_rank=2).eval()
    assert torch.equal(adapted(inputs, MASKS), plain(inputs, MASKS))
    trained = {key for key, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {key for key, _ in adapted.named_parameters() if "lora_" in key}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves only B, which starts at zero
        optimizer.zero_grad()
        (adapted(inputs, MASKS) * inputs)[MASKS].sum().backward()
        optimizer.step()
    with torch.no_grad():
        trained_output = adapted(inputs, MASKS)
        layers = [m for m in adapted.modules() if isinstance(m, tuners.BaseTunerLayer)]
        assert len(layers) == {"gpt2": 4 * 3, "llama": 7 * 3}[name]
        for layer in layers:
            layer.merge()
        merged_output = adapted(inputs, MASKS)
    assert not torch.allclose(trained_output, plain(inputs, MASKS), atol=1e-3)
    torch.testing.assert_close(merged_output, trained_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_adapters_of_bfloat16_weights_learn_in_float32(store, inputs, name):
    pytest.importorskip("peft")
    backbone = PretrainedBackbone(store=store, asset=name, lora_rank=2, weights_dtype="bfloat16")
    kinds = {("lora_" in key, p.dtype) for key, p in backbone.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    hidden = backbone(inputs, MASKS)
    assert hidden.dtype == torch.float32
    (hidden * inputs).sum().backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)


def test_gguf_file_holds_the_same_model(store, inputs):
    gguf = pytest.importorskip("gguf")
    model = LlamaModel.from_pretrained(store.root / "llama")
    folder = store.root / "llama_gguf"
    folder.mkdir()
    _write_gguf(gguf, model, folder / "model.gguf")
    backbone = PretrainedBackbone(store=store, asset="llama_gguf", gguf_file="model.gguf").eval()
    plain = PretrainedBackbone(store=store, asset="llama").eval()
    torch.testing.assert_close(backbone(inputs, MASKS), plain(inputs, MASKS), rtol=1e-4, atol=1e-4)


def _write_gguf(gguf, model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, value in model.state_dict().items():
        array = value.numpy()
        for part, num_heads in heads.items():
            if part in key:  # llama.cpp rotates neighbouring pairs, transformers two halves
                halves = array.reshape(num_heads, 2, -1, array.shape[1])
                array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        writer.add_tensor(names.get_name("model." + key, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_broken_folder_is_the_users_error(store):
    (store.root / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"no file config\.json"):
        PretrainedBackbone(store=store, asset="empty")
    torn = store.root / "torn"
    torn.mkdir(exist_ok=True)
    (torn / "config.json").write_text((store.root / "gpt2" / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be read"):
        PretrainedBackbone(store=store, asset="torn")
    (torn / "model.safetensors").write_bytes((store.root / "gpt2" / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        PretrainedBackbone(store=store, asset="torn")


def test_weights_that_are_missing_from_the_file_are_an_error(store):
    from safetensors.torch import load_file, save_file

    holey = store.root / "holey"
    holey.mkdir(exist_ok=True)
    (holey / "config.json").write_text((store.root / "gpt2" / "config.json").read_text())
    weights = load_file(store.root / "gpt2" / "model.safetensors")
    name = next(key for key in weights if "h.1.mlp.c_fc.weight" in key)
    save_file(
        {key: value for key, value in weights.items() if key != name}, holey / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc\.weight"):
        PretrainedBackbone(store=store, asset="holey")


def test_other_architectures_are_refused_by_name(store):
    with pytest.raises(UserError, match="'bert'"):
        PretrainedBackbone(store=store, asset="bert")
    architecture = PretrainedBackbone(store=store, asset="gpt2").architecture()
    architecture["config"]["model_type"] = "bert"
    with pytest.raises(UserError, match="'bert'"):
        backbone_from_architecture(architecture)


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_rank": 0},
        {"lora_rank": 2, "trainable": "all"},
        {"num_layers": 0},
        {"dropout": 1.0},
        {"lora_dropout": -0.1},
        {"lora_alpha": 0.0},
        {"positions": "keeep"},
        {"trainable": "norm"},
        {"weights_dtype": "float16"},
    ],
)
def test_bad_settings_are_refused_before_anything_is_loaded(settings):
    class NoStore:
        def fetch(self, name):
            raise AssertionError(name)

    with pytest.raises(UserError, match="llm"):
        PretrainedBackbone(store=NoStore(), asset="gpt2", **settings)


@pytest.mark.parametrize(("package", "settings"), [("peft", {"lora_rank": 2}), ("gguf", {"gguf_file": "config.json"})])
def test_a_missing_optional_package_names_its_extra(store, monkeypatch, package, settings):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find_spec(name, *rest)
    )
    with pytest.raises(UserError, match=rf"{package}\n.*crystalfm\[llm\]"):
        PretrainedBackbone(store=store, asset="gpt2", **settings)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", [{}, {"causal": False}, {"lora_rank": 2, "positions": "zero"}])
def test_attention_weights_are_those_that_the_fused_kernel_mixes_with(store, inputs, name, settings):
    """Weights times the values of each layer are what its output projection gets in an ordinary pass."""
    backbone = PretrainedBackbone(store=store, asset=name, **settings).eval()
    before = backbone(inputs, MASKS)
    weights = backbone.attention(inputs, MASKS)
    assert weights.shape == (len(MASKS), 3, 4, 3, 3)
    values, mixed = [], []
    for layer in backbone.model.h if name == "gpt2" else backbone.model.layers:
        attention = layer.attn if name == "gpt2" else layer.self_attn
        source = attention.c_attn if name == "gpt2" else attention.v_proj
        output = attention.c_proj if name == "gpt2" else attention.o_proj
        source.register_forward_hook(lambda module, given, result: values.append(result))
        output.register_forward_pre_hook(lambda module, given: mixed.append(given[0]))
    assert torch.equal(backbone(inputs, MASKS), before), "asking for the attention changed the model"
    for layer, (value, expected) in enumerate(zip(values, mixed, strict=True)):
        heads = value[..., -WIDTH:] if name == "gpt2" else value
        heads = heads.reshape(len(MASKS), 3, -1, WIDTH // 4).transpose(1, 2)
        heads = heads.repeat_interleave(4 // heads.shape[1], dim=1)  # LLaMA's heads share values in groups
        found = (weights[:, layer] @ heads).transpose(1, 2).reshape(len(MASKS), 3, WIDTH)
        torch.testing.assert_close(found[MASKS], expected[MASKS], rtol=1e-5, atol=1e-6)
