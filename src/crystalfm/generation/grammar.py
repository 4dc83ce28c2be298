"""Which tokens may follow while a crystal is written, so that every completion can be read.

A language that counts a formula's atoms and compares three angles is not context-free, which is why this is a state
machine of its own. It walks over the pieces of ``token_tries``: what it lets through is spelled in the tokens that the
tokenizer itself would write, as in training. From every state there is a way to the end within the tokens and atoms
that are left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.spacing import SiteSpacing
from crystalfm.generation.token_tries import NUM_WHOLE_ANGLES, CrystalPieces, Piece, crystal_pieces
from crystalfm.generation.writing import FreeState, Next, PieceGrammar, PieceState, WritingState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crystalfm.chem.crystal_text import CrystalTextFormat
    from crystalfm.generation.constraints import Task
    from crystalfm.generation.defects.constraints import AnyConstraint

__all__ = ["AnswerState", "Constraint", "CrystalGrammar", "CrystalState", "FreeState", "PieceState", "WritingState"]

_HALF_TURN = NUM_WHOLE_ANGLES
_PLACES = {symbol: 1 << place for place, symbol in enumerate(SYMBOLS)}
"""Bits of the elements."""


class AnswerState(PieceState["CrystalGrammar"]):
    """An element's symbol, the answer of an infilling request."""

    def _after(self, value: int) -> Next:  # noqa: ARG002
        return Next(None, 0, may_end=True)

    def _complete(self, value: int) -> None:
        """Nothing depends on it."""


