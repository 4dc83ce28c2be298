"""Composing a configuration without stopping at the first mistake, and the search path Hydra uses.

Hydra stops at the first override it cannot place and never looks at misspelled keys in files. Here the overrides are
sorted first: those that choose options of groups compose the tree, the others are applied one by one, so that every
mistake is found and told in one message.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import yaml
from hydra import version as hydra_version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from crystalfm.config.extras import accept_own_launchers, prefer_own_sweepers
from crystalfm.config.location import conf_folder, user_conf_folders
from crystalfm.config.options import Catalog
from crystalfm.config.origins import SourceFile, naming_line, source_files
from crystalfm.config.problems import COMMAND_LINE, Problem, suggestion
from crystalfm.config.value_types import MISSING, UNRESOLVED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from hydra.core.override_parser.types import Override

HYDRA_VERSION_BASE = "1.3"

_PLUGIN_GROUPS = {"hydra/launcher": "crystalfm[sweep]' 'crystalfm[slurm]", "hydra/sweeper": "crystalfm[optuna]"}
"""Groups of Hydra whose options are plugins, and the extras that bring them."""


@dataclass
class Composition:
    """A composed tree and what went wrong on the way.

    Attributes:
        cfg: the tree with Hydra's own node, or ``None`` when it could not be composed.
        problems: what is wrong so far.
        forced: keys that the files lack and that were added for the check.
        overridden: keys that the command line sets.
        group_overrides: the overrides that chose options.
        chosen: keys of the nodes whose option the command line chose.
    """

    cfg: DictConfig | None
    problems: list[Problem] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)
    overridden: list[str] = field(default_factory=list)
    group_overrides: list[str] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, which answers what options a group has without copying every source for each question."""

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the options of a group, or the groups in it; see ``ConfigLoader``."""
        if config_name is not None or overrides:  # these may change where configurations are looked for
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        return self.repository.get_group_options(group_name, results_filter)


class Composer:
    """Hydra, set up on the shipped configuration folder and the user's own; use it as a context manager.

    Args:
        task: name of the primary config (``train``).
        config_dir: folder of ``--config-dir``.

    Raises:
        UserError: a configuration folder is missing.
    """

    def __init__(self, task: str, config_dir: str | Path | None = None) -> None:
        self.task = task
        self.folders = [conf_folder(), *user_conf_folders(config_dir)]
        self._bases: dict[tuple[str, ...], DictConfig | Problem] = {}

    def __enter__(self) -> Self:
        """Initialize Hydra."""
        GlobalHydra.instance().clear()
        hydra_version.setbase(HYDRA_VERSION_BASE)
        accept_own_launchers()
        Plugins.instance()
        prefer_own_sweepers()
        search_path = create_config_search_path(f"file://{self.folders[0]}")
        for folder in self.folders[1:]:
            search_path.prepend("user", f"file://{folder}", "schema")
        self._loader = _Loader(config_search_path=search_path)
        self.hydra = Hydra(task_name=self.task, config_loader=self._loader)
        GlobalHydra.instance().initialize(self.hydra)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no global state behind."""
        GlobalHydra.instance().clear()

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Options of every config group, Hydra's own included; those in folders of a group as ``folder/option``."""
        # Hydra's own listing copies its repository once a group, which takes longer than composing.
        repository = self._loader.repository
        found: dict[str, list[str]] = {}
        waiting = [""]
        while waiting:
            parent = waiting.pop()
            for name in repository.get_group_options(parent, ObjectType.GROUP):
                group = f"{parent}/{name}" if parent else name
                waiting.append(group)
                if options := repository.get_group_options(group, ObjectType.CONFIG):
                    found[group] = sorted(options)
        for group in [name for name in found if not name.startswith("hydra")]:
            owner, _, folder = group.partition("/")
            if folder and owner in found:
                found[owner] += [f"{folder}/{option}" for option in found[group]]
        return dict(sorted(found.items()))

    @cached_property
    def catalog(self) -> Catalog:
        """The config groups with their files."""
        return Catalog(self.groups, self.folders)

    def parse(self, overrides: Sequence[str]) -> tuple[list[Override], list[Problem]]:
        """Parse overrides; one that is no valid syntax is a problem and left out."""
        parser = OverridesParser.create(config_loader=self.hydra.config_loader)
        parsed, problems = [], []
        for text in overrides:
            try:
                parsed.extend(parser.parse_overrides([text]))
            except OverrideParseException as error:
                problems.append(_syntax_problem(text, str(error)))
        return parsed, problems

    def compose(self, overrides: Sequence[str]) -> Composition:
        """Compose one job.

        Args:
            overrides: without sweeps.
        """
        parsed, problems = self.parse(overrides)
        groups, values, chosen = [], [], set()
        for item in parsed:
            problem = self._sweep_problem(item)
            if problem is None and self._chooses_option(item):
                problem = self._option_problem(item)
                groups.extend([] if problem else [str(item.input_line)])
                chosen.add(str(item.package or item.key_or_group))
            elif problem is None:
                values.append(item)
            problems.extend([problem] if problem else [])
        base = self._base(tuple(groups))
        if isinstance(base, Problem):
            return Composition(None, [*problems, base], group_overrides=groups)
        result = Composition(copy.deepcopy(base), problems, group_overrides=groups, chosen=chosen)
        for item in values:
            _apply(item, result)
        return result

    def files(self, group_overrides: Sequence[str]) -> list[SourceFile]:
        """Return the files that were composed, in the order in which they were merged."""
        try:
            found = self._loader.compute_defaults_list(
                config_name=self.task, overrides=list(group_overrides), run_mode=RunMode.RUN
            )
        except (HydraException, OmegaConfBaseException, yaml.YAMLError):
            return []
        return source_files([(item.config_path, item.package) for item in found.defaults], self.folders)

    def _base(self, groups: tuple[str, ...]) -> DictConfig | Problem:
        if groups not in self._bases:
            self._bases[groups] = self._compose_base(groups)
        return self._bases[groups]

    def _compose_base(self, groups: tuple[str, ...]) -> DictConfig | Problem:
        try:
            cfg: DictConfig = self.hydra.compose_config(
                config_name=self.task,
                overrides=list(groups),
                run_mode=RunMode.RUN,
                from_shell=False,
                with_log_configuration=False,
            )
        except MissingConfigException as error:
            return self._missing_option(error, groups)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            return Problem("configuration", message_of(error), where="files or command line")
        except yaml.YAMLError as error:
            return _yaml_problem(error)
        return cfg

    def _missing_option(self, error: MissingConfigException, groups: tuple[str, ...]) -> Problem:
        """Return the problem of a defaults list that names an option which does not exist."""
        wanted = error.missing_cfg_file or self.task
        group, _, option = wanted.rpartition("/")
        chosen = [item.lstrip("+").partition("=") for item in groups]
        names = [f"{name.partition('@')[0]}/{value}" for name, _, value in reversed(chosen)]
        where = naming_line([*names, self.task], self.folders, group.rpartition("/")[2], option)
        return Problem(
            group or wanted, f"'{wanted}' does not exist", suggestion(option, error.options or []), where or "files"
        )

    def _chooses_option(self, item: Override) -> bool:
        return item.is_hydra_override() or (item.key_or_group in self.groups and not isinstance(item.value(), dict))

    def _sweep_problem(self, item: Override) -> Problem | None:
        if not item.is_sweep_override():
            return None
        text, key = str(item.input_line), item.get_key_element()
        remedy = "to run each value add -m"
        if item.key_or_group not in self.groups:
            remedy = f"for a list write {key}=[{text.partition('=')[2]}]; {remedy}"
        return Problem(text, "several values need a multirun", remedy, COMMAND_LINE)

    def _option_problem(self, item: Override) -> Problem | None:
        group, text = item.key_or_group, str(item.input_line)
        if group not in self.groups or item.is_delete():
            return None
        base = self._base(())
        key = group if item.package is None else f"{group}@{item.package}"
        if isinstance(base, DictConfig) and not item.is_add():
            slots = [str(name) for name in base.hydra.runtime.choices]
            if key not in slots:
                same = [name for name in slots if name.split("@")[0] == group]
                return Problem(
                    text, f"'{key}' is not a choice of {self.task}", suggestion(key, same or slots), COMMAND_LINE
                )
        options = self.groups[group]
        wanted = item.value()
        if wanted is None:
            return Problem(
                text, "an option is needed here", f"{suggestion('', options)}; ~{key} leaves it out", COMMAND_LINE
            )
        for name in wanted if isinstance(wanted, list) else [wanted]:
            if str(name).removesuffix(".yaml") not in options:
                remedy = suggestion(str(name), options)
                if group in _PLUGIN_GROUPS:
                    remedy += f"; more come with pip install '{_PLUGIN_GROUPS[group]}'"
                return Problem(text, f"group '{group}' has no option '{name}'", remedy, COMMAND_LINE)
        return None


