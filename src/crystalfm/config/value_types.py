"""Types that a setting can have, read from annotations in source text, and checked against values."""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crystalfm.config.problems import nearest
from crystalfm.config.python_source import parse_expression

MISSING = "???"
"""A value that the user must give."""

UNRESOLVED = object()
"""Stands for a reference that could not be resolved; it was told already."""


class ValueType(ABC):
    """What a value must be."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Say whether a plain value (of YAML) fits."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Words to choose from, where there are some."""
        return ()

    @property
    def structured(self) -> bool:
        """Whether a mapping fits, so that keys below this one are the user's own."""
        return False


@dataclass(frozen=True)
class Scalar(ValueType):
    """A number, a string, a truth value, or nothing.

    Attributes:
        name: ``int``, ``float``, ``str``, ``bool``, ``None`` or ``Any``.
    """

    name: str

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` fits; a whole number is a float too, a truth value is no number."""
        if self.name == "Any":
            return True
        if self.name == "None":
            return value is None
        if isinstance(value, bool):
            return self.name == "bool"
        kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
        return isinstance(value, kinds.get(self.name, ()))

    def __str__(self) -> str:
        names = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "None": "null"}
        return names.get(self.name, "anything")


@dataclass(frozen=True)
class Choice(ValueType):
    """One of a few words or numbers.

    Attributes:
        options: the values allowed.
    """

    options: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is one of the options."""
        return any(value == option and type(value) is type(option) for option in self.options)

    @property
    def choices(self) -> tuple[str, ...]:
        """The options as text."""
        return tuple(str(option) for option in self.options)

    def __str__(self) -> str:
        return " | ".join(self.choices)


@dataclass(frozen=True)
class ListOf(ValueType):
    """A list of equal items.

    Attributes:
        item: type of each item.
    """

    item: ValueType

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is a list whose items all fit."""
        return isinstance(value, list) and all(self.item.accepts(entry) for entry in value)

    @property
    def choices(self) -> tuple[str, ...]:
        """Words to choose items from."""
        return self.item.choices

    def __str__(self) -> str:
        return f"a list ({self.item} each)"


@dataclass(frozen=True)
class DictOf(ValueType):
    """A mapping from names to equal values.

    Attributes:
        value: type of each value.
    """

    value: ValueType

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is a mapping whose values all fit."""
        return isinstance(value, dict) and all(
            isinstance(key, str) and self.value.accepts(entry) for key, entry in value.items()
        )

    @property
    def structured(self) -> bool:
        """A mapping's keys are the user's own."""
        return True

    def __str__(self) -> str:
        return f"a mapping (name: {self.value})"


@dataclass(frozen=True)
class AnyOf(ValueType):
    """One of several types.

    Attributes:
        options: the types.
    """

    options: tuple[ValueType, ...]

    def accepts(self, value: Any) -> bool:
        """Say whether one of the types fits."""
        return any(option.accepts(value) for option in self.options)

    @property
    def choices(self) -> tuple[str, ...]:
        """Words to choose from, of all the types."""
        return tuple(choice for option in self.options for choice in option.choices)

    @property
    def structured(self) -> bool:
        """Whether one of the types is a mapping."""
        return any(option.structured for option in self.options)

    def __str__(self) -> str:
        return " | ".join(str(option) for option in self.options)


Lookup = Callable[[str], ast.expr | None]
"""Finds the definition of a name that an annotation uses (a type alias)."""


def no_aliases(_name: str) -> None:
    """Look up nothing."""


def parse_type(node: ast.expr | None, lookup: Lookup = no_aliases) -> ValueType | None:
    """Return the type an annotation means, or ``None`` where YAML cannot hold such a value.

    Args:
        node: annotation in source form: ``int``, ``str | None``, ``list[float]``, ``Literal["a", "b"]`` ...
        lookup: definition of type aliases.
    """
    match node:
        case ast.Constant(value=None) | ast.Name(id="int" | "float" | "str" | "bool" | "Any"):
            return Scalar(ast.unparse(node))
        case ast.Constant(value=str(text)):
            return parse_type(parse_expression(text), lookup)
        case ast.Name(id=name) if (alias := lookup(name)) is not None:
            return parse_type(alias, lookup)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _union([parse_type(left, lookup), parse_type(right, lookup)])
        case ast.Subscript(value=ast.Name(id=name), slice=argument):
            return _parse_generic(name, argument, lookup)
    return None


def _parse_generic(name: str, argument: ast.expr, lookup: Lookup) -> ValueType | None:
    arguments = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if name == "Literal":
        return Choice(tuple(item.value for item in arguments if isinstance(item, ast.Constant)))
    if name == "Optional":
        return _union([parse_type(arguments[0], lookup), Scalar("None")])
    if name in {"list", "List", "Sequence", "tuple"}:
        item = parse_type(arguments[0], lookup)
        return None if item is None else ListOf(item)
    if name in {"dict", "Dict", "Mapping"}:
        value = parse_type(arguments[-1], lookup)
        return None if value is None else DictOf(value)
    return None


def _union(parts: list[ValueType | None]) -> ValueType | None:
    flat: list[ValueType] = []
    for part in parts:
        if part is None:
            return None
        flat.extend(part.options if isinstance(part, AnyOf) else [part])
    return AnyOf(tuple(flat))


def mismatch(expected: ValueType, value: Any) -> tuple[str, str] | None:
    """Say what is wrong with a value and what would fit, or ``None`` where it fits."""
    if expected.accepts(value):
        return None
    return f"{_show(value)} does not fit: expected {expected}", _remedy(expected, value)


def _remedy(expected: ValueType, value: Any) -> str:
    near = nearest(value, expected.choices) if isinstance(value, str) else None
    if near:
        return f"did you mean '{near}'?"
    if not isinstance(value, (list, dict)) and value is not None:
        if isinstance(value, float) and not math.isfinite(value) and _takes(expected, "text"):
            return "words like InF and NaN are read as numbers; write text in two pairs of quotes: '\"InF\"'"
        if not isinstance(value, (str, bool)) and _takes(expected, "text"):
            return f"write it as text: '\"{value}\"'"
        if isinstance(_without_null(expected), ListOf):
            return f"write a list: [{value}]"
    return ""


def _takes(expected: ValueType, word: str) -> bool:
    options = expected.options if isinstance(expected, AnyOf) else (expected,)
    return any(str(option) == word for option in options)


def _without_null(expected: ValueType) -> ValueType:
    if isinstance(expected, AnyOf):
        rest = [option for option in expected.options if str(option) != "null"]
        return rest[0] if len(rest) == 1 else expected
    return expected


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a section of keys"
    if value is None:
        return "null"
    return f"'{value}'" if isinstance(value, str) else str(value)
