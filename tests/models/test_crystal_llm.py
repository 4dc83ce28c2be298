"""The generator's module: packed texts do not see each other, and its losses are the language model's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from crystalfm.models.crystal_llm import CrystalLLM, LanguageNetwork, packed_mask
from crystalfm.models.language import scoring
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings


def small_model(vocabulary=40):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def packed(texts, width):
    """Return tokens, labels, positions and segments of texts in one row; the first token of each is not learned."""
    tokens, labels = torch.zeros(1, width, dtype=torch.long), torch.full((1, width), -100)
    positions, segments = torch.zeros(1, width, dtype=torch.long), torch.full((1, width), -1)
    start = 0
    for number, text in enumerate(texts):
        end = start + len(text)
        tokens[0, start:end] = torch.tensor(text)
        labels[0, start + 1 : end] = torch.tensor(text[1:])
        positions[0, start:end] = torch.arange(len(text))
        segments[0, start:end] = number
        start = end
    return tokens, labels, positions, segments


TEXTS = ([3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13, 14])


def alone(model, text):
    """Return the losses of a text by itself, from the library's own forward pass."""
    ids = torch.tensor([text])
    scores = model(input_ids=ids).logits[0, :-1]
    return functional.cross_entropy(scores.float(), ids[0, 1:], reduction="none")


def test_packed_losses_equal_those_of_each_text_alone():
    model = small_model()
    with torch.no_grad():
        losses, segments = LanguageNetwork(model)(*packed(TEXTS, 16))
        for number, text in enumerate(TEXTS):
            torch.testing.assert_close(losses[segments == number], alone(model, text), rtol=1e-5, atol=1e-6)


def test_a_text_does_not_change_with_its_neighbours():
    model = small_model()
    other = ([20, 21, 22, 23], TEXTS[1], [1, 1, 1, 1, 1])
    with torch.no_grad():
        losses, segments = LanguageNetwork(model)(*packed(TEXTS, 16))
        changed, _ = LanguageNetwork(model)(*packed(other, 16))
    assert torch.equal(losses[segments == 1], changed[segments == 1])
    assert not torch.equal(losses[segments == 0], changed[segments == 0])


def test_no_gradient_crosses_from_one_text_to_another():
    model = small_model()
    tokens, labels, positions, segments = packed(TEXTS, 16)
    embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: embedded)
    losses, found = LanguageNetwork(model)(tokens, labels, positions, segments)
    handle.remove()
    losses[found == 1].sum().backward()
    reached = embedded.grad.abs().sum(dim=-1)[0] > 0
    assert reached[segments[0] == 1].any()
    assert not reached[segments[0] != 1].any()


def test_the_mask_is_causal_within_a_text_and_never_empty():
    mask = packed_mask(torch.tensor([[0, 0, 1, -1]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_scores_in_chunks_give_the_same_gradients(monkeypatch):
    grads = []
    for vocabulary_limit, chunk in ((10_000, 1024), (1, 4)):
        monkeypatch.setattr(scoring, "_LARGE_VOCABULARY", vocabulary_limit)
        monkeypatch.setattr(scoring, "_CHUNK_TOKENS", chunk)
        model = small_model()
        losses, _ = LanguageNetwork(model)(*packed(TEXTS, 16))
        losses.sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, value in grads[0].items():
        torch.testing.assert_close(value, grads[1][name], msg=name)


@pytest.fixture
def module():
    return CrystalLLM(llm=small_model(), optimizer=OptimizerSettings(), scheduler=SchedulerSettings())


def batch(texts=TEXTS):
    values = packed(texts, 16)
    named = dict(zip(("tokens", "labels", "positions", "segments"), values, strict=True))
    return {"row": torch.arange(len(texts))} | {f"crystal_text.{name}": value for name, value in named.items()}


def test_predictions_are_sums_of_each_text(module):
    with torch.no_grad():
        found = module.predict_step(batch())["prediction"]
        expected = [alone(module.network.model, text).sum() for text in TEXTS]
    torch.testing.assert_close(found[:, 0].float(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert found[:, 1].tolist() == [3, 2, 4]
    assert module.num_outputs == found.shape[1]


def test_decided_tokens_are_summed_beside_all(module):
    given = batch()
    marked = torch.zeros_like(given["crystal_text.labels"], dtype=torch.bool)
    marked[0, 2:4] = marked[0, 6] = True
    marked[0, 0] = True  # no loss is taken of a text's first token
    with torch.no_grad():
        found = module.predict_step(given | {"crystal_text.decided": marked})["prediction"]
        plain = module.predict_step(given)["prediction"]
        first, second = (alone(module.network.model, text) for text in TEXTS[:2])
    assert torch.equal(found[:, :2], plain[:, :2])
    assert plain[:, 2:].abs().sum() == 0
    assert found[:, 3].tolist() == [2, 1, 0]
    expected = torch.stack([first[1:3].sum(), second[1], torch.zeros(())])
    torch.testing.assert_close(found[:, 2].float(), expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_leaves_out_what_is_frozen(module):
    model = module.network.model
    model.requires_grad_(requires_grad=False)
    model.lm_head.weight.requires_grad_(requires_grad=True)
    saved = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    assert list(saved["state_dict"]) == ["network.model.lm_head.weight"]
    before = model.lm_head.weight.detach().clone()
    saved["state_dict"] = {"network.model.lm_head.weight": before.clone()}
    torch.nn.init.zeros_(model.lm_head.weight)
    module.load_state_dict(saved["state_dict"])
    assert torch.equal(model.lm_head.weight, before)


def test_weights_that_do_not_fit_are_refused(module):
    weights = module.state_dict()
    weights.pop("network.model.lm_head.weight")
    with pytest.raises(RuntimeError, match="1 weights do not fit the language model"):
        module.load_state_dict(weights)
    with pytest.raises(RuntimeError, match="such as stray"):
        module.load_state_dict({**module.state_dict(), "stray": torch.zeros(1)})
