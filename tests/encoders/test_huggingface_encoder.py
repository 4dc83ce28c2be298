"""Pretrained encoders: frozen behind the cache, trained with the model, and rebuilt from a checkpoint's state."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.encoders import pretrained
from crystalfm.encoders.huggingface import HuggingFaceEncoder
from crystalfm.encoders.text_tokenizer import TextTokenizer, smiles_vocabulary_tokenizer
from crystalfm.encoders.tokenizers import tokenize_smiles

TEXTS = ["the gap of a band", None, "gap", "the gap", "the gap of a band", ""]
BERT = {"asset": "bert", "max_length": 32}


@pytest.fixture
def make(store, cache):
    def build(**settings):
        return HuggingFaceEncoder(**{"modality": "description", "store": store, "cache": cache, **settings})

    return build


def reference_vectors(folder, texts, *, pooling, encoder_of=lambda model: model):
    """Each text alone through transformers, without padding: hidden states pooled by hand."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = encoder_of(AutoModel.from_pretrained(folder)).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        with torch.no_grad():
            hidden = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0]
        vectors.append(hidden[0] if pooling == "cls" else hidden.mean(dim=0))
    return torch.stack(vectors)


# ------------------------------------------------------------------------ frozen


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_frozen_vectors_are_transformers_own_without_padding(make, model_folders, all_rows, pooling):
    encoder = make(**BERT, pooling=pooling, batch_size=2)
    batch = all_rows(encoder.prepare(TEXTS))
    known = [0, 2, 3, 4, 5]
    expected = reference_vectors(model_folders / "bert", [TEXTS[row] for row in known], pooling=pooling)
    torch.testing.assert_close(batch["description.embedding"][known], expected, atol=1e-5, rtol=1e-4)
    assert batch["description.present"].tolist() == [text is not None for text in TEXTS]
    assert batch["description.embedding"][1].eq(0).all()


def test_causal_model_without_padding_token_pools_real_tokens(make, model_folders, all_rows):
    texts = ["the gap of a band", "gap", "the"]
    batch = all_rows(make(asset="gpt2", max_length=64).prepare(texts))
    expected = reference_vectors(model_folders / "gpt2", texts, pooling="mean")
    torch.testing.assert_close(batch["description.embedding"], expected, atol=1e-5, rtol=1e-4)


def test_of_an_encoder_decoder_the_encoder_is_used(make, model_folders, all_rows):
    encoder = make(asset="bart", max_length=64, text_transform="spaced_selfies")
    batch = all_rows(encoder.prepare(["[C][=C][O]", "[C]"]))
    expected = reference_vectors(
        model_folders / "bart", ["[C] [=C] [O]", "[C]"], pooling="mean", encoder_of=lambda m: m.get_encoder()
    )
    torch.testing.assert_close(batch["description.embedding"], expected, atol=1e-5, rtol=1e-4)


def test_batch_size_does_not_change_vectors(make, all_rows, tmp_path):
    texts = ["the gap of a band" * repeat for repeat in range(1, 6)] + ["gap", "a"]
    one = all_rows(make(**BERT, batch_size=1).prepare(texts))["description.embedding"]
    from crystalfm.encoders.cache import EmbeddingCache

    other = all_rows(make(**BERT, batch_size=7, cache=EmbeddingCache(tmp_path / "other")).prepare(texts))
    torch.testing.assert_close(one, other["description.embedding"], atol=1e-5, rtol=1e-4)


def test_normalized_vectors_have_unit_length(make, all_rows):
    vectors = all_rows(make(**BERT, normalize=True).prepare(["gap", "the gap"]))["description.embedding"]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_half_storage_is_close(make, all_rows):
    full = all_rows(make(**BERT).prepare(["gap"]))["description.embedding"]
    half = all_rows(make(**BERT, storage="float16").prepare(["gap"]))["description.embedding"]
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), full, atol=2e-3, rtol=2e-3)


def test_weights_are_read_only_when_something_is_new(make, monkeypatch):
    reads = []
    load = pretrained.load_encoder

    def counted(source, config):
        reads.append(source.asset)
        return load(source, config)

    monkeypatch.setattr(pretrained, "load_encoder", counted)
    first = make(**BERT)
    first.prepare(TEXTS)
    assert (first.report().cache_hits, first.report().cache_misses) == (0, 4)
    second = make(**BERT)
    second.prepare(TEXTS[::-1])
    assert second.build_network().width == 16
    assert (second.report().cache_hits, second.report().cache_misses) == (4, 0)
    assert reads == ["bert"]


