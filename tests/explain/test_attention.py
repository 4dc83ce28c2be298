"""Attention of a pooled output: hand-made weights whose shares are known."""

import pytest
import torch

from crystalfm.explain.attention import pooled_attention, rollout


def causal(size: int) -> torch.Tensor:
    return torch.ones(1, size, size, dtype=torch.bool).tril()


def test_even_attention_prefers_no_modality_without_a_mask():
    allowed = torch.ones(2, 3, 3, dtype=torch.bool)
    even = torch.full((2, 1, 3, 3), 1 / 3)
    found = pooled_attention(even, allowed, torch.ones(2, 3, dtype=torch.bool))
    for share in (found.layers[:, 0], found.even, found.rollout, found.even_rollout):
        torch.testing.assert_close(share, torch.full((2, 3), 1 / 3))


def test_a_causal_mask_gives_the_first_modality_most_of_an_even_attention():
    even = causal(3) / causal(3).sum(dim=-1, keepdim=True)
    found = pooled_attention(even[:, None], causal(3), torch.ones(1, 3, dtype=torch.bool))
    # Positions one, two and three divide a whole among one, two and three: (1 + 1/2 + 1/3) / 3 and so on.
    expected = torch.tensor([[11 / 18, 5 / 18, 2 / 18]])
    torch.testing.assert_close(found.even, expected)
    torch.testing.assert_close(found.layers[:, 0], expected)
    torch.testing.assert_close(found.rollout, found.even_rollout)


def test_queries_of_absent_modalities_are_not_pooled():
    weights = torch.tensor([[[[0.2, 0.0, 0.8], [0.0, 1.0, 0.0], [0.6, 0.0, 0.4]]]])
    present = torch.tensor([[True, False, True]])
    allowed = torch.tensor([[[True, False, True], [True, True, True], [True, False, True]]])
    found = pooled_attention(weights, allowed, present)
    torch.testing.assert_close(found.layers, torch.tensor([[[0.4, 0.0, 0.6]]]))
    torch.testing.assert_close(found.even, torch.tensor([[0.5, 0.0, 0.5]]))


def test_rollout_of_one_layer_is_half_attention_and_half_residual():
    weights = torch.tensor([[[[0.9, 0.1], [0.3, 0.7]]]])
    torch.testing.assert_close(rollout(weights), torch.tensor([[[0.95, 0.05], [0.15, 0.85]]]))


@pytest.mark.parametrize("num_layers", [2, 5])
def test_rollout_multiplies_the_layers_from_the_last_to_the_first(num_layers):
    torch.manual_seed(0)
    weights = torch.rand(3, num_layers, 4, 4).softmax(dim=-1)
    expected = torch.eye(4).expand(3, 4, 4)
    for layer in range(num_layers):
        expected = (0.5 * weights[:, layer] + 0.5 * torch.eye(4)) @ expected
    torch.testing.assert_close(rollout(weights), expected)
    torch.testing.assert_close(rollout(weights).sum(dim=-1), torch.ones(3, 4))
