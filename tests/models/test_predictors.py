"""The predictors: the paper's parameter counts and equations, and members that know nothing of each other."""

import pytest
import torch

from crystalfm.models.predictors import MemberLinear, MemberPredictor, ResidualLayer, ResidualPredictor


def members(num_members=3, **settings):
    torch.manual_seed(0)
    defaults = {"width": 8, "num_layers": 2, "input_dropout": 0.0, "dropout": 0.0}
    return MemberPredictor(5, 2, num_members=num_members, **(defaults | settings))


@pytest.mark.parametrize(("in_features", "published"), [(1536, 8_389_409), (768, 6_816_545)])
def test_residual_predictor_has_the_papers_parameters(in_features, published):
    predictor = ResidualPredictor(in_features, 1)
    assert sum(parameter.numel() for parameter in predictor.parameters()) == published


def test_residual_layer_follows_its_equation():
    torch.manual_seed(0)
    values = torch.randn(4, 6)
    same, other = ResidualLayer(6, 6), ResidualLayer(6, 3)
    torch.testing.assert_close(same(values), torch.relu(values @ same.linear.weight.T + same.linear.bias) + values)
    wanted = torch.relu(values @ other.linear.weight.T) + values @ other.projection.weight.T
    torch.testing.assert_close(other(values), wanted)  # biases start at zero


def test_residual_dropout_never_acts_unless_asked_for():
    torch.manual_seed(0)
    values = torch.randn(2, 12)
    quiet = ResidualPredictor(12, 1).train()
    torch.testing.assert_close(quiet(values), quiet(values), rtol=0, atol=0)
    rates = [module.p for module in ResidualPredictor(12, 1, use_dropout=True).modules() if hasattr(module, "p")]
    assert rates == [0.2, 0.1, 0.3, 0.2]


def test_residual_predictor_serves_several_targets():
    assert ResidualPredictor(12, 3)(torch.randn(2, 12)).shape == (1, 2, 3)


def test_member_linear_is_a_linear_layer_of_each_member():
    torch.manual_seed(0)
    layer = MemberLinear(3, 5, 4)
    values = torch.randn(3, 7, 5)
    for member in range(3):
        wanted = values[member] @ layer.weight[member] + layer.bias.view(3, 4)[member]
        torch.testing.assert_close(layer(values)[member], wanted)


def test_members_start_apart_and_stay_independent():
    predictor = members()
    values = torch.randn(6, 5)
    output = predictor(values)
    assert output.shape == (3, 6, 2)
    assert (output[0] - output[1]).abs().max() > 1e-3
    output[1].sum().backward()
    for parameter in predictor.parameters():
        gradient = parameter.grad.view(3, -1).abs().sum(dim=1)
        assert gradient[1] > 0
        assert gradient[[0, 2]].sum() == 0


def test_each_member_has_its_own_dropout():
    torch.manual_seed(0)
    predictor = members(num_members=2, input_dropout=0.5).train()
    with torch.no_grad():
        for parameter in predictor.parameters():
            half = parameter.view(2, -1)
            half[1] = half[0]
    first, second = predictor(torch.ones(64, 5))
    assert not torch.equal(first, second)
    predictor.eval()
    first, second = predictor(torch.ones(64, 5))
    torch.testing.assert_close(first, second)


def test_weight_decay_leaves_the_members_biases_alone():
    from crystalfm.models.optim import parameter_groups

    decayed, kept = parameter_groups(members(), 0.1)
    assert {parameter.ndim for parameter in decayed["params"]} == {3}
    assert len(kept["params"]) == 3