def test_a_warm_cache_does_not_import_transformers(make, cache, model_folders):
    make(**BERT).prepare(["gap"])
    code = (
        "import sys, pathlib\n"
        "from crystalfm.assets.store import FetchedAsset\n"
        "from crystalfm.encoders.cache import EmbeddingCache\n"
        "from crystalfm.encoders.huggingface import HuggingFaceEncoder\n"
        "class Store:\n"
        "    def fetch(self, name): return FetchedAsset(name, pathlib.Path(sys.argv[2]), sys.argv[3], '', '')\n"
        "encoder = HuggingFaceEncoder(modality='description', store=Store(), asset='bert', max_length=32,\n"
        "                             cache=EmbeddingCache(pathlib.Path(sys.argv[1])))\n"
        "encoder.prepare(['gap'])\n"
        "encoder.build_network()\n"
        "assert encoder.report().cache_hits == 1, encoder.report()\n"
        "assert 'transformers' not in sys.modules\n"
    )
    sha256 = make(**BERT).identity()["asset_sha256"]
    folder = str(model_folders / "bert")
    subprocess.run([sys.executable, "-c", code, str(cache.root), folder, sha256], check=True, timeout=60)


@pytest.mark.parametrize(
    "change", [{"pooling": "cls"}, {"max_length": 31}, {"normalize": True}, {"precision": "bfloat16"}]
)
def test_other_settings_are_other_cache_entries(make, change):
    make(**BERT).prepare(["gap"])
    other = make(**{**BERT, **change})
    other.prepare(["gap"])
    assert other.report().cache_misses == 1
    assert other.report().notes[-1] == f"identity new: other {next(iter(change))} than before"


def test_other_weights_are_other_cache_entries(make, model_folders, store, tmp_path):
    make(**BERT).prepare(["gap"])
    shutil.copytree(model_folders / "bert", tmp_path / "bert")
    (tmp_path / "bert" / "extra").write_text("x")
    store.root = tmp_path
    other = make(**BERT)
    other.prepare(["gap"])
    assert other.report().cache_misses == 1


def test_cut_texts_are_counted(make):
    encoder = make(asset="bert", max_length=4)
    encoder.prepare(["the gap of a band", "gap", "the gap of a"])
    assert "2 of 3 new strings cut at 4 tokens" in encoder.report().notes


def test_a_column_without_any_value_is_prepared(make, all_rows):
    encoder = make(**BERT)
    batch = all_rows(encoder.prepare([None, None]))
    assert batch["description.embedding"].shape == (2, 16)
    assert encoder.build_network()(batch).shape == (2, 16)


def test_nothing_is_said_on_the_terminal(make, capfd, caplog):
    caplog.set_level(logging.WARNING)
    make(asset="cased_bert", max_length=32, lowercase=False).prepare(["gap"])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# --------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(("lowercase", "token"), [(False, "Band"), (True, "band")])
def test_a_vocabulary_alone_is_read_with_the_case_asked_for(make, lowercase, token):
    encoder = make(asset="cased_bert", max_length=32, lowercase=lowercase, frozen=False)
    vocabulary = (encoder.source().folder / "vocab.txt").read_text().split()
    store = encoder.prepare(["Band"])
    ids = store.gather(np.array([0]))["description.tokens"][0].tolist()
    assert [vocabulary[number] for number in ids] == ["[CLS]", token, "[SEP]"]


def test_smiles_bert_reads_atoms(make, all_rows):
    settings = {"asset": "smiles_bert", "modality": "smiles", "model_type": "bert", "tokenizer": "smiles"}
    encoder = make(**settings, pooling="cls", max_length=32)
    vectors = all_rows(encoder.prepare(["CC(=O)O", "CCl", "C"]))["smiles.embedding"]
    assert vectors.isfinite().all()
    assert len(vectors.unique(dim=0)) == 3


def test_smiles_tokenizer_splits_as_the_pattern_does(model_folders):
    smiles = ["CC(=O)O", "C[C@H](Cl)c1ccccc1", "C%12CC%12", "C~Q", ""]
    path = model_folders / "smiles_bert" / "vocab.txt"
    vocabulary = path.read_text().split()
    rows, num_cut = smiles_vocabulary_tokenizer(path, 64).encode(smiles)
    for text, row in zip(smiles, rows, strict=True):
        known = [token if token in vocabulary else "[UNK]" for token in tokenize_smiles(text)]
        assert [vocabulary[number] for number in row] == ["[CLS]", *known, "[SEP]"]
    assert num_cut == 0


