"""Settings of a class, read from its source text: nothing is imported, so that checking stays fast and safe."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from crystalfm.config.python_source import parse_python
from crystalfm.config.value_types import ValueType, parse_type
from crystalfm.contracts import UserError

PACKAGE = "crystalfm"
_MIN_PARTS = 3  # package, module, class
_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]

RUNTIME_ARGUMENTS = frozenset(
    {"store", "modality", "cache", "encoders", "llm", "scaling", "optimizer", "scheduler", "name", "seed"}
)
"""Arguments that the run supplies, whatever their type; no YAML may set them."""


@dataclass(frozen=True)
class Setting:
    """One keyword of a class that YAML may set.

    Attributes:
        name: keyword.
        type: what its value must be.
        required: whether it has no default.
        default: default as written in the source, empty when required.
    """

    name: str
    type: ValueType
    required: bool
    default: str = ""


@dataclass(frozen=True)
class Signature:
    """What a class takes.

    Attributes:
        path: dotted path of the class.
        settings: keywords for YAML, by name.
        runtime: keywords that the run supplies.
    """

    path: str
    settings: dict[str, Setting]
    runtime: frozenset[str]


def require_allowed(path: str) -> None:
    """Refuse a dotted path outside the package, before anything of it is imported.

    Raises:
        UserError: ``path`` does not name something in crystalfm.
    """
    parts = path.split(".") if isinstance(path, str) else []
    if len(parts) < _MIN_PARTS or parts[0] != PACKAGE or not all(part.isidentifier() for part in parts):
        raise UserError(
            f"_target_={path} is refused: only classes of {PACKAGE} may be built from a configuration",
            remedy=f"write {PACKAGE}.<module>.<Class>",
        )


@cache
def read_signature(path: str) -> Signature:
    """Return what the class at ``path`` takes.

    Args:
        path: dotted path, such as ``crystalfm.models.llm_fusion.LLMFusion``.

    Raises:
        UserError: the path is not allowed, or there is no such class.
    """
    require_allowed(path)
    module_name, _, class_name = path.rpartition(".")
    module = _module(module_name)
    definition = module.classes.get(class_name) if module else None
    if module is None or definition is None:
        raise UserError(
            f"_target_={path}: there is no such class",
            remedy=f"classes of {module_name}: {', '.join(module.classes) or 'none'}" if module else "",
        )
    return _signature_of(path, module, definition)


@dataclass(frozen=True)
class _Module:
    """Parsed source of a module."""

    name: str
    classes: dict[str, ast.ClassDef]
    aliases: dict[str, ast.expr]
    imported: dict[str, str]

    def lookup(self, name: str) -> ast.expr | None:
        """Return the definition of a type alias, here or in the module it is imported from."""
        if name in self.aliases:
            return self.aliases[name]
        origin = self.imported.get(name)
        if origin is None:
            return None
        module_name, _, original = origin.rpartition(".")
        module = _module(module_name)
        return module.lookup(original) if module else None

    def find_class(self, name: str) -> tuple[_Module, ast.ClassDef] | None:
        """Return a class by the name it has here, with its module."""
        if name in self.classes:
            return self, self.classes[name]
        module_name, _, original = self.imported.get(name, "").rpartition(".")
        module = _module(module_name) if module_name else None
        return module.find_class(original) if module else None


@cache
def _module(name: str) -> _Module | None:
    if not name.startswith(f"{PACKAGE}."):
        return None
    path = _PACKAGE_FOLDER.joinpath(*name.split(".")[1:])
    source = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    if source is None:
        return None
    tree = parse_python(source.read_text(encoding="utf-8"))
    classes: dict[str, ast.ClassDef] = {}
    aliases: dict[str, ast.expr] = {}
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            aliases[node.targets[0].id] = node.value
    return _Module(name, classes, aliases, imported)


def _signature_of(path: str, module: _Module, definition: ast.ClassDef) -> Signature:
    initializer = next(
        (item for item in definition.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
    )
    if initializer is not None:
        own = _from_initializer(path, module, initializer)
        inherited = _inherited(path, module, definition) if _hands_on(initializer) else None
        return own if inherited is None else _joined(own, inherited)
    if _is_dataclass(definition):
        return _from_fields(path, module, definition)
    return _inherited(path, module, definition) or Signature(path, {}, frozenset())


def _inherited(path: str, module: _Module, definition: ast.ClassDef) -> Signature | None:
    """Return what the first base class of the package takes, ``None`` without one."""
    for base in definition.bases:
        found = module.find_class(base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            return _signature_of(path, *found)
    return None


def _hands_on(function: ast.FunctionDef) -> bool:
    """Say whether an initializer takes further keywords for its base class: ``**name: Unpack[Settings]``."""
    annotation = function.args.kwarg.annotation if function.args.kwarg is not None else None
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Unpack"


def _joined(own: Signature, inherited: Signature) -> Signature:
    return Signature(own.path, own.settings | _without(inherited, own), own.runtime | inherited.runtime)


def _without(inherited: Signature, own: Signature) -> dict[str, Setting]:
    return {name: setting for name, setting in inherited.settings.items() if name not in own.settings}


def _from_initializer(path: str, module: _Module, function: ast.FunctionDef) -> Signature:
    arguments = function.args
    positional = arguments.args[1:]
    padding: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*padding, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    settings: dict[str, Setting] = {}
    runtime: set[str] = set()
    for argument, default in pairs:
        kind = parse_type(argument.annotation, module.lookup)
        if kind is None or argument.arg in RUNTIME_ARGUMENTS:
            runtime.add(argument.arg)
        else:
            settings[argument.arg] = _setting(argument.arg, kind, default)
    return Signature(path, settings, frozenset(runtime))


def _from_fields(path: str, module: _Module, definition: ast.ClassDef) -> Signature:
    settings: dict[str, Setting] = {}
    for item in definition.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            kind = parse_type(item.annotation, module.lookup)
            if kind is not None:
                settings[item.target.id] = _setting(item.target.id, kind, item.value)
    return Signature(path, settings, frozenset())


def _is_dataclass(definition: ast.ClassDef) -> bool:
    names = [item.func if isinstance(item, ast.Call) else item for item in definition.decorator_list]
    return any(isinstance(name, ast.Name) and name.id == "dataclass" for name in names)


def _setting(name: str, kind: ValueType, default: ast.expr | None) -> Setting:
    if default is None:
        return Setting(name, kind, required=True)
    if isinstance(default, ast.Call) and default.keywords and default.keywords[0].arg == "default_factory":
        factory = default.keywords[0].value
        default = factory.body if isinstance(factory, ast.Lambda) else ast.List([], ast.Load())
    return Setting(name, kind, required=False, default=ast.unparse(default))
