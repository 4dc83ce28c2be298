"""Networks of encoders: pooling, attention, fingerprints, and what padding must not do."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from crystalfm.encoders.networks import CachedVectors, FingerprintNetwork, TokenTransformer, pool
from crystalfm.encoders.transformer_block import attend


def transformer(pooling="mean", dropout=0.0, width=16, num_layers=2):
    torch.manual_seed(0)
    return TokenTransformer(
        "smiles",
        vocabulary_size=12,
        width=width,
        num_layers=num_layers,
        num_heads=4,
        dropout=dropout,
        mlp_ratio=2.0,
        max_length=32,
        pooling=pooling,
        unknown_token_id=1,
    )


def batch_of(rows, length=None):
    length = length or max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
    return {"smiles.tokens": tokens, "smiles.mask": mask}


def test_mean_pooling_is_the_mean_over_real_tokens():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[5.0, 7.0], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(pool(hidden, mask, "mean"), torch.tensor([[2.0, 4.0], [5.0, 7.0]]))


def test_mean_pooling_of_nothing_is_zero():
    assert pool(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool), "mean").eq(0).all()


def test_cls_pooling_takes_the_first_token():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    assert pool(hidden, torch.ones(2, 3, dtype=torch.bool), "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]


@pytest.mark.parametrize("length", [7, 200])
def test_attention_is_pytorchs(length):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, length, 8, dtype=torch.float64)
    bias = torch.zeros(2, 1, 1, length, dtype=torch.float64)
    bias[0, ..., length // 2 :] = -3e4
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    torch.testing.assert_close(attend(query, key, value, bias, 0.0), expected)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_neighbours_in_a_batch_do_not_change_a_vector(pooling):
    network = transformer(pooling).eval()
    rows = [[3, 4, 5], [3, 4, 5, 6, 7, 8, 9, 10], [11]]
    together = network(batch_of(rows, length=20))
    for number, row in enumerate(rows):
        torch.testing.assert_close(network(batch_of([row]))[0], together[number], atol=1e-6, rtol=1e-5)


def test_order_of_tokens_matters():
    network = transformer().eval()
    one, other = network(batch_of([[3, 4, 5], [5, 4, 3]]))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rows_without_tokens_are_finite_and_leave_finite_gradients(precision):
    network = transformer()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        vectors = network(batch_of([[], [3, 4]], length=5))
    assert vectors.isfinite().all()
    vectors[1].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_every_parameter_learns():
    network = transformer("cls")
    network(batch_of([[3, 4, 5], [6]])).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_an_unknown_token_says_nothing_of_its_own():
    network = transformer()
    assert network.tokens.weight[1].eq(0).all()
    assert network.tokens.weight[2].ne(0).all()


def test_dropout_acts_in_training_alone():
    network = transformer(dropout=0.5)
    batch = batch_of([[3, 4, 5]])
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))


def test_transformer_learns_a_property_of_the_whole_string():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 7, (64, 9), generator=generator)
    batch = {"smiles.tokens": tokens, "smiles.mask": torch.ones(64, 9, dtype=torch.bool)}
    target = (tokens == 3).sum(dim=1).float() - 2.0
    torch.manual_seed(0)
    network, head = transformer(width=32), torch.nn.Linear(32, 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(60):
        loss = functional.mse_loss(head(network(batch))[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * target.var().item()


def test_fingerprint_network_is_a_linear_layer_and_a_relu_on_the_bits():
    torch.manual_seed(0)
    network = FingerprintNetwork("fingerprint", 24, 5)
    bits = np.random.default_rng(0).integers(0, 2, (7, 24)).astype(np.uint8)
    packed = torch.from_numpy(np.packbits(bits, axis=1))
    expected = torch.relu(network.linear(torch.from_numpy(bits).float()))
    torch.testing.assert_close(network({"fingerprint.bits": packed}), expected)
    assert set(network.state_dict()) == {"linear.weight", "linear.bias"}


def test_cached_vectors_pass_unchanged_in_the_default_type():
    vectors = torch.randn(3, 4).half()
    network = CachedVectors("smiles", 4)
    out = network({"smiles.embedding": vectors})
    assert out.dtype == torch.get_default_dtype()
    torch.testing.assert_close(out, vectors.float())
    assert not list(network.parameters())


def test_initial_residual_stream_keeps_its_scale_with_depth():
    deep = transformer(num_layers=8)
    scale = deep.blocks[0].mlp_output.weight.std().item()
    assert math.isclose(scale, 0.02 / 4, rel_tol=0.2)
