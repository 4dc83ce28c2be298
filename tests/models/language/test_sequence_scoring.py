"""Likelihoods of texts."""

import numpy as np
import pytest
import torch

from crystalfm.models.language.scoring import mean_nll

PAIRS = [
    ("A crystal:\n", "5.6 5.6 5.6"),
    ("", "Na\n0.00 0.00 0.00"),
    ("Another one, with a longer prompt:\n", "1"),
    ("A crystal:\n", ""),
]


def one_by_one(built, prompt, text):
    """The same from the whole row of logits, without padding."""
    tokenizer = built.tokenizer
    start = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    end = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([start + end])
    with torch.no_grad():
        logs = built.model(input_ids=ids).logits[0].double().log_softmax(-1)
    return -np.mean([logs[len(start) + place - 1, token].item() for place, token in enumerate(end)])


@pytest.mark.parametrize(
    "settings", [{"asset": "llama"}, {"asset": "untied", "lora_rank": 2}, {"asset": "gpt2"}], ids=str
)
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_likelihoods_are_those_of_each_text_alone(build, settings, batch_size):
    built = build(**settings, dropout=0.3)
    values = mean_nll(built.model, built.tokenizer, PAIRS, batch_size=batch_size)
    assert built.model.training  # left as it was, and without dropout meanwhile
    built.model.eval()
    expected = [one_by_one(built, *pair) for pair in PAIRS]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert values.shape == (4,)


def test_training_on_a_text_makes_it_likelier(build, train):
    built = build()
    text = [("", "5.6 5.6 5.6\n90 90 90\nNa\n0.00 0.00 0.00")]
    before = mean_nll(built.model, built.tokenizer, text)
    train(built, num=10, lr=0.1)
    assert mean_nll(built.model, built.tokenizer, text) < before - 0.1


def test_no_texts_have_no_likelihoods(build):
    built = build()
    assert mean_nll(built.model, built.tokenizer, []).shape == (0,)
