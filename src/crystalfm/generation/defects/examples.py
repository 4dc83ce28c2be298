"""Configurations of defects as examples of a language model: what is asked, and the answer."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.generation.defects.answers import write_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.prompts import PROPERTIES, defect_prompt
from crystalfm.generation.prompts import Example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.records import DefectRecord
    from crystalfm.chem.defects.rules import DefectRule
    from crystalfm.generation.defects.prompts import DefectPromptSettings

T = TypeVar("T")


class DefectExamples:
    """A source of examples for ``CrystalTextStore``.

    Args:
        records: (N,) configurations with their supercells.
        properties: (N,) what is known of each, by name of the property.
        settings: how prompts and answers are worded, and how examples are drawn.
    """

    def __init__(
        self,
        records: Sequence[DefectRecord],
        properties: Sequence[Mapping[str, float]],
        settings: DefectPromptSettings,
    ) -> None:
        if len(records) != len(properties):
            raise ValueError(f"{len(records)} configurations, but properties of {len(properties)}")
        self._records = records
        self._properties = properties
        self._settings = settings

    def __len__(self) -> int:
        """Return how many configurations there are."""
        return len(self._records)

    def plain(self, row: int) -> Example:
        """Return the example without anything random.

        The prompt names everything that is done to the host's sites in the data, and the first ``max_properties`` of
        the known properties; the sites are as their source has them.
        """
        record, settings = self._records[row], self._settings
        known = self._known(row)
        chosen = dict(list(known.items())[: settings.max_properties])
        allowed = {*settings.rules_of(record.host), *record.rules}
        return self._example(record, record.configuration, tuple(sorted(allowed)), chosen)

    def drawn(self, row: int, rng: np.random.Generator) -> Example:
        """Return a random example.

        Drawn are a symmetry operation of the supercell, how many and which of the known properties the prompt names,
        and which of the host's other rules it allows beside those that the configuration needs.
        """
        record, settings = self._records[row], self._settings
        configuration = record.configuration
        if settings.move:
            operations = site_permutations(record.supercell)
            configuration = configuration.moved(operations[int(rng.integers(len(operations)))])
        needed = set(record.rules)
        others = [rule for rule in settings.rules_of(record.host) if rule not in needed]
        allowed = {*needed, *_subset(others, len(others), rng)}
        known = list(self._known(row).items())
        asked = dict(_subset(known, min(settings.max_properties, len(known)), rng))
        return self._example(record, configuration, tuple(sorted(allowed)), asked)

    def _example(
        self,
        record: DefectRecord,
        configuration: Configuration,
        rules: tuple[DefectRule, ...],
        conditions: Mapping[str, float],
    ) -> Example:
        supercell = record.supercell
        # Any number of defects: every site that a rule names is a decision.
        constraint = DefectConstraint(supercell, rules, min_defects=0, max_defects=supercell.num_sites)
        prompt = defect_prompt(supercell, rules, conditions, self._settings)
        return Example("defects", prompt, write_answer(configuration, supercell, self._settings), constraint)

    def _known(self, row: int) -> dict[str, float]:
        """Return the properties of a row that prompts may ask for, in the order in which they name them."""
        given = self._properties[row]
        names = [name for name in PROPERTIES if name in self._settings.properties]
        return {name: given[name] for name in names if name in given and isfinite(given[name])}


def _subset(items: Sequence[T], most: int, rng: np.random.Generator) -> list[T]:
    """Return a random selection, its size drawn uniformly from 0 to ``most``, in the order of the items."""
    count = int(rng.integers(most + 1))
    chosen = set(rng.permutation(len(items))[:count].tolist())
    return [item for place, item in enumerate(items) if place in chosen]
