"""The jobs of a multirun: how many there will be, and which are checked before the first one starts.

Hydra's own sweeper runs every combination of the values given. A sweeper that searches draws its values as it goes,
so the ends of each range and every choice are checked in its place.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from crystalfm.config.extras import install_command
from crystalfm.config.problems import COMMAND_LINE, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

    from crystalfm.config.compose import Composer

MAX_JOBS = 256
"""Jobs of a multirun that are checked; further ones are composed by Hydra as they start."""

_PLAIN_SWEEPER = "BasicSweeper"
_SEARCH = "hydra/sweeper=optuna"


@dataclass(frozen=True)
class SweepPlan:
    """What a multirun will do.

    Attributes:
        num_jobs: jobs that will run.
        jobs: overrides of each job that is checked: all of a plain multirun (up to ``MAX_JOBS``), samples of a search.
        is_search: whether a sweeper chooses the values.
        problems: what no sweeper could run.
    """

    num_jobs: int
    jobs: list[list[str]]
    is_search: bool = False
    problems: list[Problem] = field(default_factory=list)


def plan_jobs(composer: Composer, parsed: Sequence[Override], *, multirun: bool) -> SweepPlan:
    """Return the jobs of a command.

    Args:
        composer: Hydra on the configuration folders.
        parsed: overrides of the command line.
        multirun: whether comma-separated values are jobs of their own.
    """
    if not multirun:
        return SweepPlan(1, [[str(item.input_line) for item in parsed]])
    cfg = composer.compose([str(item.input_line) for item in parsed if not item.is_sweep_override()]).cfg
    sweeper: Any = {} if cfg is None else OmegaConf.to_container(cfg.hydra.sweeper, resolve=False)
    configured, problems = composer.parse([f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()])
    # What the command line gives comes after the files, and replaces them.
    items = {item.get_key_element(): item for item in [*configured, *parsed]}
    if sweeper and not str(sweeper.get("_target_", "")).endswith(_PLAIN_SWEEPER):
        return _search(items, sweeper, problems)
    return _product(items, problems)


def _product(items: dict[str, Override], problems: list[Problem]) -> SweepPlan:
    """Return every combination, in Hydra's order."""
    lists = []
    for key, item in items.items():
        if item.is_interval_sweep():
            remedy = f"list the values, or let a search choose them: {_SEARCH} ({install_command('optuna')})"
            problems.append(Problem(_text(item), "an interval is no list of jobs", remedy, COMMAND_LINE))
        elif item.is_sweep_override():
            lists.append([f"{key}={value}" for value in item.sweep_string_iterator()])
        else:
            lists.append([_text(item)])
    jobs = [list(job) for job in itertools.islice(itertools.product(*lists), MAX_JOBS)]
    return SweepPlan(math.prod(map(len, lists)), jobs, problems=problems)


def _search(items: dict[str, Override], sweeper: dict[str, Any], problems: list[Problem]) -> SweepPlan:
    """Return as few jobs as hold every choice and both ends of every range."""
    lists = []
    for key, item in items.items():
        try:
            lists.append([f"{key}={value}" for value in _extremes(item)] if item.is_sweep_override() else [_text(item)])
        except ValueError as error:
            problems.append(Problem(_text(item), str(error), "", COMMAND_LINE))
    problems += _settings_problems(sweeper)
    if not any(item.is_sweep_override() for item in items.values()):
        remedy = "give a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        problems.append(Problem("hydra/sweeper", "there is nothing to search", remedy, COMMAND_LINE))
    num_samples = min(MAX_JOBS, max(map(len, lists), default=1))
    jobs = [[values[number % len(values)] for values in lists] for number in range(num_samples)]
    num_trials = sweeper.get("n_trials")
    return SweepPlan(num_trials if isinstance(num_trials, int) else len(jobs), jobs, is_search=True, problems=problems)


def _settings_problems(sweeper: dict[str, Any]) -> list[Problem]:
    """Check the settings of Optuna's sweeper on which a search would fail late or do the wrong thing."""
    problems = []
    for name in ("n_trials", "n_jobs"):
        value = sweeper.get(name, 1)
        if not isinstance(value, int) or value < 1:
            problems.append(Problem(f"hydra.sweeper.{name}", f"a whole number from 1 is needed, not {value}"))
    rate = sweeper.get("max_failure_rate", 0.0)
    if not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        problems.append(Problem("hydra.sweeper.max_failure_rate", f"a number from 0 to 1 is needed, not {rate}"))
    direction = sweeper.get("direction", "minimize")
    if str(getattr(direction, "name", direction)) != "minimize":
        problems.append(
            Problem("hydra.sweeper.direction", f"a search looks for the lowest val/loss, so {direction} does not fit")
        )
    return problems


def _extremes(item: Override) -> list[str]:
    """Return the values of a searched key that are checked.

    Raises:
        ValueError: a search cannot draw from these values.
    """
    value: Any = item.value()
    if item.is_interval_sweep():
        return _interval_ends(value)
    if item.is_range_sweep():
        return _range_ends(value)
    if not hasattr(value, "list"):
        raise ValueError("a search takes choice(...), range(...) or interval(...)")
    return list(item.sweep_string_iterator())


def _interval_ends(value: IntervalSweep) -> list[str]:
    if value.start is None or value.end is None or not value.start < value.end:
        raise ValueError("the interval is empty: its first number has to be lower than its second")
    if "log" in value.tags and value.start <= 0:
        raise ValueError("an interval searched on a logarithmic scale has to start above 0")
    return [str(value.start), str(value.end)]


def _range_ends(value: RangeSweep) -> list[str]:
    """Return the first and the last value; Optuna, unlike Hydra, counts the end in where a step leads to it."""
    if value.start is None or value.stop is None or value.step <= 0 or not value.start < value.stop:
        raise ValueError("the range is empty: write range(first,last) or range(first,last,step)")
    num_steps = math.floor((value.stop - value.start) / value.step + 1e-9)
    return [str(value.start), str(value.start + num_steps * value.step)]


def _text(item: Override) -> str:
    return str(item.input_line)
