"""The composed configuration against the schema: every key known, every value of its type and in its range."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crystalfm.config.options import TARGET_KEY, Catalog
from crystalfm.config.problems import Problem, suggestion
from crystalfm.config.schema import ENTRY_POINTS, RANGES, RESERVED_KEYS, EntryPoint
from crystalfm.config.signatures import RUNTIME_ARGUMENTS, Setting, Signature, read_signature
from crystalfm.config.value_types import MISSING, UNRESOLVED, mismatch
from crystalfm.contracts import MODALITIES, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UNKNOWN_KEY = "unknown key"
_REQUIRES = "crystalfm.config.schema.RequiresSettings"
_ACCEPTS = "crystalfm.config.schema.AcceptsSettings"

Tree = dict[str, Any]


def check_tree(task: str, tree: Tree, catalog: Catalog | None = None) -> list[Problem]:
    """Return every problem of a composed configuration that the schema can find.

    Args:
        task: ``train``, ``evaluate``, ``predict`` or ``generate``.
        tree: plain containers, interpolations resolved.
        catalog: the groups on offer, for suggestions.
    """
    entry = ENTRY_POINTS[task]
    checker = _Checker(entry, catalog or Catalog())
    return list(checker.problems(tree))


class _Checker:
    def __init__(self, entry: EntryPoint, catalog: Catalog) -> None:
        self._entry = entry
        self._catalog = catalog

    def problems(self, tree: Tree) -> Iterator[Problem]:
        """Walk the whole tree."""
        entry = self._entry
        values = read_signature(entry.values).settings
        nodes = (*entry.sections, *entry.targets, *entry.mappings)
        for key in tree:
            if key not in values and key not in nodes:
                yield Problem(key, UNKNOWN_KEY, suggestion(key, [*values, *nodes, *self._extra_groups()]))
        known = {key: value for key, value in tree.items() if key in values}
        yield from check_settings("", known, values, complete=True)
        for key, path in entry.sections.items():
            yield from self._section(key, tree, path)
        for key in entry.targets:
            if not (key in entry.optional and tree.get(key) is None):
                yield from self._target(key, tree.get(key), key)
        for key in entry.mappings:
            yield from self._mapping(key, tree.get(key))

    def _extra_groups(self) -> list[str]:
        return [name for name in ("experiment", "debug") if name in self._catalog.options]

    def _section(self, key: str, tree: Tree, path: str) -> Iterator[Problem]:
        node = tree.get(key)
        if isinstance(node, dict):
            yield from check_settings(key, node, read_signature(path).settings, complete=True)
        else:
            keys = ", ".join(f"{key}.{name}=..." for name in read_signature(path).settings)
            yield Problem(key, "a section of keys is needed here", self._catalog.hint(key) or f"write {keys}")

    def _mapping(self, key: str, node: Any) -> Iterator[Problem]:
        if not isinstance(node, dict):
            yield Problem(key, "a section of keys is needed here")
            return
        for name, child in node.items():
            where = f"{key}.{name}"
            if name not in MODALITIES:
                yield Problem(where, "unknown modality", suggestion(str(name), MODALITIES, label="modalities"))
            elif child is not None:
                yield from self._target(key, child, where)

    def _target(self, kind: str, node: Any, key: str) -> Iterator[Problem]:
        group = "encoder" if kind == "encoders" else kind
        choose = self._catalog.hint(group)
        if kind == "encoders":
            choose = choose.replace("encoder=", f"encoder@{key}=")
        if not isinstance(node, dict):
            yield Problem(key, "an option of the group is needed here, not a value", f"write {choose}")
            return
        path = node.get(TARGET_KEY)
        if not isinstance(path, str):
            yield Problem(f"{key}.{TARGET_KEY}", "the node names no class", choose and f"write {choose}")
            return
        try:
            signature = read_signature(path)
        except UserError as error:
            yield Problem(f"{key}.{TARGET_KEY}", error.message, error.remedy or "")
            return
        yield from self._arguments(kind, key, node, signature)
        yield from _reserved(kind, key, node)

    def _arguments(self, kind: str, key: str, node: Tree, signature: Signature) -> Iterator[Problem]:
        reserved = RESERVED_KEYS[kind]
        given = {name: value for name, value in node.items() if name != TARGET_KEY and name not in reserved}
        supplied = [name for name in given if name in signature.runtime or name in RUNTIME_ARGUMENTS - {"name"}]
        for name in supplied:
            if name not in signature.settings:
                yield Problem(f"{key}.{name}", "this is supplied by the run and cannot be set", "remove it")
                del given[name]
        names = [*signature.settings, *reserved]
        group = "encoder" if kind == "encoders" else kind
        for problem in check_settings(key, given, signature.settings, names=names):
            others = self._catalog.options_with(group, problem.key.rpartition(".")[2])
            if problem.message == UNKNOWN_KEY and others:
                choice = f"encoder@{key}" if kind == "encoders" else kind
                yield replace(
                    problem, remedy=f"options that have it: {', '.join(f'{choice}={name}' for name in others)}"
                )
            else:
                yield problem


def check_settings(
    prefix: str, node: Tree, settings: Mapping[str, Setting], *, names: list[str] | None = None, complete: bool = False
) -> Iterator[Problem]:
    """Check the values of one node.

    Args:
        prefix: dotted key of the node, empty at the top.
        node: its values.
        settings: what it may hold.
        names: valid names for suggestions.
        complete: whether settings with a default must be there too, as they must where no class fills them in.
    """
    start = f"{prefix}." if prefix else ""
    for name, value in node.items():
        key = f"{start}{name}"
        if name not in settings:
            yield Problem(key, UNKNOWN_KEY, suggestion(str(name), names or list(settings)))
        elif value is UNRESOLVED:
            continue
        elif value == MISSING:
            yield Problem(key, "a value is needed here", f"expected {settings[name].type}: {key}=...")
        else:
            yield from _check_value(key, name, value, settings[name])
    for name, setting in settings.items():
        if name not in node and (setting.required or complete):
            yield Problem(f"{start}{name}", "the key is missing", f"expected {setting.type}")


def _check_value(key: str, name: str, value: Any, setting: Setting) -> Iterator[Problem]:
    wrong = mismatch(setting.type, value)
    if wrong:
        yield Problem(key, *wrong)
        return
    bound = RANGES.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if bound is not None and is_number and not bound.holds(value):
        yield Problem(key, f"{value} is out of range", f"use a number {bound}")


def _reserved(kind: str, key: str, node: Tree) -> Iterator[Problem]:
    name = node.get("name")
    if not isinstance(name, str):
        yield Problem(f"{key}.name", "the name of the option is missing", "write name: <file name without .yaml>")
    if kind == "model":
        requires = node.get("requires")
        if isinstance(requires, dict):
            yield from check_settings(f"{key}.requires", requires, read_signature(_REQUIRES).settings)
            yield from _modality_names(f"{key}.requires.modalities", requires.get("modalities"))
        else:
            yield Problem(f"{key}.requires", "what the model needs is missing", "write requires: {modalities: [...]}")
    if kind == "encoders":
        kept = {name: node[name] for name in RESERVED_KEYS[kind] if name in node}
        yield from check_settings(key, kept, read_signature(_ACCEPTS).settings)
        yield from _modality_names(f"{key}.accepts", node.get("accepts"))


def _modality_names(key: str, names: Any) -> Iterator[Problem]:
    for name in names if isinstance(names, list) else []:
        if name not in MODALITIES:
            yield Problem(key, f"unknown modality '{name}'", suggestion(str(name), MODALITIES, label="modalities"))
