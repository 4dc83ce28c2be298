"""What a multirun will run, and what of it is checked beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from crystalfm.config import extras, sweeps
from crystalfm.config.compose import Composer
from crystalfm.config.location import conf_folder
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import ConfigError
from crystalfm.config.sweeps import SweepPlan, plan_jobs

SEARCH = "hydra/sweeper=optuna"


@pytest.fixture
def composer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Composer]:
    """A composer that believes every plugin to be installed: planning a search needs none."""
    monkeypatch.setattr(extras, "is_installed", lambda module: True)
    with Composer("train") as made:
        yield made


def plan(composer: Composer, *overrides: str) -> SweepPlan:
    return plan_jobs(composer, composer.parse(overrides)[0], multirun=True)


def refused(composer: Composer, *overrides: str) -> dict[str, str]:
    """Return message and remedy of each problem by key."""
    with pytest.raises(ConfigError) as caught:
        preflight(composer, [SEARCH, *overrides], multirun=True)
    return {problem.key: f"{problem.message} {problem.remedy}" for problem in caught.value.problems}


def checked(composer: Composer, *overrides: str) -> list[Any]:
    return preflight(composer, [SEARCH, *overrides], multirun=True)


def test_a_plain_multirun_counts_every_job_even_those_not_checked(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "MAX_JOBS", 3)
    made = plan(composer, "seed=range(0,10)", "model=llm_fusion,mean", "data.limit=9")
    assert (made.num_jobs, len(made.jobs), made.is_search) == (20, 3, False)
    assert made.jobs[1] == ["seed=0", "model=mean", "data.limit=9"]


def test_one_job_outside_of_a_multirun(composer: Composer) -> None:
    made = plan_jobs(composer, composer.parse(["seed=3"])[0], multirun=False)
    assert (made.num_jobs, made.jobs) == (1, [["seed=3"]])


def test_a_search_checks_every_choice_and_both_ends(composer: Composer) -> None:
    found = checked(
        composer,
        "optimizer.lr=interval(1e-4,1e-2)",
        "llm.num_layers=range(2,7,2)",
        "data.batch_size=choice(32,64,128)",
        "seed=5",
    )
    assert [(cfg.optimizer.lr, cfg.llm.num_layers, cfg.data.batch_size) for cfg in found] == [
        (1e-4, 2, 32),
        (1e-2, 6, 64),
        (1e-4, 2, 128),
    ]
    assert {cfg.seed for cfg in found} == {5}
    made = plan(composer, SEARCH, "hydra.sweeper.n_trials=7", "seed=1,2")
    assert (made.num_jobs, made.is_search) == (7, True)


def test_the_end_of_a_range_is_drawn_too(composer: Composer) -> None:
    # Hydra's own sweeper stops before the end; Optuna does not.
    assert [cfg.llm.num_layers for cfg in checked(composer, "llm.num_layers=range(1,3)")] == [1, 3]
    assert [cfg.model.dropout for cfg in checked(composer, "model.dropout=range(0.0,0.3,0.1)")] == pytest.approx(
        [0.0, 0.3]
    )


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("optimizer.lr=interval(-1,1e-2)", "optimizer.lr", "-1"),
        ("llm.num_layers=interval(0.5,2.5)", "llm.num_layers", "a whole number"),
        ("optimizer.lrr=interval(1e-4,1e-2)", "optimizer.lrr", "did you mean 'lr'"),
        ("model=choice(llm_fusion,men)", "model=men", "did you mean 'mean'"),
    ],
)
def test_a_value_that_would_fail_in_the_middle_is_found_before(
    composer: Composer, override: str, key: str, text: str
) -> None:
    assert text in refused(composer, override)[key]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("optimizer.lr=interval(1e-2,1e-4)", "the interval is empty"),
        ("optimizer.lr=tag(log,interval(0,1e-2))", "start above 0"),
        ("seed=range(5,1)", "the range is empty"),
        ("model=glob(*)", "choice(...), range(...) or interval(...)"),
    ],
)
def test_what_a_search_cannot_draw_from(composer: Composer, override: str, text: str) -> None:
    assert text in refused(composer, override)[override]


def test_settings_of_a_search(composer: Composer) -> None:
    found = refused(
        composer,
        "seed=1,2",
        "hydra.sweeper.n_trials=0",
        "hydra.sweeper.max_failure_rate=2",
        "hydra.sweeper.direction=maximize",
    )
    assert set(found) == {f"hydra.sweeper.{name}" for name in ("n_trials", "max_failure_rate", "direction")}
    assert "lowest val/loss" in found["hydra.sweeper.direction"]
    assert "nothing to search" in refused(composer, "seed=1")["hydra/sweeper"]


def test_a_file_says_what_is_searched_and_the_command_line_wins(composer: Composer, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/sweeper: optuna\n"
        "hydra:\n  sweeper:\n    n_trials: 3\n    params:\n      seed: range(1,4)\n"
        "      optimizer.lr: interval(1e-4,1e-2)\n"
    )
    with Composer("train", tmp_path) as own:
        overrides = ["experiment=mine", "seed=choice(8,9)"]
        found = preflight(own, overrides, multirun=True)
        assert [(cfg.seed, cfg.optimizer.lr) for cfg in found] == [(8, 1e-4), (9, 1e-2)]
        assert plan(own, *overrides).num_jobs == 3


def test_a_search_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: not module.startswith("hydra_plugins"))
    with Composer("train") as composer:
        assert "pip install 'crystalfm[optuna]'" in refused(composer, "seed=1,2")["hydra/sweeper"]


def test_the_file_lists_every_setting_of_the_plugin() -> None:
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("needs the extra [optuna]")
    module = import_module("hydra_plugins.hydra_optuna_sweeper.config")
    expected = set(OmegaConf.structured(module.OptunaSweeperConf)) - {"defaults"}
    own = yaml.safe_load((conf_folder() / "hydra" / "sweeper" / "optuna.yaml").read_text())
    assert set(own) == expected
    assert own["_target_"] == module.OptunaSweeperConf._target_
    # The plugin's entry of the same name would make Hydra refuse the file.
    with Composer("train"):
        assert "optuna.yaml" not in ConfigStore.instance().repo["hydra"]["sweeper"]
