"""What a design asks of a model: host, rules and properties; and how its answers become configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalfm.chem.defects.rules import parse_rules, require_elements
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.defects.answers import DefectTextError, read_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.prompts import PROPERTIES, defect_prompt
from crystalfm.generation.sampling import Request, Sample
from crystalfm.metrics.defects import rules_kept
from crystalfm.run.generation.plan import CUT_OFF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from omegaconf import DictConfig

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule
    from crystalfm.generation.defects.prompts import DefectPromptSettings

RULES_BROKEN = "a defect that the rules do not allow"
NUMBER_BROKEN = "not the number of defects asked for"
HOST = "host"


@dataclass(frozen=True)
class JudgedConfiguration:
    """A sample and what it is worth.

    Attributes:
        sample: what the model wrote.
        configuration: the defects, ``None`` where the text is none of the supercell.
        problem: kind of what is wrong with it; empty where nothing is.
        detail: the same with the place.
    """

    sample: Sample
    configuration: Configuration | None
    problem: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether it is a configuration that keeps the rules."""
        return not self.problem


@dataclass(frozen=True, eq=False)
class DesignPlan:
    """The same question, or a few in turn, as often as samples are wanted.

    Attributes:
        settings: how prompts and answers are worded.
        supercell: the pristine supercell.
        rules: what may be done to its sites.
        targets: values asked for by property, one mapping a question; at least one, which may be empty.
        min_defects: fewest defects.
        max_defects: most defects.
        constrained: whether the grammar holds the model to all this.
    """

    settings: DefectPromptSettings
    supercell: Supercell
    rules: tuple[DefectRule, ...]
    targets: tuple[Mapping[str, float], ...]
    min_defects: int
    max_defects: int
    constrained: bool = True

    @property
    def properties(self) -> tuple[str, ...]:
        """Properties that are asked for."""
        return tuple(self.targets[0])

    @property
    def constraint(self) -> DefectConstraint | Constraint:
        """What answers have to fulfil."""
        if not self.constrained:
            return Constraint("none")
        return DefectConstraint(self.supercell, self.rules, self.min_defects, self.max_defects)

    def target(self, index: int) -> Mapping[str, float]:
        """Return what the sample of a number is asked for."""
        return self.targets[index % len(self.targets)]

    def prompt(self, index: int) -> str:
        """Return the question of the sample of a number."""
        return defect_prompt(self.supercell, self.rules, self.target(index), self.settings)

    def requests(self, indices: Iterable[int]) -> Iterator[Request]:
        """Yield a request for each index."""
        constraint = self.constraint
        for index in indices:
            yield Request(index, self.prompt(index), "defects", constraint)

    def judge(self, sample: Sample) -> JudgedConfiguration:
        """Read a sample and say whether it keeps the rules."""
        if not sample.finished:
            return JudgedConfiguration(sample, None, CUT_OFF, CUT_OFF)
        try:
            found = read_answer(sample.text, self.supercell, self.settings)
        except DefectTextError as error:
            return JudgedConfiguration(sample, None, str(error.problem), str(error))
        if not rules_kept(found, self.supercell, self.rules, min_defects=0):
            return JudgedConfiguration(sample, found, RULES_BROKEN, found.type_name(self.supercell))
        if not self.min_defects <= len(found) <= self.max_defects:
            return JudgedConfiguration(sample, found, NUMBER_BROKEN, f"{len(found)} defects")
        return JudgedConfiguration(sample, found, "", "")

    def identity(self) -> dict[str, Any]:
        """Return what decides the questions, as plain containers."""
        return {
            "prompts": self.settings.state(),
            "task": "defects",
            "host": self.supercell.host.name,
            "size": list(self.supercell.size),
            "rules": [rule.name for rule in self.rules],
            "condition": [dict(target) for target in self.targets],
            "constraint": {
                "kind": "defects" if self.constrained else "none",
                "min_defects": self.min_defects,
                "max_defects": self.max_defects,
            },
        }