class CrystalState(PieceState["CrystalGrammar"]):
    """A crystal.

    Args:
        grammar: its grammar.
        constraint: what it has to fulfil.
        max_new_tokens: most tokens, the end included.

    Attributes:
        num_crowded: atoms for which no last coordinate was as far from the others as the constraint wants it.
    """

    def __init__(self, grammar: CrystalGrammar, constraint: Constraint, max_new_tokens: int) -> None:
        super().__init__(grammar, Next(grammar.cell[0].piece, grammar.cell_values(()), may_end=False))
        self._numbers: tuple[int, ...] = ()
        self._stage = 0
        self._counts: Counter[str] = Counter()
        self._num_atoms = 0
        self._max_atoms = constraint.max_atoms
        self._min_distance = constraint.min_distance
        self._spacing: SiteSpacing | None = None
        self._coords: list[list[int]] = []
        self.num_crowded = 0
        self._elements = grammar.element_values(constraint)
        self._last_site = max_new_tokens - grammar.site_tokens(self._elements) - 1
        self._ratio = constraint.reduced_formula if constraint.kind == "formula" else {}
        if self._ratio:
            atoms = sum(self._ratio.values())
            within = (max_new_tokens - 1 - grammar.cell_tokens) // (grammar.site_tokens(self._elements) * atoms)
            units = min(self._max_atoms // atoms, within)
            self._most = {symbol: units * count for symbol, count in self._ratio.items()}
            self._max_atoms = units * atoms

    @property
    def num_atoms(self) -> int:
        """Atoms that are complete."""
        return self._num_atoms

    def _after(self, value: int) -> Next:
        grammar = self.grammar
        place = len(self._numbers) + 1
        if self._stage == 0 and place < len(grammar.cell):
            return Next(grammar.cell[place].piece, grammar.cell_values((*self._numbers, value)), may_end=False)
        if self._stage == 0:
            return Next(grammar.pieces.element, self._open_elements(), may_end=False)
        if self._stage <= len(grammar.pieces.coords):
            coord = grammar.pieces.coords[self._stage - 1]
            last = self._stage == len(grammar.pieces.coords)
            return Next(coord, self._last_values(value) if last else coord.all_values, may_end=False)
        full = self._num_atoms + 1 >= self._max_atoms or (not self._ratio and self.num_tokens > self._last_site)
        return Next(grammar.pieces.element, 0 if full else self._open_elements(), may_end=self._is_whole())

    def _complete(self, value: int) -> None:
        if self._stage == 0 and len(self._numbers) < len(self.grammar.cell):
            self._numbers = (*self._numbers, value)
            self._stage = int(len(self._numbers) == len(self.grammar.cell))
            return
        if self._stage == 1:
            self._counts[SYMBOLS[value]] += 1
            self._coords.append([])
        else:
            self._coords[-1].append(value)
        self._stage += 1
        if self._stage > len(self.grammar.pieces.coords) + 1:
            self._stage = 1
            self._num_atoms += 1

    def _last_values(self, second: int) -> int:
        """Return bits of the values that an atom's last coordinate may have once its second is complete."""
        coord = self.grammar.pieces.coords[-1]
        if self._min_distance is None:
            return coord.all_values
        if self._spacing is None:
            lattice = self.grammar.text_format.read_cell(self.text.split("\n"))
            self._spacing = SiteSpacing(lattice, self._min_distance, len(coord.texts))
        *before, (first,) = self._coords
        values, found = self._spacing.allowed(before, first, second)
        self.num_crowded += not found
        return values

    def _open_elements(self) -> int:
        """Return bits of the elements of which another atom may be written."""
        if not self._ratio:
            return self._elements
        return sum(_PLACES[name] for name, most in self._most.items() if self._counts[name] < most)

    def _is_whole(self) -> bool:
        """Return whether the composition is a whole multiple of the formula."""
        if not self._ratio:
            return True
        units = {divmod(self._counts[name], count) for name, count in self._ratio.items()}
        return len(units) == 1 and next(iter(units))[1] == 0


@dataclass(frozen=True)
class CellPiece:
    """A piece of the cell's two lines.

    Attributes:
        kind: whether it belongs to a length or an angle.
        axis: which of the three, 0 to 2.
        part: ``both`` where the number is one piece, else its whole digits or its decimals.
        piece: the piece.
    """

    kind: Literal["length", "angle"]
    axis: int
    part: Literal["both", "whole", "decimals"]
    piece: Piece


class CrystalGrammar(PieceGrammar):
    """The grammar of crystals' texts for one tokenizer.

    Args:
        tokenizer: fast tokenizer of transformers.
        text_format: how crystals are written.

    Attributes:
        text_format: how crystals are written.
        pieces: what the texts are made of.
        cell: the pieces of the cell, in the order in which they are written.
        cell_tokens: most tokens of a cell.

    Raises:
        UserError: the tokenizer joins what the grammar has to keep apart.
    """

    def __init__(self, tokenizer: Any, text_format: CrystalTextFormat) -> None:
        self.text_format = text_format
        self.pieces: CrystalPieces = crystal_pieces(tokenizer, text_format)
        self._angle_scale = 10**text_format.angle_digits
        self.cell: tuple[CellPiece, ...] = tuple(self._cell_pieces())
        self.cell_tokens = sum(part.piece.most_tokens for part in self.cell)
        super().__init__(self.pieces.end, self._all_pieces())
        element, coords = self.pieces.element, self.pieces.coords
        sequence = [*(part.piece for part in self.cell), element, *coords, element]
        self.require_one_reading([*pairwise(sequence), (self.pieces.answer, None)])

    def start(self, task: Task, constraint: AnyConstraint, max_new_tokens: int) -> WritingState:
        """Return an empty completion.

        Args:
            task: whether a crystal or an element's symbol is written.
            constraint: what it has to fulfil.
            max_new_tokens: most tokens, the end included.

        Raises:
            UserError: the tokens do not suffice for the smallest completion, an element cannot be written, or defects
                are asked for.
        """
        if isinstance(constraint, DefectConstraint) or task == "defects":
            raise UserError("this model writes crystals, not defects", remedy="give a run trained on data=2dmd")
        if constraint.kind == "none":
            return FreeState(self.end)
        if task == "infill":
            values = self._written(constraint.elements, self.pieces.answer)
            self.require_room(max_new_tokens, self.pieces.answer.most_tokens + 1)
            return AnswerState(self, Next(self.pieces.answer, values, may_end=False))
        elements = self.element_values(constraint)
        atoms = sum(constraint.reduced_formula.values()) if constraint.kind == "formula" else 1
        self.require_room(max_new_tokens, self.cell_tokens + atoms * self.site_tokens(elements) + 1)
        return CrystalState(self, constraint, max_new_tokens)

    def element_values(self, constraint: Constraint) -> int:
        """Return bits of the elements that may be written.

        Raises:
            UserError: the tokenizer cannot write one that is asked for.
        """
        symbols = constraint.formula if constraint.kind == "formula" else constraint.elements
        return self._written(frozenset(symbols) if symbols is not None else None, self.pieces.element)

    def site_tokens(self, elements: int) -> int:
        """Return the most tokens of a site of one of these elements."""
        written = [tokens for value, tokens in enumerate(self.pieces.element.tokens) if elements >> value & 1]
        return max(map(len, written)) + sum(coord.most_tokens for coord in self.pieces.coords)

    def cell_values(self, before: tuple[int, ...]) -> int:
        """Return bits of the allowed values of the cell's next piece.

        Lengths are 1 angstrom at least, angles 1 degree. An angle is allowed if others can still make a cell with it:
        each angle is smaller than the sum of the other two, and all together are smaller than a full turn.

        Args:
            before: values of the pieces before it.
        """
        at = self.cell[len(before)]
        if at.kind == "length":
            return at.piece.all_values
        least, most = self._angle_range(before)
        scale = self._angle_scale
        if at.part == "whole":
            return _interval(least // scale, most // scale)
        if at.part == "decimals":
            start = before[-1] * scale
            return _interval(max(least - start, 0), min(most - start, scale - 1))
        return _interval(least, most)

    def _angle_range(self, before: tuple[int, ...]) -> tuple[int, int]:
        """Return the smallest and largest allowed value of the angle at hand, in units of its last decimal."""
        at = self.cell[len(before)]
        known: list[int] = [0, 0, 0]
        for part, value in zip(self.cell, before, strict=False):
            if part.kind == "angle" and part.axis < at.axis:
                known[part.axis] += value * (self._angle_scale if part.part == "whole" else 1)
        degree = self._angle_scale
        if at.axis < len(known) - 1:
            return degree, (_HALF_TURN - 1) * degree
        alpha, beta, _ = known
        return max(abs(alpha - beta) + 1, degree), min(alpha + beta, 2 * _HALF_TURN * degree - alpha - beta) - 1

    def _cell_pieces(self) -> Iterator[CellPiece]:
        for kind, numbers in (("length", self.pieces.lengths), ("angle", self.pieces.angles)):
            named: Literal["length", "angle"] = "length" if kind == "length" else "angle"
            for axis, pieces in enumerate(numbers):
                if len(pieces) == 1:
                    yield CellPiece(named, axis, "both", pieces[0])
                else:
                    yield CellPiece(named, axis, "whole", pieces[0])
                    yield CellPiece(named, axis, "decimals", pieces[1])

    def _all_pieces(self) -> Iterator[Piece]:
        yield from (part.piece for part in self.cell)
        yield self.pieces.element
        yield from self.pieces.coords
        yield self.pieces.answer

    def _written(self, symbols: frozenset[str] | None, piece: Piece) -> int:
        """Return bits of the elements that a piece can write, or of these."""
        if symbols is None:
            return piece.all_values
        missing = sorted(name for name in symbols if not piece.all_values & _PLACES[name])
        if missing:
            raise UserError(
                f"the model's tokenizer cannot write {', '.join(missing)}", remedy="leave these elements out"
            )
        return sum(_PLACES[name] for name in symbols)


def _interval(least: int, most: int) -> int:
    """Return bits of the values from the least to the most."""
    return ((1 << (most - least + 1)) - 1) << least if most >= least else 0
