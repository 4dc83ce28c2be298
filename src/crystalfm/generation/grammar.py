"""Which tokens may follow while a crystal is written, so that every completion can be read.

A language that counts a formula's atoms and compares three angles is not context-free, which is why this is a state
machine of its own. It walks over the pieces of ``token_tries``: what it lets through is spelled in the tokens that the
tokenizer itself would write, as in training. From every state there is a way to the end within the tokens and atoms
that are left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.spacing import SiteSpacing
from crystalfm.generation.token_tries import NUM_WHOLE_ANGLES, CrystalPieces, Node, Piece, crystal_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from crystalfm.chem.crystal_text import CrystalTextFormat

__all__ = ["AnswerState", "Constraint", "CrystalGrammar", "CrystalState", "FreeState", "PieceState", "WritingState"]

_LARGEST_CACHE = 20_000
_HALF_TURN = NUM_WHOLE_ANGLES
_PLACES = {symbol: 1 << place for place, symbol in enumerate(SYMBOLS)}
"""Bits of the elements."""


class _Next(NamedTuple):
    """What may follow a complete piece.

    Attributes:
        piece: the piece that follows; None where only the end does.
        values: bits of its allowed values.
        may_end: whether the completion may end here.
    """

    piece: Piece | None
    values: int
    may_end: bool


class WritingState(ABC):
    """A completion as far as it is written.

    Attributes:
        num_tokens: tokens so far.
        finished: whether the end-of-sequence token was written.
    """

    num_tokens = 0
    finished = False

    @property
    @abstractmethod
    def choices(self) -> tuple[int, ...] | None:
        """Tokens that may follow, ascending; None for all. Empty once the completion is finished."""

    @abstractmethod
    def advance(self, token: int) -> None:
        """Write one of the tokens that may follow."""


class FreeState(WritingState):
    """A completion without a grammar.

    Attributes:
        tokens: the tokens written, without the end-of-sequence token.
    """

    def __init__(self, end: int) -> None:
        self.end = end
        self.tokens: list[int] = []

    @property
    def choices(self) -> tuple[int, ...] | None:
        """All tokens may follow."""
        return () if self.finished else None

    def advance(self, token: int) -> None:
        """Write a token."""
        self.num_tokens += 1
        if token == self.end:
            self.finished = True
        else:
            self.tokens.append(token)


class PieceState(WritingState):
    """A completion made of pieces.

    Args:
        grammar: its grammar.
        first: the first piece and its allowed values.
    """

    def __init__(self, grammar: CrystalGrammar, first: _Next) -> None:
        if first.piece is None:
            raise ValueError("a completion begins with a piece")
        self.grammar = grammar
        self._piece = first.piece
        self._node = first.piece.root
        self._values = first.values
        self._texts: list[str] = []
        self._choices: tuple[int, ...] | None = None
        self._following: _Next | None = None

    @property
    def text(self) -> str:
        """The complete pieces."""
        return "".join(self._texts)

    @property
    def choices(self) -> tuple[int, ...]:
        """Tokens that may follow, ascending."""
        if self._choices is None:
            self._choices = () if self.finished else self._find_choices()
        return self._choices

    def advance(self, token: int) -> None:
        """Write one of the tokens that may follow.

        Raises:
            ValueError: it is none of them.
        """
        if token not in self.choices:
            raise ValueError(f"token {token} may not follow")
        child = self._node.children.get(token)
        if child is None:
            value = self._node.value
            following = self._following or self._after(value)
            self._texts.append(self._piece.texts[value] or "")
            self._complete(value)
            if token == self.grammar.pieces.end or following.piece is None:
                self.finished = True
            else:
                self._piece, self._values = following.piece, following.values
                child = self._piece.root.children[token]
        if child is not None:
            self._node = child
        self.num_tokens += 1
        self._choices = self._following = None

    def _find_choices(self) -> tuple[int, ...]:
        node = self._node
        inside = self.grammar.leading(node, self._values)
        if node.value < 0 or not self._values >> node.value & 1:
            return inside
        self._following = following = self._after(node.value)
        end = (self.grammar.pieces.end,) if following.may_end else ()
        beyond = self.grammar.leading(following.piece.root, following.values) if following.piece is not None else ()
        if not inside and not end:
            return beyond
        return tuple(sorted({*inside, *beyond, *end}))

    @abstractmethod
    def _after(self, value: int) -> _Next:
        """Return what may follow the piece at hand once it is complete with a value."""

    @abstractmethod
    def _complete(self, value: int) -> None:
        """Take note of the value of the piece at hand."""


class AnswerState(PieceState):
    """An element's symbol, the answer of an infilling request."""

    def _after(self, value: int) -> _Next:  # noqa: ARG002
        return _Next(None, 0, may_end=True)

    def _complete(self, value: int) -> None:
        """Nothing depends on it."""