def test_a_config_without_architecture_needs_to_be_told(make):
    with pytest.raises(UserError, match="smiles_bert"):
        make(asset="smiles_bert", tokenizer="smiles", max_length=32).prepare(["C"])


def test_text_tokenizer_never_returns_an_empty_row(make):
    encoder = make(asset="gpt2", max_length=64, frozen=False)
    encoder.prepare(["gap"])
    state = encoder.state()
    tokenizer = TextTokenizer(state["tokenizer"], state["pad_token_id"], 64)
    assert tokenizer.encode([""])[0] == [[state["pad_token_id"]]]


# --------------------------------------------------------------------- mistakes


def test_a_class_token_that_does_not_exist_cannot_be_pooled(make):
    with pytest.raises(UserError, match="pooling=cls needs a class token"):
        make(asset="gpt2", pooling="cls", max_length=64).prepare(["gap"])


@pytest.mark.parametrize(("asset", "limit"), [("bert", 32), ("gpt2", 64)])
def test_max_length_beyond_the_positions(make, asset, limit):
    with pytest.raises(UserError, match=f"has {limit} positions"):
        make(asset=asset, max_length=limit + 1).prepare(["gap"])


def test_roberta_has_fewer_positions_than_its_table(make, model_folders):
    padding = json.loads((model_folders / "roberta" / "config.json").read_text())["pad_token_id"]
    limit = 34 - padding - 1
    text = "the gap of a band " * 20
    make(asset="roberta", max_length=limit).prepare([text])
    with pytest.raises(UserError, match=f"has {limit} positions"):
        make(asset="roberta", max_length=limit + 1).prepare([text])


def test_missing_files_are_named(make, model_folders, store, tmp_path):
    shutil.copytree(model_folders / "bert", tmp_path / "bert")
    (tmp_path / "bert" / "config.json").unlink()
    store.root = tmp_path
    with pytest.raises(UserError, match=r"no file config\.json"):
        make(**BERT).prepare(["gap"])
    with pytest.raises(UserError, match=r"no file absent\.gguf"):
        make(**BERT, gguf_file="absent.gguf").prepare(["gap"])


def test_weights_that_lack_a_layer_are_refused(make, model_folders, store, tmp_path):
    shutil.copytree(model_folders / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 3}))
    store.root = tmp_path
    with pytest.raises(UserError, match=r"lacks \d+ weights of a bert"):
        make(**BERT).prepare(["gap"])