def make_design_plan(cfg: DictConfig, settings: DefectPromptSettings) -> DesignPlan:
    """Return what the configuration asks for.

    Raises:
        UserError: the model does not know the host or a property, a rule names an element that the host lacks, the
            supercell is too small, or something is asked for that only crystals have.
    """
    _refuse_crystal_settings(cfg)
    asked = {str(name): value for name, value in cfg.condition.items() if value is not None}
    host = _host_of(asked.pop(HOST, None), settings)
    supercell = settings.supercell(host, None if cfg.size is None else tuple(cfg.size))
    rules = settings.rules_of(host) if cfg.rules is None else parse_rules(str(name) for name in cfg.rules)
    require_elements(rules, supercell.host.name, supercell.host.elements)
    plan = DesignPlan(
        settings, supercell, rules, _targets(asked), cfg.min_defects, cfg.max_defects, cfg.constraint != "none"
    )
    _require_room(plan)
    for index in range(len(plan.targets)):
        plan.prompt(index)  # says what cannot be asked before anything is written
    return plan


def _refuse_crystal_settings(cfg: DictConfig) -> None:
    """Refuse what is not asked of defects.

    Raises:
        UserError: names the key and what fits.
    """
    for key in ("elements", "min_distance"):
        if cfg[key] is not None:
            raise UserError(f"{key}={cfg[key]}: the model writes defects of a given host", remedy="rules=[v_S,Se_S]")
    if cfg.infill.structure is not None:
        raise UserError("infill: the model writes defects of a given host", remedy="condition.host=..., rules=[...]")
    if cfg.constraint == "formula":
        raise UserError("constraint=formula: the model writes defects of a given host", remedy="constraint=auto")


def _host_of(asked: str | None, settings: DefectPromptSettings) -> str:
    if asked is not None:
        return str(asked)
    names = [host.name for host in settings.hosts]
    if len(names) > 1:
        raise UserError(
            f"the model knows {len(names)} hosts: {', '.join(names)}", remedy=f"say which: condition.host={names[0]}"
        )
    return names[0]


def _targets(asked: Mapping[str, Any]) -> tuple[dict[str, float], ...]:
    """Return what each question asks for; a single value goes with every one of a list."""
    lists = {name: _values(name, value) for name, value in asked.items()}
    lengths = {name: len(values) for name, values in lists.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"condition.{name} {length}" for name, length in lengths.items())
        raise UserError(f"lists of values go together one by one: {counted}", remedy="give lists of one length")
    count = max(lengths.values(), default=1)
    # In the order of the prompts, whatever the command line's.
    names = sorted(lists, key=lambda name: (PROPERTIES.index(name) if name in PROPERTIES else len(PROPERTIES), name))
    return tuple({name: lists[name][place if len(lists[name]) > 1 else 0] for name in names} for place in range(count))


def _values(name: str, value: Any) -> list[Any]:
    if not isinstance(value, str) and hasattr(value, "__len__"):
        if not len(value):
            raise UserError(f"condition.{name}=[] asks for nothing", remedy=f"condition.{name}=NUMBER")
        return list(value)
    return [value]


def _require_room(plan: DesignPlan) -> None:
    """Refuse supercells without enough sites for the defects.

    Raises:
        UserError: names the size that has enough.
    """
    supercell = plan.supercell
    removed = {rule.removed for rule in plan.rules}
    sites = sum(len(supercell.sites_of(symbol)) for symbol in removed)
    if sites < plan.max_defects:
        per_cell = sites / (supercell.size[0] * supercell.size[1])
        edge = 1
        while edge * edge * per_cell < plan.max_defects:
            edge += 1
        raise UserError(
            f"{supercell.host.name} {_listed(supercell.size)} has {sites} sites that the rules name, and"
            f" max_defects={plan.max_defects} are more",
            remedy=f"size=[{edge},{edge},1] or larger, or max_defects={sites}",
        )


def _listed(size: Sequence[int]) -> str:
    return f"[{','.join(map(str, size))}]"
