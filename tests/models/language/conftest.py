"""Tiny causal language models in the formats in which real ones come."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crystalfm.generation.prompts import PromptSettings
from crystalfm.models.language.build import language_model
from crystalfm.models.language.settings import settings_from_node

TEXT = "5.6 5.6 5.6\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
PROMPT = "A crystal:\n"


class FolderStore:
    """An asset store over one folder."""

    def __init__(self, root, cache):
        self.root = root
        self.cache = cache

    def fetch(self, name):
        return SimpleNamespace(folder=self.root / name)


def byte_tokenizer(*, pad):
    """A tokenizer of single bytes as GPT-2's, with a single merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<|endoftext|>", *alphabet, "ĠA"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "A")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<s>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def llama(num_tokens, *, tied=True):
    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def llm_assets(tmp_path_factory):
    """A store of tiny random models with tokenizers: llama (padded), untied (no padding token), gpt2."""
    root = tmp_path_factory.mktemp("llm_assets")
    torch.manual_seed(0)
    for name, pad in (("llama", True), ("untied", False), ("gpt2", False)):
        tokenizer = byte_tokenizer(pad=pad)
        tokenizer.save_pretrained(root / name)
        if name == "gpt2":
            config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256)
            GPT2LMHeadModel(config).save_pretrained(root / name)
        else:
            llama(len(tokenizer), tied=name == "llama").save_pretrained(root / name)
    return FolderStore(root, tmp_path_factory.mktemp("llm_cache"))


@pytest.fixture
def build(llm_assets):
    """Build a language model from settings of the group ``llm``; without an asset, a tiny one from scratch."""

    def make(asset=None, seed=0, **settings):
        torch.manual_seed(seed)
        kind = "TinyBackbone" if asset is None else "PretrainedBackbone"
        own = {"width": 32, "num_layers": 2, "num_heads": 2} if asset is None else {"asset": asset}
        node = {"_target_": f"crystalfm.models.backbones.{kind}", "name": "test", **own, **settings}
        return language_model(settings_from_node(node), PromptSettings(), llm_assets)

    return make


@pytest.fixture
def train():
    """Take a few steps on one text and return the losses."""

    def steps(built, num=3, lr=0.05):
        ids = torch.tensor([built.tokenizer(PROMPT + TEXT, add_special_tokens=False)["input_ids"]])
        weights = [weight for weight in built.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=lr)
        losses = []
        for _ in range(num):
            loss = built.model(input_ids=ids, labels=ids).loss
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return losses

    return steps


@pytest.fixture
def logits():
    """Return a model's logits of one text, in evaluation mode."""

    def read(model, tokenizer):
        training = model.training
        model.eval()
        ids = torch.tensor([tokenizer(PROMPT + TEXT, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            values = model(input_ids=ids).logits.float()
        model.train(training)
        return values

    return read


@pytest.fixture(scope="session")
def write_gguf():
    """Write a tiny LLaMA and a tokenizer of bytes as one GGUF file."""
    gguf = pytest.importorskip("gguf")

    def write(model, tokenizer, path):
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
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
        writer.add_token_merges(["Ġ A"])
        writer.add_bos_token_id(tokenizer.bos_token_id)
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_pad_token_id(tokenizer.pad_token_id)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for key, value in model.state_dict().items():
            if key == "lm_head.weight":
                continue
            array = value.numpy()
            for part, num_heads in heads.items():
                if part in key:  # llama.cpp rotates neighbouring pairs, transformers two halves
                    halves = array.reshape(num_heads, 2, -1, array.shape[1])
                    array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
            writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write
