"""Plain containers as JSON, with their tensors laid apart: what a checkpoint holds, without a pickle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_TENSOR, _TUPLE, _ITEMS, _FLOAT = "$tensor", "$tuple", "$items", "$float"
_TAGS = (_TENSOR, _TUPLE, _ITEMS, _FLOAT)


def to_json(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """Return a JSON-able copy of plain containers; ``from_json`` restores an equal value.

    Args:
        value: made of dictionaries, lists, tuples, strings, numbers, ``None`` and tensors.
        tensors: receives each tensor under its place in the containers (``text.weights.bias``).
        name: place of ``value`` itself.

    Raises:
        TypeError: something else is inside.
    """
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        if all(isinstance(key, str) and key not in _TAGS for key in value):
            return {key: to_json(item, tensors, f"{name}.{key}") for key, item in value.items()}
        return {_ITEMS: [[key, to_json(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [to_json(item, tensors, f"{name}.{place}") for place, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    raise TypeError(f"{name} is a {type(value).__name__}, which has no place in JSON")


def from_json(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return what ``to_json`` was given.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(value, list):
        return [from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag, content = next(iter(value.items())) if len(value) == 1 else ("", None)
    if tag == _TENSOR:
        return tensors[str(content)]
    if tag == _FLOAT:
        return float(str(content))
    if tag in {_TUPLE, _ITEMS}:
        items = from_json(content, tensors)
        return tuple(items) if tag == _TUPLE else dict(items)
    return {key: from_json(item, tensors) for key, item in value.items()}
