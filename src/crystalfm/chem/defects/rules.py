"""What may be done to a site of a host: take its atom away, or put another element there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VACANCY = "v"
"""In a rule's name, the vacancy: lower-case, for V is vanadium."""

_NAME = re.compile(r"(v|[A-Z][a-z]?)_([A-Z][a-z]?)")


@dataclass(frozen=True, order=True)
class DefectRule:
    """One kind of point defect.

    Attributes:
        removed: symbol of the element whose site it takes.
        added: symbol of the element that comes there; empty for a vacancy.

    Raises:
        UserError: a symbol is none, or an element would replace itself.
    """

    removed: str
    added: str = ""

    def __post_init__(self) -> None:
        for symbol in (self.removed, *([self.added] if self.added else [])):
            if symbol not in SYMBOLS:
                raise UserError(f"{symbol!r} in a defect rule is no element", remedy="v_S, Se_S, W_Mo")
        if self.added == self.removed:
            raise UserError(f"a defect cannot put {self.added} where {self.removed} is", remedy="v_S, Se_S, W_Mo")

    @property
    def name(self) -> str:
        """Name in the manner of Kröger and Vink: what is there, and whose site it is."""
        return f"{self.added or VACANCY}_{self.removed}"

    @property
    def number(self) -> int:
        """Atomic number of what is there; 0 for a vacancy."""
        return SYMBOLS.index(self.added) + 1 if self.added else 0

    @classmethod
    def parse(cls, name: str) -> DefectRule:
        """Read ``v_S`` or ``Se_S``.

        Raises:
            UserError: it is no such name.
        """
        found = _NAME.fullmatch(name.strip())
        if found is None:
            raise UserError(
                f"{name!r} is no defect rule", remedy="v_S for a vacancy of sulfur, Se_S for selenium in its place"
            )
        return cls(found[2], "" if found[1] == VACANCY else found[1])

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DefectRule:
        """Read a defect of 2DMD's ``descriptors.csv``: ``type``, then ``element`` or ``from`` and ``to``.

        Raises:
            UserError: it is no such record.
        """
        kind = record.get("type")
        if kind == "vacancy" and set(record) == {"type", "element"}:
            return cls(str(record["element"]))
        if kind == "substitution" and set(record) == {"type", "from", "to"}:
            return cls(str(record["from"]), str(record["to"]))
        raise UserError(f"{dict(record)} is no defect", remedy="a type, then element, or from and to")


def parse_rules(names: Iterable[str]) -> tuple[DefectRule, ...]:
    """Read distinct rules, in their order.

    Raises:
        UserError: one cannot be read, comes twice, or there is none.
    """
    rules = tuple(DefectRule.parse(name) for name in names)
    twice = sorted(rule.name for rule, count in Counter(rules).items() if count > 1)
    if twice or not rules:
        raise UserError(
            f"the rule {', '.join(twice)} is given twice" if twice else "there is no defect rule",
            remedy="rules=[v_S,Se_S,W_Mo]",
        )
    return rules


def type_name(rules: Iterable[DefectRule]) -> str:
    """Return the name of a combination of defects: ``W_Mo + 2 Se_S``; ``pristine`` for none."""
    counts = Counter(rules)
    parts = [f"{count} {rule.name}" if count > 1 else rule.name for rule, count in sorted(counts.items())]
    return " + ".join(parts) or "pristine"


def require_elements(rules: Sequence[DefectRule], host: str, elements: Iterable[str]) -> None:
    """Refuse rules that take atoms that a host does not have.

    Raises:
        UserError: one does; the message names the host's elements.
    """
    present = sorted(set(elements))
    missing = [rule.name for rule in rules if rule.removed not in present]
    if missing:
        raise UserError(
            f"the rule {', '.join(missing)} takes an element that {host} does not have",
            remedy=f"rules for {', '.join(present)}: v_{present[0]}, or another element in its place",
        )
