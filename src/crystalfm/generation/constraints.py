"""What a completion has to fulfil."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, inf
from typing import TYPE_CHECKING, Literal

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MAX_ATOMS = 20

Task = Literal["generate", "infill", "defects"]
"""What is asked for: a crystal, the element hidden in one, or the defects of a host."""


@dataclass(frozen=True)
class Constraint:
    """What a completion has to fulfil.

    Args:
        kind: ``none``: the model writes what it will. ``parse``: every completion can be read, and its cell has a
            volume. ``formula``: the composition is a whole multiple of ``formula``, too.
        formula: atoms of each element, for the kind ``formula``; reduced by their common divisor.
        elements: symbols that may be written (also as the answer of an infilling request); None for all.
        max_atoms: most atoms of a cell.
        min_distance: each atom's distance in angstrom from those before it, their images included, is at least this
            as far as its last coordinate can make it so; None for any distance. Without bearing on the kind ``none``.

    Raises:
        UserError: formula and kind do not go together, an element is unknown or not among the allowed ones, the
            formula has more atoms than a cell may have, or a number is out of range.
    """

    kind: Literal["none", "parse", "formula"] = "parse"
    formula: Mapping[str, int] | None = None
    elements: frozenset[str] | None = None
    max_atoms: int = DEFAULT_MAX_ATOMS
    min_distance: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in {"none", "parse", "formula"}:
            raise UserError(f"constraint={self.kind} is unknown", remedy="constraint=none, parse or formula")
        if self.max_atoms < 1:
            raise UserError(f"max_atoms={self.max_atoms} leaves no atom", remedy="max_atoms=1 or more")
        if self.min_distance is not None and not 0.0 <= self.min_distance < inf:
            raise UserError(
                f"min_distance={self.min_distance} is out of range", remedy="min_distance=0.5, or null for any"
            )
        if self.elements is not None:
            _require_elements(self.elements)
        if self.kind == "formula":
            self._check_formula()

    @property
    def expected_size(self) -> int:
        """Measure of the length of a completion, to begin long ones first: the atoms of the formula asked for."""
        return sum(self.reduced_formula.values())

    @property
    def reduced_formula(self) -> dict[str, int]:
        """Atoms of each element in the reduced formula; empty without one."""
        counts = dict(self.formula or {})
        divisor = gcd(*counts.values()) or 1
        return {symbol: count // divisor for symbol, count in counts.items()}

    def _check_formula(self) -> None:
        if not self.formula or min(self.formula.values()) < 1:
            raise UserError("constraint=formula needs a formula", remedy="name one, or constraint=parse")
        _require_elements(frozenset(self.formula))
        outside = set(self.formula) - (self.elements or set(self.formula))
        if outside:
            raise UserError(
                f"the formula holds {', '.join(sorted(outside))}, which the allowed elements leave out",
                remedy="allow all elements of the formula",
            )
        atoms = sum(self.reduced_formula.values())
        if atoms > self.max_atoms:
            raise UserError(f"the formula has {atoms} atoms, max_atoms={self.max_atoms}", remedy=f"max_atoms={atoms}")


def _require_elements(symbols: frozenset[str]) -> None:
    unknown = sorted(symbols - set(SYMBOLS))
    if unknown or not symbols:
        raise UserError(
            f"{', '.join(unknown)}: unknown elements" if unknown else "no element is allowed",
            remedy="symbols like Na",
        )
