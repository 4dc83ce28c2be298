"""Config groups: which options there are, and what an option's file says, without composing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from crystalfm.config.location import conf_folder
from crystalfm.config.signatures import read_signature
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TARGET_KEY = "_target_"


@dataclass
class Catalog:
    """Groups and their options.

    Attributes:
        options: names of the options by group.
        folders: configuration folders; the first that has a file wins.
    """

    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folders: Sequence[Path] = field(default_factory=lambda: [conf_folder()])

    def hint(self, group: str) -> str:
        """Return how to choose an option of a group, empty for an unknown group."""
        names = self.options.get(group, [])
        return f"{group}=OPTION with one of: {', '.join(names)}" if names else ""

    def node(self, group: str, name: str) -> dict[str, Any]:
        """Return what an option's file sets, with the option it starts from; empty for an unreadable file."""
        path = next((file for root in self.folders if (file := root / group / f"{name}.yaml").is_file()), None)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) if path is not None else None
        except (OSError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict):
            return {}
        merged: dict[str, Any] = {}
        for base in content.pop("defaults", None) or []:
            if isinstance(base, str) and base not in {"_self_", name}:
                merged |= self.node(group, base)
        return merged | content

    def nodes(self, group: str) -> dict[str, dict[str, Any]]:
        """Return every option of a group that names a class."""
        found = {name: self.node(group, name) for name in self.options.get(group, [])}
        return {name: node for name, node in found.items() if TARGET_KEY in node}

    @cached_property
    def _settings(self) -> dict[tuple[str, str], frozenset[str]]:
        names: dict[tuple[str, str], frozenset[str]] = {}
        for group in ("data", "model", "llm", "encoder"):
            for option, node in self.nodes(group).items():
                try:
                    names[group, option] = frozenset(read_signature(str(node[TARGET_KEY])).settings)
                except UserError:
                    names[group, option] = frozenset()
        return names

    def options_with(self, group: str, setting: str) -> list[str]:
        """Return the options of a group whose class has a setting."""
        return [name for (owner, name), names in self._settings.items() if owner == group and setting in names]
