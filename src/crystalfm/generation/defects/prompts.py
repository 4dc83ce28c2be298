"""What a language model is asked for defects: host, size of the supercell, allowed changes, properties.

Fixed sentences with values between them, as in ``generation.prompts``, with a version of their own that checkpoints
carry along with the hosts' unit cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.chem.crystals import SYMBOLS, Crystal
from crystalfm.chem.defects.hosts import ALIASES, Host, Supercell
from crystalfm.chem.defects.records import shared_supercell
from crystalfm.chem.defects.rules import DefectRule, require_elements
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KIND = "defects"
"""In a checkpoint, what tells these settings from those of crystals."""

PROMPT_VERSION = 1

LABELS = {
    "formation_energy_per_site": ("\nFormation energy of a defect: ", " eV"),
    "homo_lumo_gap": ("\nGap between the highest occupied and the lowest empty state: ", " eV"),
    "homo": ("\nHighest occupied state: ", " eV"),
    "lumo": ("\nLowest empty state: ", " eV"),
    "fermi_level": ("\nFermi level: ", " eV"),
    "energy_per_atom": ("\nEnergy of an atom: ", " eV"),
    "formation_energy": ("\nFormation energy of all defects: ", " eV"),
    "energy": ("\nEnergy of all atoms: ", " eV"),
    "total_mag": ("\nMagnetic moment: ", " Bohr magnetons"),
}
"""What stands before and after the value of a property."""

PROPERTIES = tuple(LABELS)
"""What can be asked of a configuration, in the order in which prompts name it."""

OPENING = "Point defects in a layer of "
SIZE = ", unit cells along its two edges: "
BY = " by "
RULES = "\nWhat may be done to a site: "
RULE_SEPARATOR = ", "
LAYOUTS = {
    "edits": "\nThe changed sites in order, each with its place in the unit cell, column, row, and what is there:\n",
    "full": "\nAll sites in order, each with what is there and its fractional coordinates:\n",
}
"""How a prompt ends, by format of the answer."""

SENTENCES = (
    OPENING,
    SIZE,
    BY,
    RULES,
    *LAYOUTS.values(),
    *dict.fromkeys(part for label in LABELS.values() for part in label),
)
"""Every fixed part of a prompt; what separates rules is too short to be one."""

MAX_CELLS = 99
"""Most unit cells along an edge."""

MIN_COORD_DIGITS, MAX_COORD_DIGITS = 1, 4

_DECIMALS = 4
_LARGEST_VALUE = 1e6


@dataclass(frozen=True, eq=False)
class DefectPromptSettings:
    """How prompts and answers about defects are worded, and how training draws them.

    Args:
        hosts: hosts that the data know, each with its unit cell and its usual size.
        rules: what is done to each host's sites in the data, by the host's name.
        answer: ``edits``: the changed sites alone. ``full``: every site again, with its coordinates.
        properties: what prompts may ask for.
        max_properties: most properties of a training prompt; their number is drawn uniformly from 0 to this.
        move: put a random symmetry operation of the layer on each training example.
        coord_digits: decimals of fractional coordinates in full answers.
        version: version of the wording.

    Raises:
        UserError: a setting is out of range, or the version is not this one's.
    """

    hosts: tuple[Host, ...]
    rules: Mapping[str, tuple[DefectRule, ...]]
    answer: Literal["edits", "full"] = "edits"
    properties: tuple[str, ...] = PROPERTIES
    max_properties: int = 4
    move: bool = True
    coord_digits: int = 2
    version: int = field(default=PROMPT_VERSION)

    def __post_init__(self) -> None:
        _require_version(self.version)
        if self.answer not in LAYOUTS:
            raise UserError(f"answer={self.answer} is unknown", remedy=f"answer={' or answer='.join(LAYOUTS)}")
        unknown = sorted(set(self.properties) - set(PROPERTIES))
        if unknown or len(set(self.properties)) < len(self.properties):
            raise UserError(
                f"{', '.join(self.properties)} are not distinct properties",
                remedy=f"a selection of {', '.join(PROPERTIES)}",
            )
        if self.max_properties < 0:
            raise UserError(f"max_properties={self.max_properties} is negative", remedy="0 or more")
        if not MIN_COORD_DIGITS <= self.coord_digits <= MAX_COORD_DIGITS:
            raise UserError(
                f"coord_digits={self.coord_digits} is out of range",
                remedy=f"coord_digits={MIN_COORD_DIGITS} to {MAX_COORD_DIGITS}",
            )
        names = [host.name for host in self.hosts]
        if not names or len(set(names)) < len(names) or set(names) != set(self.rules):
            raise UserError("hosts and rules do not belong together", remedy="one or more hosts, each with its rules")
        for host in self.hosts:
            require_elements(self.rules[host.name], host.name, host.elements)

    @cached_property
    def _by_name(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    def host(self, name: str) -> Host:
        """Return a host by its name or one of its other names.

        Raises:
            UserError: the model does not know it.
        """
        found = self._by_name.get(name) or self._by_name.get(ALIASES.get(name, name))
        if found is None:
            raise UserError(f"the model does not know the host {name!r}", remedy=f"it knows {', '.join(self._by_name)}")
        return found

    def supercell(self, host: str, size: Sequence[int] | None = None) -> Supercell:
        """Return a supercell of a host; the same object each time.

        Args:
            host: name.
            size: unit cells along the three lattice vectors; None for the host's usual size in the data.

        Raises:
            UserError: the model does not know the host, or the size is no layer's.
        """
        known = self.host(host)
        wanted = known.default_size if size is None else tuple(int(number) for number in size)
        layer = len(wanted) == len(known.default_size) and wanted[-1] == 1
        if not layer or not 1 <= min(wanted) <= max(wanted) <= MAX_CELLS:
            raise UserError(
                f"size={list(wanted)} is no supercell of a layer",
                remedy=f"size=[{','.join(map(str, known.default_size))}]; up to {MAX_CELLS} cells along an edge",
            )
        return shared_supercell(known.name, known.cell.to_json(), (wanted[0], wanted[1], wanted[2]))

    def rules_of(self, host: str) -> tuple[DefectRule, ...]:
        """Return what is done to a host's sites in the data.

        Raises:
            UserError: the model does not know the host.
        """
        return self.rules[self.host(host).name]

    def state(self) -> dict[str, Any]:
        """Return the settings as plain containers, for a checkpoint."""
        return {
            "kind": KIND,
            "hosts": [
                {
                    "name": host.name,
                    "cell": host.cell.to_json(),
                    "size": list(host.default_size),
                    "rules": [rule.name for rule in self.rules[host.name]],
                }
                for host in self.hosts
            ],
            "answer": self.answer,
            "properties": list(self.properties),
            "max_properties": self.max_properties,
            "move": self.move,
            "coord_digits": self.coord_digits,
            "version": self.version,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> DefectPromptSettings:
        """Return the settings that ``state`` describes.

        Raises:
            UserError: the wording is of another version, or a setting is unknown, missing or out of range.
        """
        _require_version(state.get("version"))
        names = {
            "kind", "hosts", "answer", "properties", "max_properties", "move", "coord_digits", "version",
        }  # fmt: skip
        if set(state) != names:
            raise UserError(
                f"prompts have the settings {', '.join(sorted(map(str, state)))}",
                remedy=f"expected: {', '.join(sorted(names))}",
            )
        hosts = [
            Host(item["name"], Crystal.from_json(item["cell"]), (item["size"][0], item["size"][1], item["size"][2]))
            for item in state["hosts"]
        ]
        return cls(
            hosts=tuple(hosts),
            rules={item["name"]: tuple(map(DefectRule.parse, item["rules"])) for item in state["hosts"]},
            answer=state["answer"],
            properties=tuple(state["properties"]),
            max_properties=state["max_properties"],
            move=state["move"],
            coord_digits=state["coord_digits"],
            version=state["version"],
        )


def defect_prompt(
    supercell: Supercell,
    rules: Iterable[DefectRule],
    conditions: Mapping[str, float],
    settings: DefectPromptSettings,
) -> str:
    """Return the prompt that asks for defects.

    Args:
        supercell: the pristine supercell.
        rules: what may be done to its sites; prompts name them sorted, each once.
        conditions: values of properties by name (see ``PROPERTIES``), in any order; empty for any configuration.
        settings: what the model was trained with.

    Raises:
        UserError: a property is unknown, its value makes no sense, or the host lacks an element of a rule.
    """
    unknown = sorted(set(conditions) - set(settings.properties))
    if unknown:
        raise UserError(
            f"the model was not trained with the property {', '.join(unknown)}",
            remedy=f"it knows {', '.join(settings.properties) or 'none'}",
        )
    named = sorted(set(rules))
    if not named:
        raise UserError("there is no defect rule", remedy="rules=[v_S,Se_S,W_Mo]")
    require_elements(named, supercell.host.name, supercell.host.elements)
    asked = [
        f"{LABELS[name][0]}{_worded(name, conditions[name])}{LABELS[name][1]}"
        for name in PROPERTIES
        if name in conditions
    ]
    size = BY.join(map(str, supercell.size[:2]))
    allowed = RULE_SEPARATOR.join(rule.name for rule in named)
    return f"{OPENING}{supercell.host.name}{SIZE}{size}{RULES}{allowed}{''.join(asked)}{LAYOUTS[settings.answer]}"


def example_prompt(settings: DefectPromptSettings) -> str:
    """Return the prompt for any configuration of the first host."""
    host = settings.hosts[0].name
    return defect_prompt(settings.supercell(host), settings.rules_of(host), {}, settings)


def sublattices(host: Host) -> tuple[str, ...]:
    """Return a name for each atom of a host's unit cell: its element and which of them it is, as ``S2``."""
    symbols = [SYMBOLS[number - 1] for number in host.cell.atomic_numbers.tolist()]
    return tuple(f"{symbol}{symbols[: place + 1].count(symbol)}" for place, symbol in enumerate(symbols))


def _require_version(version: object) -> None:
    if version != PROMPT_VERSION:
        raise UserError(
            f"the model was trained with prompts of version {version}, and these are of version {PROMPT_VERSION}",
            remedy="use the version of crystalfm with which it was trained",
        )


def _worded(name: str, value: float) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r} is no number", remedy=f"{name}=NUMBER") from error
    if not abs(number) < _LARGEST_VALUE:
        raise UserError(f"{name}={value} is out of range", remedy="a value in eV")
    # Adding zero takes the sign from a rounded -0.
    return f"{round(number, _DECIMALS) + 0.0:.{_DECIMALS}f}"
