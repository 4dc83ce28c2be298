"""What a language model is asked and what it should answer: write a crystal, or name the element hidden in one.

A prompt is made of a few fixed sentences and of values, so that a tokenizer can hold each sentence as one token. The
wording has a version that checkpoints carry: a model is only ever asked in the words it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystal_text import CrystalTextFormat
from crystalfm.chem.crystals import SYMBOLS
from crystalfm.chem.formulas import reduced_formula
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.crystals import Crystal
    from crystalfm.generation.constraints import Task
    from crystalfm.generation.defects.constraints import AnyConstraint

PROMPT_VERSION = 1

CONDITIONS = ("formula", "spacegroup", "formation_energy_per_atom", "band_gap", "e_above_hull")
"""What can be asked of a crystal, in the order in which prompts name it."""

MASK = "[MASK]"
"""Stands for a hidden element."""

OPENING = "A solid that could be made, as one unit cell."
LAYOUT = "\nLengths in angstrom, angles in degrees, then every atom with its element and its fractional coordinates:\n"
LABELS = {
    "formula": ("\nFormula: ", ""),
    "spacegroup": ("\nSpace group number: ", ""),
    "formation_energy_per_atom": ("\nFormation energy: ", " eV per atom"),
    "band_gap": ("\nBand gap: ", " eV"),
    "e_above_hull": ("\nEnergy above the hull: ", " eV per atom"),
}
"""What stands before and after the value of a condition."""

INFILL_OPENING = "One element of this crystal is hidden, wherever it stands, behind [MASK].\n"
INFILL_QUESTION = "\nThe hidden element:\n"

SENTENCES = (
    OPENING,
    LAYOUT,
    INFILL_OPENING,
    INFILL_QUESTION,
    *dict.fromkeys(part for label in LABELS.values() for part in label if part),
)
"""Every fixed part of a prompt."""

NUM_SPACE_GROUPS = 230

_DECIMALS = 4
_LARGEST_VALUE = 1000.0
"""Values are smaller than this in size."""


@dataclass(frozen=True)
class PromptSettings:
    """How prompts and crystals are worded, and how training draws them.

    Args:
        text: how a crystal is written.
        conditions: what training prompts may ask for.
        infill_fraction: share of training examples that ask for a hidden element, 0 to 1.
        max_conditions: most conditions of a training prompt; their number is drawn uniformly from 0 to this.
        translate: move all atoms of a training example by the same random vector.
        permute: write the atoms of a training example in random order.
        version: version of the wording.

    Raises:
        UserError: a setting is out of range, or the version is not this one's.
    """

    text: CrystalTextFormat = field(default_factory=CrystalTextFormat)
    conditions: tuple[str, ...] = CONDITIONS
    infill_fraction: float = 1 / 3
    max_conditions: int = 4
    translate: bool = True
    permute: bool = False
    version: int = PROMPT_VERSION

    def __post_init__(self) -> None:
        _require_version(self.version)
        unknown = sorted(set(self.conditions) - set(CONDITIONS))
        if unknown or len(set(self.conditions)) < len(self.conditions):
            raise UserError(
                f"conditions={list(self.conditions)} are not distinct conditions",
                remedy=f"a selection of {', '.join(CONDITIONS)}",
            )
        if not 0.0 <= self.infill_fraction <= 1.0:
            raise UserError(f"infill_fraction={self.infill_fraction} is out of range", remedy="infill_fraction=0 to 1")
        if self.max_conditions < 0:
            raise UserError(f"max_conditions={self.max_conditions} is negative", remedy="max_conditions=0 or more")

    def state(self) -> dict[str, Any]:
        """Return the settings as plain containers, for a checkpoint."""
        return {
            "text": self.text.state(),
            "conditions": list(self.conditions),
            "infill_fraction": self.infill_fraction,
            "max_conditions": self.max_conditions,
            "translate": self.translate,
            "permute": self.permute,
            "version": self.version,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PromptSettings:
        """Return the settings that ``state`` describes.

        Raises:
            UserError: the wording is of another version, or a setting is unknown, missing or out of range.
        """
        _require_version(state.get("version"))
        names = tuple(cls().state())
        if set(state) != set(names):
            raise UserError(
                f"prompts have the settings {', '.join(sorted(map(str, state)))}",
                remedy=f"expected: {', '.join(names)}",
            )
        text = CrystalTextFormat.from_state(state["text"])
        return cls(**{**state, "text": text, "conditions": tuple(state["conditions"])})


@dataclass(frozen=True)
class Example:
    """A prompt and its answer; the end-of-sequence token is appended by whoever makes tokens of it.

    Attributes:
        task: ``generate`` asks for a crystal, ``infill`` for an element's symbol, ``defects`` for changes of a host.
        prompt: what is asked.
        completion: the answer.
        constraint: what every answer to the prompt has to fulfil, where decided tokens are told apart from the others.
    """

    task: Task
    prompt: str
    completion: str
    constraint: AnyConstraint | None = None


def generation_prompt(conditions: Mapping[str, str | int | float], settings: PromptSettings) -> str:
    """Return the prompt that asks for a crystal.

    Args:
        conditions: values by name (see ``CONDITIONS``), in any order; empty for any crystal. A formula may be written
            in any way, also with brackets; energies and gaps are in eV.
        settings: what the model was trained with.

    Raises:
        UserError: a condition is unknown, or its value makes no sense.
    """
    unknown = sorted(set(conditions) - set(settings.conditions))
    if unknown:
        raise UserError(
            f"the model was not trained with the condition {', '.join(unknown)}",
            remedy=f"it knows {', '.join(settings.conditions) or 'none'}",
        )
    asked = dict(conditions)
    if "formula" in asked:
        asked["formula"] = reduced_formula(str(asked["formula"]))
    return _generation_prompt(asked)


def infill_prompt(masked_text: str) -> str:
    """Return the prompt that asks which element is hidden in a text of ``mask_element``."""
    return f"{INFILL_OPENING}{masked_text}{INFILL_QUESTION}"


def mask_element(crystal: Crystal, symbol: str, settings: PromptSettings) -> str:
    """Return the crystal's text with ``[MASK]`` at every site of one element.

    Raises:
        UserError: the crystal does not hold the element.
        CrystalTextError: the crystal cannot be written.
    """
    lines = settings.text.write(crystal).split("\n")
    sites = [site for site, number in enumerate(crystal.atomic_numbers.tolist()) if SYMBOLS[number - 1] == symbol]
    if not sites:
        held = sorted({SYMBOLS[number - 1] for number in crystal.atomic_numbers.tolist()})
        raise UserError(f"there is no {symbol!r} in {crystal.formula}", remedy=f"its elements: {', '.join(held)}")
    for site in sites:
        lines[2 + 2 * site] = MASK
    return "\n".join(lines)


def training_example(
    crystal: Crystal, properties: Mapping[str, float], settings: PromptSettings, rng: np.random.Generator
) -> Example:
    """Return a random example of a crystal: task, conditions, translation and order of the atoms are drawn.

    Of the conditions that are known, formula included, a uniformly drawn number (up to ``max_conditions``) is named;
    every selection of that size is equally likely, so that a model learns to be asked for any of them alone.

    Args:
        crystal: the crystal.
        properties: the space group's number and the other properties by name (see ``CONDITIONS``); NaN or absent:
            not known.
        settings: how examples are drawn and worded.
        rng: the only source of randomness.

    Raises:
        CrystalTextError: the crystal cannot be written.
    """
    infill = bool(rng.random() < settings.infill_fraction)
    shown = _moved(crystal, settings, rng)
    if infill:
        present = np.unique(crystal.atomic_numbers)
        symbol = SYMBOLS[int(rng.choice(present)) - 1]
        return Example("infill", infill_prompt(mask_element(shown, symbol, settings)), symbol)
    known = _known_conditions(crystal, properties, settings)
    count = int(rng.integers(min(settings.max_conditions, len(known)) + 1))
    chosen = set(rng.permutation(len(known))[:count].tolist())
    asked = {name: value for place, (name, value) in enumerate(known.items()) if place in chosen}
    return Example("generate", _generation_prompt(asked), settings.text.write(shown))


def plain_example(crystal: Crystal, settings: PromptSettings) -> Example:
    """Return the example without anything random: no conditions, the atoms as they are.

    Raises:
        CrystalTextError: the crystal cannot be written.
    """
    return Example("generate", _generation_prompt({}), settings.text.write(crystal))


class CrystalExamples:
    """A source of examples for ``CrystalTextStore``.

    Args:
        crystals: (N,) crystals.
        properties: (N,) what is known of each, by name of the condition.
        settings: how they are worded, and how examples are drawn.
    """

    def __init__(
        self, crystals: Sequence[Crystal], properties: Sequence[Mapping[str, float]], settings: PromptSettings
    ) -> None:
        if len(crystals) != len(properties):
            raise ValueError(f"{len(crystals)} crystals, but properties of {len(properties)}")
        self._crystals = crystals
        self._properties = properties
        self._settings = settings

    def __len__(self) -> int:
        """Return how many crystals there are."""
        return len(self._crystals)

    def plain(self, row: int) -> Example:
        """Return the example without anything random; see ``plain_example``."""
        return plain_example(self._crystals[row], self._settings)

    def drawn(self, row: int, rng: np.random.Generator) -> Example:
        """Return a random example; see ``training_example``."""
        return training_example(self._crystals[row], self._properties[row], self._settings, rng)


def _require_version(version: object) -> None:
    if version != PROMPT_VERSION:
        raise UserError(
            f"the model was trained with prompts of version {version}, and these are of version {PROMPT_VERSION}",
            remedy="use the version of crystalfm with which it was trained",
        )


def _generation_prompt(conditions: Mapping[str, str | int | float]) -> str:
    """Return the prompt; a formula is already written as ``Crystal.formula`` writes it."""
    asked = [
        f"{LABELS[name][0]}{_worded(name, conditions[name])}{LABELS[name][1]}"
        for name in CONDITIONS
        if name in conditions
    ]
    return f"{OPENING}{''.join(asked)}{LAYOUT}"


def _worded(name: str, value: str | float) -> str:
    if name == "formula":
        return str(value)
    number = _number(name, value)
    if name == "spacegroup":
        if number != round(number) or not 1 <= number <= NUM_SPACE_GROUPS:
            raise UserError(f"spacegroup={value} is no space group", remedy=f"a number from 1 to {NUM_SPACE_GROUPS}")
        return str(round(number))
    if not abs(number) < _LARGEST_VALUE:
        raise UserError(f"{name}={value} is out of range", remedy="a value in eV")
    # Adding zero takes the sign from a rounded -0.
    return f"{round(number, _DECIMALS) + 0.0:.{_DECIMALS}f}"


def _number(name: str, value: str | float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r} is no number", remedy=f"{name}=NUMBER") from error


def _known_conditions(
    crystal: Crystal, properties: Mapping[str, float], settings: PromptSettings
) -> dict[str, str | int | float]:
    known: dict[str, str | int | float] = {}
    for name in CONDITIONS:
        if name not in settings.conditions:
            continue
        if name == "formula":
            known[name] = crystal.formula
        elif (value := properties.get(name)) is not None and isfinite(value):
            known[name] = value
    return known


def _moved(crystal: Crystal, settings: PromptSettings, rng: np.random.Generator) -> Crystal:
    """Return the crystal moved as a whole and with its atoms in another order, where the settings say so."""
    numbers, coords = crystal.atomic_numbers, crystal.frac_coords
    if settings.translate:
        coords = coords + rng.random(3)
    if settings.permute:
        order = rng.permutation(crystal.num_atoms)
        numbers, coords = numbers[order], coords[order]
    return replace(crystal, atomic_numbers=numbers, frac_coords=coords)