def _apply(item: Override, result: Composition) -> None:
    """Apply one override to the tree; a key that is not there is added, for the check to judge."""
    cfg, key = result.cfg, str(item.key_or_group)
    result.overridden.append(key)
    if cfg is None:
        return
    try:
        if not _exists(cfg, key):
            if item.is_delete():
                result.problems.append(
                    Problem(str(item.input_line), "there is no such key to delete", "", COMMAND_LINE)
                )
                return
            result.forced.extend([] if item.is_add() or item.is_force_add() else [key])
        with open_dict(cfg):
            if item.is_delete():
                parent, _, name = key.rpartition(".")
                del (OmegaConf.select(cfg, parent) if parent else cfg)[name]
            else:
                OmegaConf.update(cfg, key, item.value(), merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        result.problems.append(Problem(str(item.input_line), message_of(error), where=COMMAND_LINE))


def _exists(cfg: DictConfig, key: str) -> bool:
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _syntax_problem(text: str, error: str) -> Problem:
    message = error.splitlines()[0] if error else "no valid override"
    if "=" not in text:
        return Problem(text, "an override needs a value", f"write {text}=VALUE", COMMAND_LINE)
    key, _, value = text.partition("=")
    return Problem(
        text,
        f"cannot be read: {message}",
        f"quote a value with special characters: '{key}=\"{value}\"'",
        COMMAND_LINE,
    )


def _yaml_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}:{mark.line + 1}" if mark is not None else "files"
    return Problem("syntax", f"the file is no valid YAML: {getattr(error, 'problem', None) or error}", where=where)


