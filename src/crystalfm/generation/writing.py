"""A completion that is written piece by piece, and what grammars of such completions share.

A grammar says which values the piece at hand may have, and what may follow it. Everything else is here: which tokens
that leaves, when a piece is complete, and how much of it the tokenizer spells in one token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from crystalfm.generation.constraints import Task
    from crystalfm.generation.defects.constraints import AnyConstraint
    from crystalfm.generation.token_tries import Node, Piece

_LARGEST_CACHE = 20_000
_UNLIMITED = 1 << 31


class Next(NamedTuple):
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


GrammarT = TypeVar("GrammarT", bound="PieceGrammar")


class PieceState(WritingState, Generic[GrammarT]):
    """A completion made of pieces.

    Args:
        grammar: its grammar.
        first: the first piece and its allowed values.
    """

    def __init__(self, grammar: GrammarT, first: Next) -> None:
        if first.piece is None:
            raise ValueError("a completion begins with a piece")
        self.grammar = grammar
        self._piece = first.piece
        self._node = first.piece.root
        self._values = first.values
        self._texts: list[str] = []
        self._choices: tuple[int, ...] | None = None
        self._following: Next | None = None

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
            if token == self.grammar.end or following.piece is None:
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
        end = (self.grammar.end,) if following.may_end else ()
        beyond = self.grammar.leading(following.piece.root, following.values) if following.piece is not None else ()
        if not inside and not end:
            return beyond
        return tuple(sorted({*inside, *beyond, *end}))

    @abstractmethod
    def _after(self, value: int) -> Next:
        """Return what may follow the piece at hand once it is complete with a value."""

    @abstractmethod
    def _complete(self, value: int) -> None:
        """Take note of the value of the piece at hand."""


class PieceGrammar(ABC):
    """What grammars of pieces share.

    Args:
        end: the end-of-sequence token.
        pieces: every piece that can be written.

    Attributes:
        end: the end-of-sequence token.
        alphabet: (A,) int64, ascending: every token that can be written.
    """

    def __init__(self, end: int, pieces: Iterable[Piece]) -> None:
        self.end = end
        ids = {token for piece in pieces for tokens in piece.tokens for token in tokens}
        self.alphabet: NDArray[np.int64] = np.array(sorted(ids | {end}), dtype=np.int64)
        self._leading: dict[tuple[int, int], tuple[int, ...]] = {}
        self._masks: dict[tuple[int, ...], NDArray[np.bool_]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: what was worked out before is found by addresses of this one."""
        return {**self.__dict__, "_leading": {}, "_masks": {}}

    @abstractmethod
    def start(self, task: Task, constraint: AnyConstraint, max_new_tokens: int) -> WritingState:
        """Return an empty completion.

        Args:
            task: what is asked for.
            constraint: what it has to fulfil.
            max_new_tokens: most tokens, the end included.

        Raises:
            UserError: the tokens do not suffice for the smallest completion, or the model writes no such things.
        """

    def decided_tokens(self, task: Task, constraint: AnyConstraint, tokens: Sequence[int]) -> list[bool]:
        """Return which tokens of a completion the grammar leaves a choice about.

        Args:
            task: what was asked for.
            constraint: what the completion had to fulfil.
            tokens: its tokens, the end included.

        Raises:
            ValueError: the grammar would not have written it.
        """
        state = self.start(task, constraint, _UNLIMITED)
        decided = []
        for token in tokens:
            decided.append(state.choices is None or len(state.choices) > 1)
            state.advance(token)
        return decided

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

    def require_room(self, max_new_tokens: int, needed: int) -> None:
        """Refuse completions for which the tokens do not suffice.

        Raises:
            UserError: they do not.
        """
        if max_new_tokens < needed:
            raise UserError(
                f"max_new_tokens={max_new_tokens} is too small for the smallest completion",
                remedy=f"max_new_tokens={needed} or more",
            )

    def require_one_reading(self, pairs: Iterable[tuple[Piece, Piece | None]]) -> None:
        """Refuse tokenizers with which a token might both go on with a piece and begin the next one.

        Args:
            pairs: pieces that may follow each other; None for the end.

        Raises:
            UserError: the tokenizer is such a one.
        """
        for piece, following in pairs:
            first = {self.end} | (set(following.root.children) if following is not None else set())
            for node in _nodes(piece.root):
                if node.value >= 0 and first & set(node.children):
                    raise UserError(
                        f"with this tokenizer {piece.texts[node.value]!r} may end or go on with the same token",
                        remedy="constraint=none",
                    )


def _nodes(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())