def test_damaged_weights_are_the_users_matter(make, model_folders, store, tmp_path):
    shutil.copytree(model_folders / "cased_bert", tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text("{")
    store.root = tmp_path
    with pytest.raises(UserError, match="cannot be read"):
        make(**BERT).prepare(["gap"])


@pytest.mark.parametrize(
    "setting",
    [{"pooling": "max"}, {"tokenizer": "x"}, {"text_transform": "x"}, {"precision": "x"}, {"storage": "x"},
     {"max_length": 1}, {"batch_size": 0}],
)  # fmt: skip
def test_settings_out_of_range(make, setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        make(**{**BERT, **setting})


# -------------------------------------------------------------------- trainable


@pytest.mark.parametrize("asset", ["bert", "gpt2", "bart"])
def test_trainable_network_gives_the_frozen_vectors_before_training(make, all_rows, asset):
    texts = ["the gap of a band", "gap", None]
    frozen = all_rows(make(asset=asset, max_length=32).prepare(texts))["description.embedding"]
    encoder = make(asset=asset, max_length=32, frozen=False)
    network, batch = None, all_rows(encoder.prepare(texts))
    network = encoder.build_network()
    assert network.training
    vectors = network.eval()(batch)
    torch.testing.assert_close(vectors[:2], frozen[:2], atol=1e-5, rtol=1e-4)
    assert vectors[2].isfinite().all()
    assert encoder.report().width == network.width == 16


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_of_a_trainable_network_learns(make, all_rows, checkpointing):
    encoder = make(**BERT, frozen=False, gradient_checkpointing=checkpointing)
    batch = all_rows(encoder.prepare(TEXTS))
    network = encoder.build_network()
    network(batch).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_frozen_network_has_no_weights(make):
    encoder = make(**BERT)
    encoder.prepare(TEXTS)
    assert list(encoder.build_network().parameters()) == []


@pytest.mark.parametrize("asset", ["bert", "gpt2", "bart", "roberta"])
def test_trainable_state_rebuilds_the_encoder_without_the_asset(make, store, all_rows, tmp_path, asset):
    encoder = make(asset=asset, max_length=32, frozen=False)
    batch = all_rows(encoder.prepare(TEXTS))
    network = encoder.build_network().eval()
    path = tmp_path / "state.pt"
    torch.save({"encoder": encoder.state(), "weights": network.state_dict()}, path)
    store.root = tmp_path / "nothing"
    store.fetched.clear()
    saved = torch.load(path, weights_only=True)
    restored = make(asset=asset, max_length=32, frozen=False)
    restored.load_state(saved["encoder"])
    again = all_rows(restored.prepare(TEXTS))
    rebuilt = restored.build_network()
    rebuilt.load_state_dict(saved["weights"])
    assert store.fetched == []
    torch.testing.assert_close(again["description.tokens"], batch["description.tokens"])
    torch.testing.assert_close(rebuilt.eval()(again), network(batch))


def test_frozen_state_is_small_and_guards_the_weights(make, model_folders, store, tmp_path):
    encoder = make(**BERT)
    encoder.prepare(["gap"])
    state = json.loads(json.dumps(encoder.state()))
    assert state["width"] == 16
    restored = make(**BERT)
    restored.load_state(state)
    assert restored.build_network().width == 16
    restored.prepare(["the gap"])
    shutil.copytree(model_folders / "bert", tmp_path / "bert")
    (tmp_path / "bert" / "extra").write_text("x")
    store.root = tmp_path
    other = make(**BERT)
    other.load_state(state)
    with pytest.raises(UserError, match="not the one the checkpoint was trained with"):
        other.prepare(["gap"])


def test_frozen_and_trainable_states_are_not_mixed(make):
    state = make(**BERT).state()
    with pytest.raises(UserError, match="frozen=False"):
        make(**BERT, frozen=False).load_state(state)
    with pytest.raises(UserError, match="version 99"):
        make(**BERT).load_state({**state, "version": 99})


def test_a_state_never_names_code(make, model_folders, store, tmp_path):
    shutil.copytree(model_folders / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "bert" / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    store.root = tmp_path
    encoder = make(**BERT, frozen=False)
    encoder.prepare(["gap"])
    assert "auto_map" not in encoder.state()["config"]
    encoder.build_network()


@pytest.mark.parametrize("config", [{"model_type": "no_such"}, {}])
def test_an_unknown_architecture_in_a_state(config):
    with pytest.raises(UserError, match="does not know"):
        pretrained.empty_encoder(config)


# -------------------------------------------------------------------- real weights


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("asset", "settings", "width"),
    [
        ("rxnfp", {"model_type": "bert", "tokenizer": "smiles", "pooling": "cls"}, 256),
        ("minilm", {"max_length": 256, "normalize": True}, 384),
    ],
)
def test_real_weights_tell_like_from_unlike(asset_cache, cache, all_rows, asset, settings, width):
    from crystalfm.assets.store import AssetStore

    store = AssetStore(asset_cache, offline=True)
    if not store.is_cached(asset):
        pytest.skip(f"needs the asset {asset}")
    encoder = HuggingFaceEncoder(modality="smiles", store=store, cache=cache, asset=asset, **settings)
    vectors = all_rows(encoder.prepare(["CCCCCO", "CCCCCCO", "c1ccc2ccccc2c1"]))["smiles.embedding"]
    assert vectors.shape == (3, width)
    near, far = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert near > far


@pytest.mark.real_data
@pytest.mark.slow
def test_real_language_model_is_read_from_gguf(asset_cache, cache, all_rows, capfd):
    from crystalfm.assets.store import AssetStore

    store = AssetStore(asset_cache, offline=True)
    if not store.is_cached("smollm2_135m"):
        pytest.skip("needs the asset smollm2_135m")
    encoder = HuggingFaceEncoder(
        modality="description",
        store=store,
        cache=cache,
        asset="smollm2_135m",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    )
    texts = ["The band gap is 1.1 eV.", "Its band gap is 1.2 eV.", "Roses are red, violets are blue."]
    vectors = all_rows(encoder.prepare(texts))["description.embedding"]
    assert vectors.shape == (3, 576)
    near, far = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert near > far
    assert capfd.readouterr() == ("", "")
