import math

import pytest
import torch
from torch import nn

from crystalfm.contracts import UserError
from crystalfm.models.optim import build_optimizer, build_scheduler, parameter_groups, warmup_cosine
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings


class _Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.table = nn.Embedding(4, 2)
        self.modality_positions = nn.Parameter(torch.zeros(3, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.tied = self.linear


def test_only_weight_matrices_decay_and_every_trained_parameter_appears_once():
    module = _Mixed()
    decayed, kept = parameter_groups(module, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(module.linear.weight)]
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    trained = [p for p in module.parameters() if p.requires_grad]
    assert sorted(map(id, decayed["params"] + kept["params"])) == sorted(map(id, trained))


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
@pytest.mark.parametrize("fused", [True, False])
def test_optimizers_take_their_settings_and_step(name, kind, fused):
    module = _Mixed()
    optimizer = build_optimizer(module, OptimizerSettings(name=name, lr=0.1, betas=[0.8, 0.9]), fused=fused)
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.1
    assert bool(optimizer.defaults["fused"]) is fused
    before = module.linear.weight.detach().clone()
    module.linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, module.linear.weight)


def test_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(requires_grad=False), OptimizerSettings())


def test_warmup_rises_linearly_then_half_a_cosine_falls_to_the_floor():
    factor = warmup_cosine(warmup_steps=4, total_steps=14, floor=0.1)
    assert [round(factor(step), 6) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factor(9) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(14) == pytest.approx(0.1)
    assert factor(1000) == pytest.approx(0.1)


def _optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def test_cosine_reaches_the_smallest_learning_rate():
    optimizer = _optimizer()
    settings = SchedulerSettings(name="cosine", min_lr=0.01)
    scheduler = build_scheduler(optimizer, settings, peak_lr=0.5, total_steps=lambda: 10)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_cosine_needs_a_known_end():
    with pytest.raises(UserError, match="when training ends"):
        build_scheduler(
            build_optimizer(nn.Linear(2, 2), OptimizerSettings()),
            SchedulerSettings(name="cosine"),
            peak_lr=1e-3,
            total_steps=lambda: math.inf,
        )


@pytest.mark.parametrize(("steps", "warmup", "rate_of_step_1"), [(100, 10, 2 / 11), (100, 50, 2 / 11), (9, 50, None)])
def test_warmup_is_a_tenth_of_the_run_at_most(steps, warmup, rate_of_step_1):
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerSettings(lr=1.0))
    settings = SchedulerSettings(name="cosine", warmup_steps=warmup)
    scheduler = build_scheduler(optimizer, settings, peak_lr=1.0, total_steps=lambda: steps)
    if rate_of_step_1 is None:
        assert optimizer.param_groups[0]["lr"] == 1.0
        return
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate_of_step_1)


def test_constant_has_a_schedule_only_with_warmup():
    optimizer = _optimizer()
    assert build_scheduler(optimizer, SchedulerSettings(name="constant"), peak_lr=0.5, total_steps=lambda: 1) is None
    settings = SchedulerSettings(name="constant", warmup_steps=1)
    scheduler = build_scheduler(optimizer, settings, peak_lr=0.5, total_steps=lambda: math.inf)
    assert optimizer.param_groups[0]["lr"] == 0.25
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_plateau_halves_after_its_patience():
    optimizer = _optimizer()
    settings = SchedulerSettings(factor=0.5, patience=1)
    scheduler = build_scheduler(optimizer, settings, peak_lr=0.5, total_steps=lambda: 1)
    for value in (1.0, 1.0, 1.0):
        scheduler.step(value)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_schedules_survive_a_weights_only_checkpoint(tmp_path):
    optimizer = _optimizer()
    for name in ("plateau", "cosine"):
        settings = SchedulerSettings(name=name)
        scheduler = build_scheduler(optimizer, settings, peak_lr=0.5, total_steps=lambda: 10)
        torch.save(scheduler.state_dict(), tmp_path / "state.pt")
        scheduler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
