"""Packed batches of crystals: nothing is lost, nothing is mixed, and every access can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalfm.chem.crystals import make_crystal
from crystalfm.data.crystal_texts import IGNORED, CrystalTextStore, pack
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.prompts import CrystalExamples, PromptSettings, plain_example
from crystalfm.generation.writer import completion_ids, prompt_ids

SETTINGS = PromptSettings()


def crystals(num=12):
    return [
        make_crystal((4.0 + 0.1 * n) * np.eye(3), [11, 17] * pairs, np.linspace(0, 0.9, 6 * pairs).reshape(-1, 3))
        for n, pairs in ((n, 1 + n % 3) for n in range(num))
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return build_crystal_tokenizer(SETTINGS)


def store(tokenizer, **settings):
    given = crystals()
    properties = [{"spacegroup": 225.0, "band_gap": 0.1 * n} for n in range(len(given))]
    source = CrystalExamples(given, properties, SETTINGS)
    return CrystalTextStore(source, tokenizer, **{"pack_length": 64, "seed": 7} | settings)


def texts_of(batch, tokenizer):
    """Return the text of each segment, as the batch holds it."""
    found = {}
    segments = batch["crystal_text.segments"]
    for segment in sorted(set(segments[segments >= 0].tolist())):
        found[segment] = tokenizer.decode(batch["crystal_text.tokens"][segments == segment], skip_special_tokens=False)
    return found


def test_the_first_variant_is_the_crystal_as_it_is(tokenizer):
    batch = store(tokenizer).gather(np.arange(12))
    for row, text in texts_of(batch, tokenizer).items():
        example = plain_example(crystals()[row], SETTINGS)
        assert text == f"<s>{example.prompt}{example.completion}</s>"


def test_other_variants_differ_and_come_again(tokenizer):
    made = store(tokenizer)
    rows, variants = np.arange(12), np.arange(1, 13)
    first, again = made.gather(rows, variants), store(tokenizer).gather(rows, variants)
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = made.gather(rows, variants + 100)
    assert texts_of(first, tokenizer) != texts_of(other, tokenizer)
    assert {made.example(0, variant).task for variant in range(1, 40)} == {"generate", "infill"}


def test_a_row_holds_whole_texts_and_positions_begin_anew(tokenizer):
    batch = store(tokenizer).gather(np.arange(12))
    tokens, segments, positions = (batch[f"crystal_text.{kind}"] for kind in ("tokens", "segments", "positions"))
    assert len(tokens) < 12, "several crystals share a row"
    for segment in range(12):
        places = (segments == segment).nonzero()
        assert len(set(places[:, 0].tolist())) == 1
        assert places[:, 1].diff().eq(1).all()
        assert positions[segments == segment].tolist() == list(range(len(places)))
    assert tokens[segments == -1].eq(tokenizer.pad_token_id).all()


def test_only_the_completion_is_learned_unless_asked_otherwise(tokenizer):
    for learn, prompt_learned in (("completion", False), ("all", True)):
        batch = store(tokenizer, learn=learn).gather(np.arange(3))
        labels, segments = batch["crystal_text.labels"], batch["crystal_text.segments"]
        for row in range(3):
            example = plain_example(crystals()[row], SETTINGS)
            num_prompt = len(prompt_ids(tokenizer, example.prompt))
            own = labels[segments == row]
            assert own[num_prompt:].tolist() == completion_ids(tokenizer, example.completion)
            assert own[0] == IGNORED, "nothing comes before the first token"
            assert (own[1:num_prompt] != IGNORED).all() == prompt_learned or num_prompt == 1
        assert labels[segments == -1].eq(IGNORED).all()


def test_a_text_longer_than_a_pack_has_a_row_of_its_own():
    sequences = [([1] * 30, 2), ([2] * 5, 2), ([3] * 5, 2)]
    packed = pack(sequences, length=10, pad_token_id=0)
    assert packed["crystal_text.tokens"].shape == (2, 32), "a multiple of 32"
    assert packed["crystal_text.segments"][1, :10].tolist() == [1] * 5 + [2] * 5


def test_packing_wastes_little():
    generator = np.random.default_rng(0)
    sequences = [([1] * int(size), 1) for size in generator.integers(20, 90, size=200)]
    segments = pack(sequences, length=256, pad_token_id=0)["crystal_text.segments"]
    assert (segments >= 0).float().mean() > 0.95


def test_costs_are_tokens(tokenizer):
    made = store(tokenizer)
    segments = made.gather(np.arange(12))["crystal_text.segments"]
    assert made.costs.tolist() == [int((segments == row).sum()) for row in range(12)]
    assert len(made.batch(np.arange(2))["crystal_text.present"]) == 2


def test_properties_must_be_as_many_as_crystals(tokenizer):
    with pytest.raises(ValueError, match="12 crystals, but properties of 0"):
        CrystalExamples(crystals(), [], SETTINGS)
