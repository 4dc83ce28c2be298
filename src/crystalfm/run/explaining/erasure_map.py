"""Erasures of several properties gathered: what parts of descriptions are worth to which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.explain.erasure import TagErasure
from crystalfm.metrics.bootstrap import Interval
from crystalfm.report.erasure_map import ErasedProperty, erasure_map_figure, erasure_map_table
from crystalfm.run.explaining.erasure import FILE, flat_erasure
from crystalfm.run.explaining.tables import write_rows
from crystalfm.run.folder import RunFolder, folders_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

_INTERVALS = ("change", "control", "excess")


def erasure_map(places: Sequence[str], output: Path | None, console: Console) -> list[ErasedProperty]:
    """Show evaluations with ``explain=erasure`` side by side, and write a table and a heat map where asked.

    Args:
        places: folders of evaluations, or folders that hold some, such as that of a multirun.
        output: folder for ``erasures.csv`` and ``erasures.png``; ``None`` writes nothing.
        console: where the tables are shown.

    Returns:
        what was found, by texts and property.

    Raises:
        UserError: a folder holds no such evaluation, one cannot be read, or two are of the same texts and property.
    """
    files = [path for place in places for path in _files(place)]
    found = [item for path in dict.fromkeys(file.resolve() for file in files) for item in _read(path)]
    found.sort(key=lambda one: (one.texts, one.target.name))
    _require_distinct(found)
    groups = [[one for one in found if one.texts == texts] for texts in dict.fromkeys(one.texts for one in found)]
    for group in groups:
        console.print(erasure_map_table(group))
    if output is not None:
        rows = [
            {"texts": one.texts, "crystals": one.num_crystals, "mae_whole": one.mae, **flat_erasure(tag)}
            for one in found
            for tag in one.tags
        ]
        write_rows(output / "erasures.csv", rows)
        erasure_map_figure(groups, output / "erasures.png")
    return found


def _files(place: str) -> list[Path]:
    root = Path(place).expanduser()
    name = str((RunFolder(root).explanations / FILE).relative_to(root))
    found = folders_with(place, name, "give folders of evaluations with explain=erasure")
    if not found:
        raise UserError(f"{place} holds no {name}", remedy="python evaluate.py ckpt=RUN explain=erasure writes it")
    return [folder / name for folder in found]


def _read(path: Path) -> list[ErasedProperty]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        targets = [TargetSpec(one["name"], one["unit"]) for one in content["targets"]]
        tags = [_tag(one) for one in content["tags"]]
        facts = str(content["texts"]), int(content["rows"]), float(content["other_share"])
        errors = {target.label: float(content["mae"][target.label]) for target in targets}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {type(error).__name__}: {error}", remedy="run explain=erasure again"
        ) from error
    texts, rows, other = facts
    return [
        ErasedProperty(
            texts, target, rows, errors[target.label], other, tuple(tag for tag in tags if tag.target == target.label)
        )
        for target in targets
    ]


def _tag(found: Mapping[str, Any]) -> TagErasure:
    return TagErasure(**{**found, **{name: Interval(**found[name]) for name in _INTERVALS}})


def _require_distinct(found: Sequence[ErasedProperty]) -> None:
    """Refuse two evaluations for one place of the map.

    Raises:
        UserError: there are two.
    """
    for number, one in enumerate(found[1:], start=1):
        before = found[number - 1]
        if (before.texts, before.target) == (one.texts, one.target):
            raise UserError(
                f"two evaluations are of {one.target.name} with texts by {one.texts}", remedy="give one of them"
            )
