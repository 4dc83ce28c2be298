"""Where a key of the composed configuration was written: which file, which line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from crystalfm.config.location import conf_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class SourceFile:
    """A file that took part in the composition.

    Attributes:
        path: the file.
        package: dotted key below which its content was placed, empty for the top.
    """

    path: Path
    package: str

    def line_of(self, key: str) -> int | None:
        """Return the line (from 1) at which the file sets ``key``, or ``None``."""
        prefix = f"{self.package}." if self.package else ""
        if not key.startswith(prefix):
            return None
        node = _parse(self.path)
        line = None
        for part in key[len(prefix) :].split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next((pair for pair in pairs if pair[0].value == part), None)
            if found is None:
                return None
            line, node = found[0].start_mark.line + 1, found[1]
        return line


def _parse(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return None


def shown(path: Path) -> str:
    """Return a path as messages show it: below ``conf/`` for shipped files, else relative to the current folder."""
    for root, label in ((conf_folder(), "conf"), (Path.cwd(), "")):
        if path.resolve().is_relative_to(root.resolve()):
            return str(Path(label) / path.resolve().relative_to(root.resolve()))
    return str(path)


def source_files(defaults: Iterable[tuple[str | None, str | None]], folders: Sequence[Path]) -> list[SourceFile]:
    """Return the files of a defaults list, in the order in which they were merged.

    Args:
        defaults: config path and package of each element.
        folders: configuration folders, the first that has a file wins.
    """
    files = []
    for config_path, package in defaults:
        if config_path is None:
            continue
        path = next((f for root in folders if (f := root / f"{config_path}.yaml").is_file()), None)
        if path is not None:
            files.append(SourceFile(path, "" if package in {None, "_global_"} else str(package)))
    return files


def naming_line(configs: Iterable[str], folders: Sequence[Path], group: str, option: str) -> str:
    """Return ``file:line`` of the defaults list that chooses an option of a group, empty if none does.

    Args:
        configs: config paths (``experiment/mine``) to look through.
        folders: configuration folders, the first that has a file wins.
        group: last part of the group's name.
        option: the option.
    """
    pattern = re.compile(rf"^\s*-\s.*\b{re.escape(group)}\b.*:\s*['\"]?{re.escape(option)}\b")
    for file in source_files([(config, None) for config in configs], folders):
        for number, line in enumerate(file.path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.match(line):
                return f"{shown(file.path)}:{number}"
    return ""


def origin(key: str, files: Sequence[SourceFile]) -> str:
    """Return ``file:line`` of the last file that sets ``key`` (or the nearest key above it), empty if none does."""
    name = key
    while name:
        for file in reversed(files):
            line = file.line_of(name)
            if line is not None:
                return f"{shown(file.path)}:{line}"
            if file.package == name:
                return shown(file.path)
        name = name.rpartition(".")[0]
    return ""
