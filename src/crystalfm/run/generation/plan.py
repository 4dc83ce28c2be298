"""What a generation asks of the model, and how its answers become crystals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.crystal_text import CrystalTextError, TextProblem
from crystalfm.chem.crystals import SYMBOLS, Crystal, CrystalError, checked
from crystalfm.chem.formulas import formula_counts
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.prompts import generation_prompt, infill_prompt, mask_element
from crystalfm.generation.sampling import Request, Sample, SamplingSettings
from crystalfm.metrics.crystals.validity import Validity, is_compositionally_valid, is_structurally_valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from omegaconf import DictConfig

    from crystalfm.generation.prompts import PromptSettings

CUT_OFF = "cut off at max_new_tokens"
"""Problem of a sample that did not come to its end."""

_INVALID = Validity(structural=False, compositional=False)


@dataclass(frozen=True, eq=False)
class Gap:
    """A crystal with a hidden element.

    Attributes:
        crystal: the crystal with the element that was there.
        sites: (K,) places of the hidden atoms.
        file: where it was read.
        element: symbol of the hidden element.
    """

    crystal: Crystal
    sites: Any
    file: str
    element: str

    def filled(self, symbol: str) -> Crystal:
        """Return the crystal with another element at the hidden places."""
        numbers = self.crystal.atomic_numbers.copy()
        numbers[self.sites] = SYMBOLS.index(symbol) + 1
        return replace(self.crystal, atomic_numbers=numbers)


@dataclass(frozen=True)
class JudgedSample:
    """A sample and what it is worth.

    Attributes:
        sample: what the model wrote.
        crystal: the crystal, ``None`` where the text is none.
        problem: kind of what is wrong with text or structure; empty where nothing is.
        detail: the same with the place.
        validity: structural and compositional.
    """

    sample: Sample
    crystal: Crystal | None
    problem: str
    detail: str
    validity: Validity

    @property
    def good(self) -> bool:
        """Whether it is valid."""
        return self.validity.valid


@dataclass(frozen=True, eq=False)
class Plan:
    """The same question, as often as samples are wanted.

    Attributes:
        prompts: how crystals are worded.
        task: whether crystals or hidden elements are asked for.
        prompt: the question.
        constraint: what answers have to fulfil.
        conditions: what is asked of the crystals, by name.
        gap: the crystal with the hidden element.
    """

    prompts: PromptSettings
    task: Literal["generate", "infill"]
    prompt: str
    constraint: Constraint
    conditions: dict[str, str | int | float] = field(default_factory=dict)
    gap: Gap | None = None

    def requests(self, indices: Iterable[int]) -> Iterator[Request]:
        """Yield a request for each index."""
        for index in indices:
            yield Request(index, self.prompt, self.task, self.constraint)

    def judge(self, sample: Sample) -> JudgedSample:
        """Read a sample and say whether it is valid."""
        if not sample.finished:
            return JudgedSample(sample, None, CUT_OFF, CUT_OFF, _INVALID)
        try:
            crystal = self._crystal(sample.text)
        except CrystalTextError as error:
            return JudgedSample(sample, None, str(error.problem), str(error), _INVALID)
        valid = Validity(is_structurally_valid(crystal), is_compositionally_valid(crystal))
        problem = "" if valid.structural else _structural_problem(crystal)
        return JudgedSample(sample, crystal, problem.partition(":")[0], problem, valid)

    def identity(self) -> dict[str, Any]:
        """Return what decides the question, as plain containers."""
        hidden = None
        if self.gap is not None:
            hidden = {"element": self.gap.element, "crystal": self.gap.crystal.to_json()}
        return {
            "prompts": self.prompts.state(),
            "task": self.task,
            "condition": dict(self.conditions),
            "infill": hidden,
            "constraint": {
                "kind": self.constraint.kind,
                "formula": None if self.constraint.formula is None else dict(self.constraint.formula),
                "elements": None if self.constraint.elements is None else sorted(self.constraint.elements),
                "max_atoms": self.constraint.max_atoms,
                "min_distance": self.constraint.min_distance,
            },
        }

    def _crystal(self, text: str) -> Crystal:
        if self.gap is None:
            return self.prompts.text.read(text)
        if text not in SYMBOLS:
            raise CrystalTextError(TextProblem.ELEMENT, 1, text)
        return self.gap.filled(text)


def make_plan(cfg: DictConfig, prompts: PromptSettings) -> Plan:
    """Return what the configuration asks for.

    Raises:
        UserError: a condition makes no sense or was not trained, the constraint cannot be kept, or the crystal with
            the hidden element cannot be read or does not hold it.
    """
    asked = {str(name): value for name, value in cfg.condition.items() if value is not None}
    elements = None if cfg.elements is None else frozenset(str(symbol) for symbol in cfg.elements)
    if cfg.infill.structure is not None:
        kind: Literal["none", "parse", "formula"] = "parse" if cfg.constraint == "auto" else cfg.constraint
        gap = _read_gap(Path(cfg.infill.structure), str(cfg.infill.element))
        prompt = infill_prompt(mask_element(gap.crystal, gap.element, prompts))
        return Plan(prompts, "infill", prompt, Constraint(kind, None, elements, cfg.max_atoms), {}, gap)
    formula = formula_counts(str(asked["formula"])) if "formula" in asked else None
    automatic: Literal["parse", "formula"] = "parse" if formula is None else "formula"
    kind = automatic if cfg.constraint == "auto" else cfg.constraint
    constraint = Constraint(kind, formula if kind == "formula" else None, elements, cfg.max_atoms, cfg.min_distance)
    return Plan(prompts, "generate", generation_prompt(asked, prompts), constraint, asked)


def sampling_settings(cfg: DictConfig) -> SamplingSettings:
    """Return how tokens are drawn.

    Raises:
        UserError: a setting is out of range.
    """
    return SamplingSettings(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        top_k=cfg.top_k,
        max_new_tokens=cfg.max_new_tokens,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
    )


def _read_gap(file: Path, element: str) -> Gap:
    try:
        crystal = read_crystal_file(file.expanduser())
    except CrystalError as error:
        raise UserError(
            f"infill.structure={file}: {error}", remedy="give a CIF, POSCAR, extxyz or JSON file"
        ) from error
    sites = np.flatnonzero([SYMBOLS[number - 1] == element for number in crystal.atomic_numbers.tolist()])
    return Gap(crystal, sites, str(file), element)


def _structural_problem(crystal: Crystal) -> str:
    """Say why a crystal is not valid in its structure."""
    try:
        checked(crystal)
    except CrystalError as error:
        return error.reason
    return "overlapping atoms"
