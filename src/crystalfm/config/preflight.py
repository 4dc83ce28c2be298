"""The whole check of a command's configuration, before anything is built."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from crystalfm.config.checks import check_tree
from crystalfm.config.compose import Composer, Composition, plain_tree
from crystalfm.config.extras import missing_plugins
from crystalfm.config.fit import check_fit
from crystalfm.config.origins import SourceFile, origin
from crystalfm.config.problems import COMMAND_LINE, ConfigError, Problem, unique
from crystalfm.config.sweeps import plan_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def preflight(
    composer: Composer, overrides: Sequence[str], *, multirun: bool = False, fit: bool = True
) -> list[DictConfig]:
    """Compose and check every job.

    Args:
        composer: Hydra on the configuration folders.
        overrides: as given on the command line.
        multirun: whether comma-separated values are jobs of their own.
        fit: whether to check data, model, files and devices against each other; else only the tree itself.

    Returns:
        the configuration of each job that was checked, Hydra's own node removed; of a search these are samples.

    Raises:
        ConfigError: names every problem of every job.
    """
    parsed, problems = composer.parse(overrides)
    configs: list[DictConfig] = []
    plan = plan_jobs(composer, parsed, multirun=multirun)
    jobs = plan.jobs
    problems += plan.problems
    found: list[tuple[Problem, str]] = []
    for job in jobs:
        composition = composer.compose(job)
        found += [(problem, " ".join(job)) for problem in _check(composer, composition, fit=fit)]
        if composition.cfg is not None:
            cfg = composition.cfg
            OmegaConf.set_struct(cfg, value=False)
            cfg.pop("hydra", None)
            configs.append(cfg)
    problems += _named_jobs(found, len(jobs))
    if problems:
        raise ConfigError(unique(problems))
    return configs


def _named_jobs(found: Sequence[tuple[Problem, str]], num_jobs: int) -> list[Problem]:
    """Say which job a problem belongs to, unless all have it."""
    counts = Counter(problem for problem, _ in found)
    return [problem if counts[problem] == num_jobs else replace(problem, job=job) for problem, job in found]


def _check(composer: Composer, composition: Composition, *, fit: bool) -> list[Problem]:
    """Return the problems of one job, each with its origin."""
    problems = list(composition.problems)
    if composition.cfg is None:
        return problems
    if fit:
        problems += missing_plugins(composition.cfg.hydra)
    tree, unresolved = plain_tree(composition.cfg)
    schema = unresolved + check_tree(composer.task, tree, composer.catalog)
    unknown = {problem.key for problem in schema}
    schema += [
        Problem(key, "the composed files do not list this key", f"to add it write +{key}=VALUE", COMMAND_LINE)
        for key in composition.forced
        if not any(key == name or key.startswith(f"{name}.") for name in unknown)
    ]
    if fit:
        schema += check_fit(composer.task, tree, composer.catalog, broken={problem.key for problem in schema})
    if schema:
        files = composer.files(composition.group_overrides)
        problems += [problem.located(_where(problem.key, composition, files)) for problem in schema]
    return problems


def _where(key: str, composition: Composition, files: Sequence[SourceFile]) -> str:
    if key in composition.chosen:
        return COMMAND_LINE
    for name in composition.overridden:
        if key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."):
            return COMMAND_LINE
    return origin(key, files)


def check_values(composer: Composer, tree: dict[str, Any], keys: Sequence[str]) -> list[Problem]:
    """Check a tree of plain containers whose ``keys`` the command line set."""
    problems = check_tree(composer.task, tree, composer.catalog)
    problems += check_fit(composer.task, tree, composer.catalog, broken={problem.key for problem in problems})
    composition = Composition(None, overridden=list(keys))
    files = composer.files([]) if problems else []
    return [problem.located(_where(problem.key, composition, files)) for problem in problems]


def check_config(task: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> DictConfig:
    """Compose and check the configuration of one job, without running anything.

    Args:
        task: ``train``, ``evaluate`` or ``generate``.
        overrides: as on the command line.
        config_dir: folder with the user's own groups.

    Raises:
        ConfigError: names every problem.
    """
    with Composer(task, config_dir) as composer:
        return preflight(composer, overrides)[0]