class CrystalState(PieceState):
    """A crystal.

    Args:
        grammar: its grammar.
        constraint: what it has to fulfil.
        max_new_tokens: most tokens, the end included.

    Attributes:
        num_crowded: atoms for which no last coordinate was as far from the others as the constraint wants it.
    """

    def __init__(self, grammar: CrystalGrammar, constraint: Constraint, max_new_tokens: int) -> None:
        super().__init__(grammar, _Next(grammar.cell[0].piece, grammar.cell_values(()), may_end=False))
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

    def _after(self, value: int) -> _Next:
        grammar = self.grammar
        place = len(self._numbers) + 1
        if self._stage == 0 and place < len(grammar.cell):
            return _Next(grammar.cell[place].piece, grammar.cell_values((*self._numbers, value)), may_end=False)
        if self._stage == 0:
            return _Next(grammar.pieces.element, self._open_elements(), may_end=False)
        if self._stage <= len(grammar.pieces.coords):
            coord = grammar.pieces.coords[self._stage - 1]
            last = self._stage == len(grammar.pieces.coords)
            return _Next(coord, self._last_values(value) if last else coord.all_values, may_end=False)
        full = self._num_atoms + 1 >= self._max_atoms or (not self._ratio and self.num_tokens > self._last_site)
        return _Next(grammar.pieces.element, 0 if full else self._open_elements(), may_end=self._is_whole())

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


class CrystalGrammar:
    """The grammar of crystals' texts for one tokenizer.

    Args:
        tokenizer: fast tokenizer of transformers.
        text_format: how crystals are written.

    Attributes:
        text_format: how crystals are written.
        pieces: what the texts are made of.
        cell: the pieces of the cell, in the order in which they are written.
        cell_tokens: most tokens of a cell.
        alphabet: (A,) int64, ascending: every token that can be written.

    Raises:
        UserError: the tokenizer joins what the grammar has to keep apart.
    """

    def __init__(self, tokenizer: Any, text_format: CrystalTextFormat) -> None:
        self.text_format = text_format
        self.pieces: CrystalPieces = crystal_pieces(tokenizer, text_format)
        self._angle_scale = 10**text_format.angle_digits
        self.cell: tuple[CellPiece, ...] = tuple(self._cell_pieces())
        self.cell_tokens = sum(part.piece.most_tokens for part in self.cell)
        ids = {token for piece in self._all_pieces() for tokens in piece.tokens for token in tokens}
        self.alphabet: NDArray[np.int64] = np.array(sorted(ids | {self.pieces.end}), dtype=np.int64)
        self._leading: dict[tuple[int, int], tuple[int, ...]] = {}
        self._masks: dict[tuple[int, ...], NDArray[np.bool_]] = {}
        self._require_one_reading()

    def start(self, task: Literal["generate", "infill"], constraint: Constraint, max_new_tokens: int) -> WritingState:
        """Return an empty completion.

        Args:
            task: whether a crystal or an element's symbol is written.
            constraint: what it has to fulfil.
            max_new_tokens: most tokens, the end included.

        Raises:
            UserError: the tokens do not suffice for the smallest completion, or an element cannot be written.
        """
        if constraint.kind == "none":
            return FreeState(self.pieces.end)
        if task == "infill":
            values = self._written(constraint.elements, self.pieces.answer)
            self._require_room(max_new_tokens, self.pieces.answer.most_tokens + 1)
            return AnswerState(self, _Next(self.pieces.answer, values, may_end=False))
        elements = self.element_values(constraint)
        atoms = sum(constraint.reduced_formula.values()) if constraint.kind == "formula" else 1
        self._require_room(max_new_tokens, self.cell_tokens + atoms * self.site_tokens(elements) + 1)
        return CrystalState(self, constraint, max_new_tokens)

    def mask(self, choices: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return (A,) bool, which tokens of the alphabet are among these; not to be written to."""
        found = self._masks.get(choices)
        if found is None:
            if len(self._masks) >= _LARGEST_CACHE:
                self._masks.clear()
            found = np.zeros(len(self.alphabet), dtype=np.bool_)
            found[np.searchsorted(self.alphabet, choices)] = True
            self._masks[choices] = found
        return found

    def leading(self, node: Node, values: int) -> tuple[int, ...]:
        """Return the tokens, ascending, that lead from a node towards one of these values."""
        key = (id(node), values)
        found = self._leading.get(key)
        if found is None:
            if len(self._leading) >= _LARGEST_CACHE:
                self._leading.clear()
            found = tuple(sorted(token for token, child in node.children.items() if child.values & values))
            self._leading[key] = found
        return found

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

    def _require_room(self, max_new_tokens: int, needed: int) -> None:
        if max_new_tokens < needed:
            raise UserError(
                f"max_new_tokens={max_new_tokens} is too small for the smallest completion",
                remedy=f"max_new_tokens={needed} or more",
            )

    def _require_one_reading(self) -> None:
        """Refuse tokenizers with which a token might both go on with a piece and begin the next one."""
        element, coords = self.pieces.element, self.pieces.coords
        sequence = [*(part.piece for part in self.cell), element, *coords, element]
        pairs = [*pairwise(sequence), (self.pieces.answer, None)]
        for piece, following in pairs:
            first = {self.pieces.end} | (set(following.root.children) if following is not None else set())
            for node in _nodes(piece.root):
                if node.value >= 0 and first & set(node.children):
                    raise UserError(
                        f"with this tokenizer {piece.texts[node.value]!r} may end or go on with the same token",
                        remedy="constraint=none",
                    )


def _interval(least: int, most: int) -> int:
    """Return bits of the values from the least to the most."""
    return ((1 << (most - least + 1)) - 1) << least if most >= least else 0


def _nodes(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())
