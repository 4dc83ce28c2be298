"""From nodes of a checked configuration to classes, settings, requirements and the modalities of a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from crystalfm.config.options import TARGET_KEY
from crystalfm.config.schema import RESERVED_KEYS
from crystalfm.config.signatures import read_signature, require_allowed
from crystalfm.contracts import MODALITIES, DataSpec, Requirements, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

_RESERVED = frozenset(key for keys in RESERVED_KEYS.values() for key in keys)


def plain(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return a node as plain containers, interpolations resolved."""
    if isinstance(node, DictConfig):
        container: Any = OmegaConf.to_container(node, resolve=True)
        return {str(key): value for key, value in container.items()}
    return dict(node)


def settings_of(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a ``_target_`` node gives its class.

    The reserved keys (``requires``, ``accepts``) are left out, and ``name`` unless the class
    takes it.
    """
    container = plain(node)
    target = container.pop(TARGET_KEY, None)
    takes_name = isinstance(target, str) and "name" in read_signature(target).runtime
    kept = {"name"} if takes_name else set()
    return {key: value for key, value in container.items() if key not in _RESERVED or key in kept}


def load_target(path: str) -> type[Any]:
    """Import a class by its dotted path.

    Raises:
        UserError: the path lies outside crystalfm (nothing is imported then), or there is no such class.
    """
    require_allowed(path)
    read_signature(path)
    module_name, _, class_name = path.rpartition(".")
    target: Any = getattr(importlib.import_module(module_name), class_name, None)
    if not isinstance(target, type):
        raise UserError(f"_target_={path}: there is no such class")
    return target


def requirements_of(model: DictConfig | Mapping[str, Any]) -> Requirements:
    """Return what a model's config says it needs of a data set."""
    needs = plain(model).get("requires") or {}
    return Requirements(
        modalities=tuple(needs.get("modalities", ())),
        min_modalities=int(needs.get("min_modalities", 1)),
        max_modalities=needs.get("max_modalities"),
        frozen=tuple(needs.get("frozen", ())),
        raw=tuple(needs.get("raw", ())),
    )


def data_spec(data: DictConfig | Mapping[str, Any]) -> DataSpec:
    """Return what the configured data set provides, without loading it.

    Raises:
        UserError: its settings are wrong.
    """
    node = plain(data)
    dataset = load_target(node[TARGET_KEY])(**settings_of(node), store=None)
    spec: DataSpec = dataset.spec()
    return spec


def usable_modalities(
    model: DictConfig | Mapping[str, Any], encoders: DictConfig | Mapping[str, Any], spec: DataSpec
) -> list[str]:
    """Return the modalities that data, model and encoders have in common, in registry order."""
    needs = requirements_of(model)
    configured = plain(encoders)
    fitting = [name for name in MODALITIES if name in spec.modalities and name in needs.modalities]
    return [
        name
        for name in fitting
        if name in needs.raw or (configured.get(name) and name not in _not_frozen(needs, configured))
    ]


def automatic_modalities(
    model: DictConfig | Mapping[str, Any], encoders: DictConfig | Mapping[str, Any], spec: DataSpec
) -> list[str]:
    """Return what ``modalities=auto`` means: all usable ones; of a model that takes one, the first of its own list."""
    usable = usable_modalities(model, encoders, spec)
    needs = requirements_of(model)
    if needs.max_modalities != 1:
        return usable
    return [name for name in needs.modalities if name in usable][:1]


def _not_frozen(needs: Requirements, encoders: Mapping[str, Any]) -> list[str]:
    """Return the modalities that the model takes from a frozen encoder only, while theirs is to be trained."""
    return [name for name in needs.frozen if encoders.get(name) and not encoders[name].get("frozen")]


def resolve_modalities(cfg: DictConfig | Mapping[str, Any], spec: DataSpec) -> list[str]:
    """Return the modalities of a run: those asked for, or for ``auto`` all that data, model and encoders share.

    Of a model that takes one modality it is the first of the model's own list.

    Raises:
        UserError: the modalities asked for do not fit the data set, the model or the encoders.
    """
    asked = cfg["modalities"]
    usable = usable_modalities(cfg["model"], cfg["encoders"], spec)
    automatic = automatic_modalities(cfg["model"], cfg["encoders"], spec)
    chosen = automatic if asked == "auto" else [str(name) for name in asked]
    problems = modality_problems(cfg, spec, chosen)
    if problems:
        raise UserError(
            f"modalities={asked if asked == 'auto' else chosen}: {'; '.join(problems)}",
            remedy=f"modalities that fit: {', '.join(usable) or 'none'}",
        )
    return chosen


def modality_problems(cfg: DictConfig | Mapping[str, Any], spec: DataSpec, chosen: list[str]) -> list[str]:
    """Say why the chosen modalities do not fit data set, model and encoders; empty when they do."""
    problems = requirements_of(cfg["model"]).problems(spec, chosen)
    encoders = plain(cfg["encoders"])
    needs = requirements_of(cfg["model"])
    problems += [
        f"no encoder is configured for {name}" for name in chosen if name not in needs.raw and not encoders.get(name)
    ]
    problems += [
        f"the model takes {name} from a frozen encoder only (encoders.{name}.frozen=true)"
        for name in _not_frozen(needs, encoders)
        if name in chosen
    ]
    repeated = sorted({name for name in chosen if chosen.count(name) > 1})
    if repeated:
        problems.append(f"{', '.join(repeated)} given more than once")
    return problems
