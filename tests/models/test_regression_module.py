import numpy as np
import pytest
import torch
from torch.nn import functional

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.models.scaling import TargetScaling
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings


def _standardised(batch):
    return (batch["targets"] - torch.tensor([0.25, -1.0])) / torch.tensor([0.05, 3.0])


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", functional.mse_loss),
        ("mae", functional.l1_loss),
        ("huber", functional.huber_loss),
        ("smooth_l1", functional.smooth_l1_loss),
    ],
)
def test_loss_is_the_mean_over_known_cells_in_standardised_units(make_model, make_batch, name, function):
    model = make_model(loss=name)
    batch = make_batch(6)
    batch["target_mask"][0, 0] = batch["target_mask"][4, 1] = False
    batch["targets"][~batch["target_mask"]] = 0.0
    guess = torch.randn(6, 2)
    loss, count = model.loss(guess, batch)
    known = batch["target_mask"]
    torch.testing.assert_close(loss, function(guess[known], _standardised(batch)[known]))
    assert count == 10


def test_missing_targets_have_no_gradient_and_may_hold_anything(make_model, make_batch):
    model = make_model()
    batch = make_batch(3)
    batch["target_mask"][1] = False
    batch["targets"][1] = float("nan")
    guess = torch.randn(3, 2, requires_grad=True)
    model.loss(guess, batch)[0].backward()
    assert guess.grad[1].tolist() == [0.0, 0.0]
    assert (guess.grad[[0, 2]] != 0).all()


def test_batch_without_any_known_target_costs_nothing(make_model, make_batch):
    batch = make_batch(3)
    batch["target_mask"][:] = False
    loss, count = make_model().loss(torch.randn(3, 2), batch)
    assert loss == 0
    assert count == 0


def test_training_step_names_its_rows(make_model, make_batch):
    model = make_model()
    model.log = lambda *args, **options: None
    batch = make_batch(4)
    output = model.training_step(batch)
    assert output["loss"].requires_grad
    assert torch.equal(output["row"], batch["row"])


def test_predictions_are_physical(make_model, make_batch):
    model = make_model().eval()
    batch = make_batch(5)
    output = model.predict_step(batch)
    expected = model(batch) * torch.tensor([0.05, 3.0]) + torch.tensor([0.25, -1.0])
    torch.testing.assert_close(output["prediction"], expected)
    assert torch.equal(output["row"], batch["row"])


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_are_physical_and_exact_over_uneven_batches(make_model, make_batch, make_loader, make_trainer, stage):
    model = make_model(loss="mae")
    batch = make_batch(23, absent=0.2)
    batch["target_mask"] = torch.rand(23, 2, generator=torch.Generator().manual_seed(5)) < 0.8
    trainer = make_trainer()
    evaluate = trainer.validate if stage == "val" else trainer.test
    (scores,) = evaluate(model, make_loader(batch, 4), verbose=False)
    with torch.no_grad():
        physical = model.eval().predict_step(batch)["prediction"].double()
        standardised = model(batch)
    error = (physical - batch["targets"]).abs()
    known = batch["target_mask"]
    for column, label in enumerate(("gap_hartree", "mu")):
        cells = known[:, column]
        truth = batch["targets"][cells, column].double()
        assert scores[f"{stage}/mae_{label}"] == pytest.approx(error[cells, column].mean().item(), rel=1e-5)
        squared = error[cells, column].square()
        assert scores[f"{stage}/rmse_{label}"] == pytest.approx(squared.mean().sqrt().item(), rel=1e-5)
        r2 = 1 - squared.sum() / (truth - truth.mean()).square().sum()
        assert scores[f"{stage}/r2_{label}"] == pytest.approx(r2.item(), rel=1e-4)
    loss = (standardised - _standardised(batch)).abs()[known].mean()
    assert scores[f"{stage}/loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_scaling_lives_in_the_state_dict(make_model):
    state = make_model().state_dict()
    assert state["target_mean"].tolist() == pytest.approx([0.25, -1.0])
    assert state["target_std"].tolist() == pytest.approx([0.05, 3.0])


def test_unknown_loss_and_no_target_are_refused(make_model):
    with pytest.raises(UserError, match="did you mean 'huber'"):
        make_model(loss="hubert")
    from crystalfm.models.llm_fusion import LLMFusion

    with pytest.raises(UserError, match="target"):
        LLMFusion(
            encoders={},
            llm=make_model().network.llm,
            targets=(),
            scaling=TargetScaling(np.zeros(0), np.ones(0)),
            optimizer=OptimizerSettings(),
            scheduler=SchedulerSettings(),
        )


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_plateau_counts_validations_not_epochs(make_model, make_batch, make_loader, make_trainer, interval):
    """With a learning rate of nearly zero no validation improves: patience 1 halves at every second one."""
    model = make_model(
        optimizer=OptimizerSettings(name="sgd", lr=1e-30, momentum=0.0),
        scheduler=SchedulerSettings(patience=1, factor=0.5, min_lr=0.0),
    )
    batch = make_batch(16)
    trainer = make_trainer(max_epochs=5, val_check_interval=interval)
    trainer.fit(model, make_loader(batch, 4), make_loader(batch, 8))
    num_validations = int(5 / interval)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == num_validations
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-30 * 0.5 ** ((num_validations - 1) // 2))


def test_plateau_is_not_moved_by_sanity_checks_or_by_validation_alone(
    make_model, make_batch, make_loader, make_trainer
):
    model, loader = make_model(), make_loader(make_batch(8), 4)
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=2)
    trainer.fit(model, loader, loader)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 1
    trainer.validate(model, loader, verbose=False)
    assert scheduler.last_epoch == 1


def test_cosine_ends_at_the_last_step(make_model, make_batch, make_loader, make_trainer):
    model = make_model(scheduler=SchedulerSettings(name="cosine", warmup_steps=2, min_lr=1e-5))
    loader = make_loader(make_batch(16), 4)
    trainer = make_trainer(max_epochs=3)
    trainer.fit(model, loader, loader)
    assert trainer.global_step == 12
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)


def test_training_without_validation_rows_works(make_model, make_batch, make_loader, make_trainer):
    model = make_model()
    before = model.network.head.weight.detach().clone()
    make_trainer(max_epochs=1).fit(model, make_loader(make_batch(8), 4))
    assert not torch.equal(before, model.network.head.weight)


def test_a_single_target_trains_validates_and_predicts(make_model, make_batch, make_loader, make_trainer):
    model = make_model(targets=[TargetSpec("gap", "hartree")])
    batch = make_batch(8)
    batch |= {"targets": batch["targets"][:, :1], "target_mask": batch["target_mask"][:, :1]}
    loader = make_loader(batch, 4)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, loader, loader)
    assert "val/mae_gap_hartree" in trainer.callback_metrics
    assert trainer.predict(model, loader)[0]["prediction"].shape == (4, 1)
