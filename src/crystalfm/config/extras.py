"""Optional packages: which settings need one that is not installed, and how to get it."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from crystalfm.config.problems import Problem
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""Module of each logger; the extra has its name too."""

_MODELS = {"catboost": ("catboost", "defects")}
"""Module of each model that needs one of its own, and the extra that brings it."""

_PLUGINS = {
    "hydra_plugins.hydra_joblib_launcher": "sweep",
    "hydra_plugins.hydra_optuna_sweeper": "optuna",
    "hydra_plugins.hydra_submitit_launcher": "slurm",
}
"""Extra of each of Hydra's plugins."""


def is_installed(module: str) -> bool:
    """Say whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'crystalfm[{extra}]'"


def require_logger(name: str) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        UserError: the package is missing; the remedy installs it.
    """
    if not is_installed(_LOGGERS[name]):
        raise UserError(f"logger.{name}: the package {_LOGGERS[name]} is not installed", remedy=install_command(name))


def unfit_loggers(task: str, tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for a logger of curves where a command has none."""
    wanted = tree.get("logger")
    if task not in {"train", "bench"} and isinstance(wanted, dict) and wanted.get("tensorboard") is True:
        yield Problem("logger.tensorboard", f"{task} has no curves to show", "logger=wandb, or no logger")


def missing_loggers(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each logger of the tree whose package is not installed."""
    wanted = tree.get("logger")
    for name, module in _LOGGERS.items():
        if isinstance(wanted, dict) and wanted.get(name) is True and not is_installed(module):
            yield Problem(f"logger.{name}", f"the package {module} is not installed", install_command(name))


def missing_describer(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem where the package that writes the texts of ``data.description`` is not installed."""
    name = data.get("description")
    if name is None:
        return
    from crystalfm.data.descriptions import GENERATORS

    generator = GENERATORS.get(str(name))
    missing = [] if generator is None else [module for module in generator.packages if not is_installed(module)]
    if generator is not None and missing:
        what = f"{name}: {', '.join(missing)} is not installed"
        yield Problem("data.description", what, generator.how_to_install)


def missing_packages(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each model of the tree, its baselines included, whose package is not installed."""
    model, baselines = tree.get("model"), tree.get("baselines")
    named = [("model", model.get("name"))] if isinstance(model, dict) else []
    named += [("baselines", name) for name in baselines] if isinstance(baselines, list) else []
    for key, name in named:
        module, extra = _MODELS.get(str(name), ("", ""))
        if module and not is_installed(module):
            yield Problem(key, f"{name}: the package {module} is not installed", install_command(extra))


def missing_plugins(hydra_node: Any) -> Iterator[Problem]:
    """Yield a problem for the launcher and the sweeper where its plugin is not installed or cannot do its work.

    Args:
        hydra_node: Hydra's own part of the configuration.
    """
    for part in ("launcher", "sweeper"):
        target = str((hydra_node.get(part) or {}).get("_target_", ""))
        module = ".".join(target.split(".")[:2])
        if module in _PLUGINS and not is_installed(module):
            yield Problem(
                f"hydra/{part}",
                f"the plugin {module} is not installed",
                install_command(_PLUGINS[module]),
                "command line",
            )
    yield from _early_warnings(hydra_node.get("launcher") or {})


def _early_warnings(launcher: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for a warning of the time limit that would come, and end the job, before it has begun."""
    delay_seconds, limit_minutes = launcher.get("signal_delay_s"), launcher.get("timeout_min")
    if isinstance(delay_seconds, int) and isinstance(limit_minutes, int) and delay_seconds >= limit_minutes * 60:
        yield Problem(
            "hydra.launcher.signal_delay_s",
            f"{delay_seconds} seconds before a limit of {limit_minutes} min is before the job's start",
            "give fewer seconds, or hydra.launcher.timeout_min more minutes",
            "command line",
        )


def accept_own_launchers() -> None:
    """Let ``conf/hydra/launcher`` replace the plugins' settings of the same names without a remark of Hydra's."""
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.* is validated against ConfigStore schema")


def prefer_own_sweepers() -> None:
    """Let ``conf/hydra/sweeper/optuna.yaml`` stand alone: Hydra refuses it beside the plugin's entry of that name."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().repo.get("hydra", {}).get("sweeper", {}).pop("optuna.yaml", None)


def quiet_optuna() -> None:
    """Silence what Optuna says of every trial; the table at the end says it better."""
    if is_installed("optuna"):
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
