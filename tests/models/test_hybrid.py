"""The hybrid regressor: blocks side by side, standardisation, independent members, gradients into the encoders."""

import numpy as np
import pytest
import torch
from torch import nn

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.encoders.networks import CachedVectors, EncoderNetwork
from crystalfm.models.hybrid import HybridRegressor, RunningStandardization
from crystalfm.models.scaling import TargetScaling
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

WIDTHS = {"crystal_graph": 6, "description": 4}
TARGETS = (TargetSpec("gap", "eV"), TargetSpec("mu", "1"))
SMALL = {"width": 8, "num_layers": 1, "num_members": 3, "input_dropout": 0.0, "dropout": 0.0}


class Trained(EncoderNetwork):
    """Stand-in for an encoder that is not frozen: a linear layer."""

    def __init__(self, modality, width):
        super().__init__(modality, 3)
        self.linear = nn.Linear(width, 3)

    def forward(self, batch):
        return self.linear(batch[f"{self.modality}.embedding"])


@pytest.fixture
def build():
    def build(encoders=None, **settings):
        torch.manual_seed(0)
        return HybridRegressor(
            encoders=encoders or {name: CachedVectors(name, width) for name, width in WIDTHS.items()},
            targets=TARGETS,
            scaling=TargetScaling(np.array([1.0, -2.0]), np.array([2.0, 0.5])),
            optimizer=OptimizerSettings(),
            scheduler=SchedulerSettings(),
            **(SMALL | settings),
        )

    return build


@pytest.fixture
def batch(make_batch):
    return make_batch(10, widths=WIDTHS)


# ------------------------------------------------------------------------ blocks


def test_vectors_lie_side_by_side_in_the_order_of_the_encoders(build, batch):
    module = build(normalize="none")
    wanted = torch.cat([batch["crystal_graph.embedding"], batch["description.embedding"]], dim=1)
    torch.testing.assert_close(module.embed(batch), wanted)


@pytest.mark.parametrize("normalize", ["none", "layer", "standard"])
def test_what_an_absent_modality_holds_has_no_influence(build, batch, normalize):
    module = build(normalize=normalize)
    batch["description.present"][3] = False
    other = dict(batch)
    other["description.embedding"] = batch["description.embedding"].clone()
    other["description.embedding"][3] = 1e4
    module.train()
    first = module.embed(batch)
    module = build(normalize=normalize).train()
    torch.testing.assert_close(module.embed(other), first)
    assert first[3, WIDTHS["crystal_graph"] :].abs().max() == 0


def test_layer_normalisation_is_of_each_block_alone(build, batch):
    batch["description.embedding"] = batch["description.embedding"] * 1000
    vectors = build(normalize="layer").embed(batch)
    torch.testing.assert_close(vectors[:, 6:].std(dim=1, unbiased=False), torch.ones(10), rtol=1e-3, atol=1e-3)


def test_a_block_can_be_scaled_where_there_are_several(build, batch):
    vectors = build(normalize="none", block_scales={"description": 0.5}).embed(batch)
    torch.testing.assert_close(vectors[:, :6], batch["crystal_graph.embedding"])
    torch.testing.assert_close(vectors[:, 6:], batch["description.embedding"] * 0.5)
    only = {"description": CachedVectors("description", 4)}
    alone = build(only, normalize="none", block_scales={"description": 0.5})
    torch.testing.assert_close(alone.embed(batch), batch["description.embedding"])


# ------------------------------------------------------------------------ standardisation


def test_standardisation_learns_mean_and_spread_whatever_the_batches():
    torch.manual_seed(0)
    rows = torch.randn(23, 4) * torch.tensor([1.0, 5.0, 1e-3, 1e3]) + torch.tensor([0.0, 3.0, 1.0, -1e4])
    norm = RunningStandardization(4)
    for part in rows.split(5):  # the last of three rows
        norm.update(part)
    norm.update(rows[:0])
    wanted = (rows - rows.mean(dim=0)) / rows.std(dim=0, unbiased=False)
    torch.testing.assert_close(norm(rows), wanted, rtol=1e-3, atol=1e-3)


