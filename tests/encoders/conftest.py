"""Tiny pretrained encoders in the formats of real ones, and a store that hands them out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from crystalfm.assets.store import FetchedAsset
from crystalfm.contracts import UserError
from crystalfm.encoders.cache import EmbeddingCache

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "gap", "of", "a", "Band", "band", "##s", "C", "O", "N"]


class FolderStore:
    """Assets are folders below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []

    def fetch(self, name):
        folder = self.root / name
        if not folder.is_dir():
            raise UserError(f"no asset {name}")
        self.fetched.append(name)
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return FetchedAsset(name, folder, digest.hexdigest(), "test", "none")


def _bert_config(**changes):
    from transformers import BertConfig

    return BertConfig(
        **{
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
            **changes,
        }
    )


def _write_vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def save_bert(folder):
    """A BERT with a tokenizer, as transformers saves it."""
    from transformers import BertModel, BertTokenizerFast

    folder.mkdir()
    _write_vocabulary(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    BertModel(_bert_config()).save_pretrained(folder)


def save_cased_bert(folder):
    """A BERT with nothing but config, vocab.txt and weights with a head, as MatBERT is published."""
    import torch
    from transformers import BertForMaskedLM

    folder.mkdir()
    _write_vocabulary(folder)
    config = _bert_config()
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(BertForMaskedLM(config).state_dict(), folder / "pytorch_model.bin")


def save_smiles_bert(folder):
    """A BERT whose config does not name its architecture, with a vocabulary of SMILES tokens, as rxnfp is."""
    save_cased_bert(folder)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "O", "Cl", "(", ")", "=", "[C@H]", "1", "c", "%12"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    values = json.loads((folder / "config.json").read_text())
    for key in ("model_type", "architectures", "transformers_version"):
        values.pop(key, None)
    (folder / "config.json").write_text(json.dumps(values))


def _byte_tokenizer(special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=sorted(set(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the gap of a band", "[C] [=C] [O]"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_gpt2(folder):
    """A causal language model without a padding token."""
    from transformers import GPT2Config, GPT2Model

    tokenizer = _byte_tokenizer({"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"})
    tokenizer.save_pretrained(folder)
    GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64)).save_pretrained(
        folder
    )


def save_bart(folder):
    """An encoder-decoder, as SELFIES-TED is."""
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = _byte_tokenizer({"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)


def save_roberta(folder):
    """A RoBERTa, whose positions begin after the padding id, as ChemBERTa is."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    special = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = _byte_tokenizer(special)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=tokenizer.pad_token_id,
    )
    RobertaForMaskedLM(config).save_pretrained(folder)


SAVERS = {
    "bert": save_bert,
    "cased_bert": save_cased_bert,
    "smiles_bert": save_smiles_bert,
    "gpt2": save_gpt2,
    "bart": save_bart,
    "roberta": save_roberta,
}


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Folder with every tiny model, each made once a session."""
    import torch

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, save in SAVERS.items():
        save(root / name)
    return root


@pytest.fixture
def store(model_folders):
    return FolderStore(model_folders)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "embeddings")


@pytest.fixture
def all_rows():
    """Return every row of a store as one batch."""
    return lambda features: features.batch(np.arange(len(features)))