def message_of(error: BaseException) -> str:
    """Return what an exception of Hydra or OmegaConf says, on one line."""
    parts = [str(error).strip()]
    if error.__cause__ is not None:
        parts.append(str(error.__cause__).strip())
    lines = [line.strip() for part in parts for line in part.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type"))]
    return "; ".join(kept) or type(error).__name__


def plain_tree(cfg: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """Return the tree without Hydra's node as plain containers; what cannot be resolved is a problem.

    Mandatory values that are missing stay as ``???``.
    """
    problems: list[Problem] = []
    tree = _plain(cfg, "", problems)
    tree.pop("hydra", None)
    return tree, problems


def _plain(node: Any, prefix: str, problems: list[Problem]) -> Any:
    if isinstance(node, DictConfig):
        names = [name for name in node if prefix or name != "hydra"]
        return {str(name): _value(node, name, prefix + str(name), problems) for name in names}
    if OmegaConf.is_list(node):
        return [_value(node, index, f"{prefix}{index}", problems) for index in range(len(node))]
    return node


def _value(parent: Any, name: Any, key: str, problems: list[Problem]) -> Any:
    if OmegaConf.is_missing(parent, name):
        return MISSING
    try:
        value = parent[name]
    except OmegaConfBaseException as error:
        problems.append(Problem(key, f"the reference cannot be resolved: {message_of(error)}"))
        return UNRESOLVED
    return _plain(value, f"{key}.", problems) if OmegaConf.is_config(value) else value
