"""Encoders trained from scratch: Morgan fingerprints, and a transformer over tokens."""

import numpy as np
import pytest
import torch

from crystalfm.chem.molecules import MoleculeError, morgan_fingerprints
from crystalfm.contracts import UserError
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.morgan import MorganEncoder
from crystalfm.encoders.tokens import TokenTransformerEncoder

SMILES = ["CCO", "c1ccccc1", None, "CC(=O)O", "CCO"]


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path)


def all_rows(store):
    return store.batch(np.arange(len(store)))


# ------------------------------------------------------------------------ morgan


def test_morgan_bits_are_rdkits(cache):
    encoder = MorganEncoder(modality="fingerprint", cache=cache, num_bits=512, width=8)
    batch = all_rows(encoder.prepare(SMILES))
    assert batch["fingerprint.present"].tolist() == [True, True, False, True, True]
    bits = batch["fingerprint.bits"].numpy()
    known = [0, 1, 3, 4]
    np.testing.assert_array_equal(bits[known], morgan_fingerprints([SMILES[row] for row in known], num_bits=512))
    assert not bits[2].any()
    assert encoder.build_network()(batch).shape == (5, 8)


def test_morgan_bits_are_made_once(cache, monkeypatch):
    MorganEncoder(modality="fingerprint", cache=cache).prepare(SMILES)
    monkeypatch.setattr("crystalfm.chem.molecules.morgan_fingerprints", pytest.fail)
    second = MorganEncoder(modality="fingerprint", cache=cache)
    second.prepare(SMILES[::-1])
    assert (second.report().cache_hits, second.report().cache_misses) == (3, 0)


@pytest.mark.parametrize("change", [{"radius": 1}, {"num_bits": 1024}])
def test_other_fingerprints_are_other_cache_entries(cache, change):
    MorganEncoder(modality="fingerprint", cache=cache).prepare(SMILES)
    other = MorganEncoder(modality="fingerprint", cache=cache, **change)
    other.prepare(SMILES)
    assert other.report().cache_misses == 3


def test_morgan_refuses_what_is_no_molecule(cache):
    with pytest.raises(MoleculeError, match="not a SMILES"):
        MorganEncoder(modality="fingerprint", cache=cache).prepare(["CCO", "C(("])


def test_morgan_state_guards_the_meaning_of_bits(cache):
    state = MorganEncoder(modality="fingerprint", cache=cache).state()
    MorganEncoder(modality="fingerprint", cache=cache).load_state(state)
    with pytest.raises(UserError, match="radius is 3"):
        MorganEncoder(modality="fingerprint", cache=cache, radius=3).load_state(state)


@pytest.mark.parametrize("setting", [{"num_bits": 100}, {"num_bits": 0}, {"radius": -1}, {"width": 0}])
def test_morgan_settings_out_of_range(cache, setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        MorganEncoder(modality="fingerprint", cache=cache, **setting)


# ------------------------------------------------------------------------ tokens


def fitted(values=SMILES, **settings):
    encoder = TokenTransformerEncoder(modality="smiles", width=16, num_layers=1, num_heads=2, **settings)
    encoder.fit(values)
    return encoder


def test_tokens_of_rows_and_their_lengths():
    encoder = fitted()
    store = encoder.prepare(SMILES)
    assert store.lengths.tolist() == [3, 8, 0, 7, 3]
    batch = all_rows(store)
    assert batch["smiles.present"].tolist() == [True, True, False, True, True]
    assert batch["smiles.tokens"].shape == (5, 8)
    torch.testing.assert_close(batch["smiles.tokens"][0], batch["smiles.tokens"][4])
    assert encoder.build_network()(batch).isfinite().all()


def test_the_vocabulary_is_that_of_the_training_split():
    encoder = fitted(["CCO", "CCC"])
    assert encoder.state()["vocabulary"] == ["C", "O"]
    store = encoder.prepare(["CNO", "CCl"])
    tokens = all_rows(store)["smiles.tokens"]
    assert tokens[0].tolist() == [3, 1, 4]
    assert any("2 unknown tokens" in note and "Cl, N" in note for note in encoder.report().notes)


def test_long_strings_are_cut_and_counted():
    encoder = fitted(max_length=4)
    store = encoder.prepare(["CCCCCC", "CCC", "C" * 50])
    assert store.lengths.tolist() == [4, 3, 4]
    assert "2 strings cut at 4 tokens" in encoder.report().notes


def test_class_token_stands_in_front():
    encoder = fitted(pooling="cls", max_length=3)
    tokens = all_rows(encoder.prepare(["CCO", "C"]))["smiles.tokens"]
    assert tokens[:, 0].tolist() == [2, 2]
    assert tokens.shape == (2, 3)


def test_state_restores_the_encoder_without_training_data():
    encoder = fitted()
    restored = TokenTransformerEncoder(modality="smiles", width=16, num_layers=1, num_heads=2)
    restored.load_state(encoder.state())
    torch.testing.assert_close(
        all_rows(restored.prepare(SMILES))["smiles.tokens"], all_rows(encoder.prepare(SMILES))["smiles.tokens"]
    )
    network = restored.build_network()
    network.load_state_dict(encoder.build_network().state_dict())


def test_selfies_are_split_at_brackets():
    encoder = TokenTransformerEncoder(modality="selfies")
    encoder.fit(["[C][=C][Branch1][C]"])
    assert encoder.state()["vocabulary"] == ["[C]", "[=C]", "[Branch1]"]


def test_an_encoder_without_vocabulary_says_so():
    with pytest.raises(RuntimeError, match="fit"):
        TokenTransformerEncoder(modality="smiles").prepare(SMILES)


def test_a_state_of_another_version_is_refused():
    with pytest.raises(UserError, match="version 99"):
        TokenTransformerEncoder(modality="smiles").load_state({"version": 99, "vocabulary": []})


def test_words_are_what_blanks_separate():
    encoder = TokenTransformerEncoder(modality="description", tokenizer="words")
    encoder.fit(["Mo S 0 1 ooo"])
    batch = encoder.prepare(["Mo  S\n1 ooo", "Se"]).batch(np.arange(2))
    assert batch["description.mask"].sum(dim=1).tolist() == [4, 1]
    assert len(set(batch["description.tokens"][0].tolist())) == 4
    assert "1 unknown tokens outside the training split (Se)" in encoder.report().notes


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"width": 10, "num_heads": 4}, "does not divide"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_length": 1}, "max_length"),
        ({"pooling": "means"}, "did you mean 'mean'"),
        ({"tokenizer": "selfie"}, "did you mean 'selfies'"),
        ({"modality": "description"}, "no tokenizer"),
    ],
)
def test_token_settings_out_of_range(setting, words):
    with pytest.raises(UserError, match=words):
        TokenTransformerEncoder(**{"modality": "smiles", **setting})
