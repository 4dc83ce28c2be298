"""Configurations that a language model is asked for by their properties: how many come out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from crystalfm.chem.defects.configurations import read_configuration
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.contracts import UserError
from crystalfm.generation.defects.answers import DefectTextError, read_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.grammar import DefectGrammar
from crystalfm.generation.defects.prompts import DefectPromptSettings, defect_prompt
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.metrics.defects import ConfigurationMatches, match_configurations
from crystalfm.run.tracking.progress import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.records import DefectRecord
    from crystalfm.generation.writer import CrystalWriter

_STREAM = 2
"""Sets the random numbers of the baseline off from others of the same seed."""


def match_by_properties(
    writer: CrystalWriter,
    records: Sequence[DefectRecord],
    properties: Sequence[Mapping[str, float]],
    *,
    seed: int,
    precision: Literal["auto", "bf16", "fp32"],
) -> tuple[ConfigurationMatches, ConfigurationMatches]:
    """Ask once for each configuration by its properties, and compare what is written with it.

    Of what is known of it, the first properties of the prompt are asked for, as many as training prompts name at most.
    The grammar keeps to the rules of the data and to as many defects as the largest configuration has; which of them
    there are, and where, is left to the model.

    Args:
        writer: the model; its weights are merged and turned to the precision, and stay so.
        records: configurations to ask for.
        properties: what is known of each, by name; NaN where it is not.
        seed: of the sampling, at temperature 1.
        precision: of the sampling.

    Returns:
        the matches of what was written, and those of random configurations under the same rules: what guessing gives.

    Raises:
        UserError: the model writes crystals, or does not know a host.
    """
    settings = writer.prompts
    if not isinstance(settings, DefectPromptSettings):
        raise UserError("the model writes crystals, not defects of layers", remedy="give a run of data=2dmd")
    most = max((len(record.configuration) for record in records), default=1)
    fewest = min((len(record.configuration) for record in records), default=1)
    supercells = [settings.supercell(record.host, record.size) for record in records]
    true = [
        record.configuration if record.supercell is supercell else read_configuration(record.crystal(), supercell)
        for record, supercell in zip(records, supercells, strict=True)
    ]
    grammar = DefectGrammar(writer.tokenizer, settings)
    requests, room = [], 1
    for place, (supercell, known) in enumerate(zip(supercells, properties, strict=True)):
        rules = settings.rules_of(supercell.host.name)
        constraint = DefectConstraint(supercell, rules, fewest, most)
        room = max(room, grammar.needed_tokens(constraint, most))
        prompt = defect_prompt(supercell, rules, _asked(known, settings), settings)
        requests.append(Request(place, prompt, "defects", constraint))
    found: list[Configuration | None] = [None] * len(records)
    samples = TransformersEngine(writer, precision).sample(requests, SamplingSettings(seed=seed, max_new_tokens=room))
    for sample in counted(samples, "writing configurations by properties", len(requests)):
        try:
            found[sample.index] = read_answer(sample.text, supercells[sample.index], settings)
        except DefectTextError:
            found[sample.index] = None
    rng = np.random.default_rng([seed, _STREAM])
    guessed = [
        random_configuration(cell, settings.rules_of(cell.host.name), int(rng.integers(fewest, most + 1)), rng)
        for cell in supercells
    ]
    return match_configurations(found, true, supercells), match_configurations(guessed, true, supercells)


def match_sentence(matches: ConfigurationMatches, guessed: ConfigurationMatches) -> str:
    """Return the matches as a line."""
    names = {"exact": "site by site", "equivalent": "under the layer's symmetry", "same_type": "in their defects alone"}
    parts = []
    for key, name in names.items():
        share, chance = getattr(matches, key), getattr(guessed, key)
        parts.append(f"{share.count:,} of {share.total:,} {name} (at random {chance.count:,})")
    return f"asked for by their properties, one sample each, these match: {', '.join(parts)}"


def _asked(known: Mapping[str, float], settings: DefectPromptSettings) -> dict[str, float]:
    values = {name: known[name] for name in settings.properties if math.isfinite(known.get(name, math.nan))}
    return dict(list(values.items())[: settings.max_properties])
