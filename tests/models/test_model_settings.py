import math
import subprocess
import sys

import pytest

from crystalfm.contracts import UserError
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings, check_choice, check_range


def test_settings_import_without_torch():
    code = "import sys, crystalfm.models.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "adamv"}, "optimizer.name"),
        ({"lr": 0.0}, "optimizer.lr"),
        ({"lr": math.nan}, "optimizer.lr"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay"),
        ({"betas": [0.9]}, "optimizer.betas"),
        ({"betas": [0.9, 1.0]}, "optimizer.betas"),
        ({"momentum": 1.0}, "optimizer.momentum"),
    ],
)
def test_bad_optimizer_settings_name_their_key(settings, key):
    with pytest.raises(UserError, match=key):
        OptimizerSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "linear"}, "scheduler.name"),
        ({"factor": 1.0}, "scheduler.factor"),
        ({"patience": -1}, "scheduler.patience"),
        ({"min_lr": -1e-6}, "scheduler.min_lr"),
        ({"warmup_steps": -5, "name": "cosine"}, "scheduler.warmup_steps"),
        ({"warmup_steps": 5}, "plateau"),
    ],
)
def test_bad_scheduler_settings_name_their_key(settings, key):
    with pytest.raises(UserError, match=key):
        SchedulerSettings(**settings)


def test_defaults_are_the_methods():
    assert OptimizerSettings().name == "adamw"
    assert OptimizerSettings().weight_decay > 0
    assert SchedulerSettings().name == "plateau"


def test_choice_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'huber'"):
        check_choice("model.loss", "hubber", ("mse", "huber"))


def test_range_says_which_numbers_fit():
    with pytest.raises(UserError, match="above 0 and at most 1"):
        check_range("model.subsample", 0.0, low=0, high=1, low_open=True)
    check_range("model.subsample", 1.0, low=0, high=1, low_open=True)
