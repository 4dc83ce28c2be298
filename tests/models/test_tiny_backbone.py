import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.encoders.transformer_block import attention_bias
from crystalfm.models.backbones import TinyBackbone, attention_mask, backbone_from_architecture

MASKS = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TinyBackbone(width=8, num_layers=2, num_heads=2)


def test_mask_lets_everyone_see_itself_and_nobody_see_the_absent():
    allowed = attention_mask(torch.tensor([[True, False, True]]), causal=False)[0, 0]
    assert allowed.tolist() == [[True, False, True], [True, True, True], [True, False, True]]
    causal = attention_mask(torch.tensor([[True, False, True]]), causal=True)[0, 0]
    assert causal.tolist() == [[True, False, False], [True, True, False], [True, False, True]]


def test_outputs_and_gradients_are_finite_for_every_mask(backbone):
    inputs = torch.randn(4, 3, 8, requires_grad=True)
    hidden = backbone(inputs, MASKS)
    assert hidden.shape == (4, 3, 8)
    (hidden * inputs.detach()).sum().backward()
    assert hidden.isfinite().all()
    assert inputs.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_absent_inputs_do_not_reach_present_outputs(backbone):
    inputs = torch.randn(4, 3, 8)
    changed = torch.where(MASKS[:, :, None], inputs, torch.full_like(inputs, 7.0))
    torch.testing.assert_close(backbone(inputs, MASKS)[MASKS], backbone(changed, MASKS)[MASKS], rtol=0, atol=0)


def test_bidirectional_by_default_and_causal_on_demand(backbone):
    inputs, full = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    changed = inputs.clone()
    changed[:, 2] = inputs[:, 2].flip(-1)
    assert not torch.allclose(backbone(inputs, full)[:, 0], backbone(changed, full)[:, 0])
    causal = TinyBackbone(width=8, num_layers=2, num_heads=2, causal=True)
    torch.testing.assert_close(causal(inputs, full)[:, :2], causal(changed, full)[:, :2], rtol=0, atol=0)


def test_dropout_only_in_training():
    backbone = TinyBackbone(width=8, num_layers=1, num_heads=2, dropout=0.5)
    inputs, full = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    assert not torch.equal(backbone(inputs, full), backbone(inputs, full))
    backbone.eval()
    assert torch.equal(backbone(inputs, full), backbone(inputs, full))


def test_architecture_rebuilds_the_same_function(backbone):
    twin = backbone_from_architecture(backbone.architecture())
    twin.load_state_dict(backbone.state_dict())
    inputs = torch.randn(4, 3, 8)
    assert torch.equal(twin(inputs, MASKS), backbone(inputs, MASKS))


@pytest.mark.parametrize(
    "settings", [{"width": 10, "num_heads": 4}, {"num_layers": 0}, {"dropout": 1.0}, {"mlp_ratio": 0.0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError, match=r"llm\."):
        TinyBackbone(**settings)


def test_unknown_kind_is_refused():
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        backbone_from_architecture({"kind": "tinny"})


@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_are_those_that_forward_mixes_with(causal):
    """Weights times values, put through the rest of each block, give the block's own output."""
    torch.manual_seed(0)
    backbone = TinyBackbone(width=8, num_layers=2, num_heads=2, causal=causal).eval()
    inputs = torch.randn(4, 3, 8)
    weights = backbone.attention(inputs, MASKS)
    assert weights.shape == (4, 2, 2, 3, 3)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 2, 2, 3))
    bias = attention_bias(attention_mask(MASKS, causal=causal), inputs.dtype)
    hidden = inputs
    for layer, block in enumerate(backbone.blocks):
        values = block.query_key_value(block.attention_norm(hidden)).view(4, 3, 3, 2, 4)[:, :, 2].transpose(1, 2)
        mixed = (weights[:, layer] @ values).transpose(1, 2).reshape(4, 3, 8)
        after = hidden + block.attention_output(mixed)
        after = after + block.mlp_output(torch.nn.functional.gelu(block.mlp_input(block.mlp_norm(after))))
        hidden = block(hidden, bias)
        torch.testing.assert_close(after, hidden, rtol=0, atol=0)


def test_nobody_pays_attention_to_the_absent(backbone):
    weights = backbone.attention(torch.randn(4, 3, 8), MASKS)
    hidden = ~MASKS[:, None, None, None, :] & ~torch.eye(3, dtype=torch.bool)
    assert weights.masked_select(hidden).eq(0).all()
