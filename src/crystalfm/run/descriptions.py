"""Descriptions of crystals in a run: made when the modality is used, shown while they are made."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.chem.molecules import RowProblem
from crystalfm.data.descriptions import GENERATORS, DescribedCrystals, DescriptionSettings, describe_crystals
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.tracking.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from crystalfm.data.records import RecordTable

MODALITY = "description"


def with_descriptions(cfg: DictConfig, table: RecordTable, modalities: Sequence[str]) -> RecordTable:
    """Return the table with descriptions of its crystals where the data's setting and the modalities ask for them.

    Args:
        cfg: configuration with ``data``, ``descriptions`` and ``paths``.
        table: records of crystals, or of anything else, which are returned as they are.
        modalities: modalities of the model.

    Returns:
        the table with the field ``description``; crystals that could not be described are among the rejected rows.
    """
    if not asks_for_descriptions(cfg, modalities):
        return table
    texts, problems = description_column(cfg, table.fields["structure"])
    described = replace(table, fields={**table.fields, MODALITY: texts})
    return described.without(problems)


def asks_for_descriptions(cfg: DictConfig, modalities: Sequence[str]) -> bool:
    """Say whether descriptions of crystals are to be made."""
    return MODALITY in modalities and cfg.data.get("description") is not None


def description_column(cfg: DictConfig, structures: Sequence[str | None]) -> tuple[list[str | None], list[RowProblem]]:
    """Return a description for each row that has a structure, and the rows for which there is none."""
    rows = [row for row, structure in enumerate(structures) if structure is not None]
    outcomes = describe(cfg, [structure for structure in structures if structure is not None]).outcomes
    texts: list[str | None] = [None] * len(structures)
    problems = []
    for row, outcome in zip(rows, outcomes, strict=True):
        texts[row] = outcome.text
        if outcome.text is None:
            problems.append(RowProblem(row, outcome.reason, ""))
    return texts, problems


def describe(cfg: DictConfig, structures: Sequence[str]) -> DescribedCrystals:
    """Describe crystals as the configuration says, with a progress bar in a terminal.

    Args:
        cfg: configuration with ``data.description``, ``descriptions`` and ``paths``.
        structures: crystals as JSON.
    """
    generator = GENERATORS[cfg.data.description]
    with progress_bar(f"describing crystals ({generator.name})") as progress:
        return describe_crystals(
            structures,
            generator,
            Path(cfg.paths.cache).expanduser(),
            _settings(cfg),
            progress=progress,
            wait=is_child_rank(),
        )


def _settings(cfg: DictConfig) -> DescriptionSettings:
    """Return the settings; a configuration of a time before there were any has the defaults."""
    node = cfg.get("descriptions") or {}
    return DescriptionSettings(
        **{item.name: node[item.name] for item in fields(DescriptionSettings) if item.name in node}
    )