def test_a_column_that_does_not_vary_becomes_zero():
    norm = RunningStandardization(2)
    norm.update(torch.tensor([[7.0, 1.0], [7.0, 2.0]]))
    assert norm(torch.tensor([[9.0, 1.5]])).tolist() == [[0.0, 0.0]]
    assert norm(torch.tensor([[9.0, 2.0]]))[0, 1] == pytest.approx(1.0)


def test_only_training_changes_the_statistics_and_they_are_saved(build, batch):
    module = build(normalize="standard").eval()
    module(batch)
    assert module.norms["description"].count == 0
    module.train()
    module.training_loss(batch)
    assert module.norms["description"].count == 10
    restored = build(normalize="standard")
    restored.load_state_dict(module.state_dict())
    torch.testing.assert_close(restored.eval()(batch), module.eval()(batch))


def test_a_batch_of_one_row_can_be_learned_from(build, make_batch):
    loss = build(normalize="standard").train().training_loss(make_batch(1, widths=WIDTHS))
    assert torch.isfinite(loss)


# ------------------------------------------------------------------------ members and loss


def test_the_prediction_is_the_members_mean(build, batch):
    module = build().eval()
    members = module.predict_members(batch)
    assert members.shape == (3, 10, 2)
    torch.testing.assert_close(module(batch), members.mean(dim=0))


def test_the_training_loss_is_each_members_own(build, batch):
    batch["target_mask"][2, 1] = False
    module = build(loss="mse", normalize="none").train()
    own = [module.loss(member, batch)[0] for member in module.predict_members(batch)]
    torch.testing.assert_close(module.training_loss(batch), torch.stack(own).mean())
    assert module.training_loss(batch) > module.loss(module(batch), batch)[0]


def test_the_residual_predictor_is_one_member(build, batch):
    module = build(predictor="residual", normalize="none")
    assert module.predict_members(batch).shape == (1, 10, 2)
    torch.testing.assert_close(module.training_loss(batch), module.loss(module(batch), batch)[0])


def test_targets_come_back_in_their_units(build, batch):
    module = build(normalize="none").eval()
    predicted = module.predict_step(batch)["prediction"]
    torch.testing.assert_close(predicted, module(batch) * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize("predictor", ["small", "residual"])
def test_it_learns(build, batch, predictor, make_loader, make_trainer):
    module = build(predictor=predictor, width=64)
    module._optimizer_settings = OptimizerSettings(lr=1e-2 if predictor == "small" else 1e-3, weight_decay=0.0)
    before = module.training_loss(batch)
    make_trainer(max_epochs=60).fit(module, make_loader(batch, 5))
    module.eval()
    assert module.loss(module(batch), batch)[0] < 0.2 * before


# ------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("predictor", ["small", "residual"])
@pytest.mark.parametrize("normalize", ["none", "layer", "standard"])
def test_gradients_reach_every_encoder_that_is_not_frozen(build, batch, predictor, normalize):
    encoders = {name: Trained(name, width) for name, width in WIDTHS.items()}
    module = build(encoders, predictor=predictor, normalize=normalize).train()
    module.training_loss(batch).backward()
    for name, encoder in encoders.items():
        assert encoder.linear.weight.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"predictor": "larg"}, "predictor"),
        ({"normalize": "batch"}, "normalize"),
        ({"block_scales": {"descripton": 1.0}}, "block_scales"),
        ({"block_scales": {"description": 0.0}}, "block_scales"),
        ({"num_members": 0}, "num_members"),
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"input_dropout": -0.1}, "input_dropout"),
    ],
)
def test_settings_out_of_range_are_refused(build, settings, word):
    with pytest.raises(UserError, match=rf"model\.{word}"):
        build(**settings)


def test_no_encoder_is_refused(build):
    with pytest.raises(UserError, match="modality"):
        HybridRegressor(
            encoders={},
            targets=TARGETS,
            scaling=TargetScaling(np.ones(2), np.ones(2)),
            optimizer=OptimizerSettings(),
            scheduler=SchedulerSettings(),
        )
