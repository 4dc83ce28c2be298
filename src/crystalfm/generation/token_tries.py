"""The pieces of which a crystal's text is made, as the tokens that a tokenizer writes them with.

A piece is a separator and what follows it: the whole digits of a number, its decimals, or an element's symbol. Each
kind of piece is a trie over token ids with one leaf for each of its values. Values are small numbers (an element's
place among the symbols, the digits of a number), and a set of values is an int with their bits set, so that "which
tokens lead to a value that is still allowed" is one bit operation for each child.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.chem.crystal_text import CrystalTextFormat

NUM_WHOLE_LENGTHS = 1000
NUM_WHOLE_ANGLES = 180
_LARGEST_TRIE = 20_000
"""Most values of a piece; a tokenizer that joins the digits around a point makes one piece of them all."""


@dataclass(slots=True)
class Node:
    """A node of a trie.

    Attributes:
        values: bits of the values at and below it.
        value: the value that is complete here; -1 for none.
        children: nodes by the token that leads to them.
    """

    values: int = 0
    value: int = -1
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A kind of piece.

    Attributes:
        texts: text of each value, separator included; None for one the tokenizer cannot write.
        root: its trie.
        all_values: bits of the values that can be written.
        most_tokens: tokens of its longest value.
        tokens: tokens of each value.
    """

    texts: tuple[str | None, ...]
    root: Node
    all_values: int
    most_tokens: int
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CrystalPieces:
    """The pieces of a format with a tokenizer.

    Attributes:
        lengths: for each of the three cell lengths its one or two pieces: the whole digits and the decimals, or both
            in one piece where the tokenizer joins them.
        angles: the same for the cell angles.
        element: a site's element.
        coords: the three coordinates of a site.
        answer: an element's symbol by itself, the answer of an infilling request.
        end: the end-of-sequence token.
    """

    lengths: tuple[tuple[Piece, ...], ...]
    angles: tuple[tuple[Piece, ...], ...]
    element: Piece
    coords: tuple[Piece, Piece, Piece]
    answer: Piece
    end: int


class SeamError(ValueError):
    """A tokenizer joins a piece with its neighbours."""


def crystal_pieces(tokenizer: Any, text_format: CrystalTextFormat) -> CrystalPieces:
    """Return the pieces of a crystal's text as the tokenizer writes them within it.

    Args:
        tokenizer: fast tokenizer of transformers, with an end-of-sequence token.
        text_format: how crystals are written.

    Raises:
        UserError: the tokenizer has no end-of-sequence token, cannot write numbers, or joins the characters around a
            separator to one token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token", remedy="use a tokenizer that has one")
    length = f"5{_decimals(6, text_format.length_digits)}"
    angle = f"90{_decimals(0, text_format.angle_digits)}"
    coord = f"0{_decimals(25, text_format.coord_digits)}"
    lengths, angles = " ".join([length] * 3), " ".join([angle] * 3)
    before_site = f"{lengths}\n{angles}"
    rest = f"\n{coord} {coord} {coord}\nCl\n{coord} {coord} {coord}"
    cutter = Cutter(tokenizer)
    try:
        return CrystalPieces(
            lengths=tuple(
                cutter.number(
                    before,
                    separator,
                    f"{after}\n{angles}\nNa{rest}",
                    range(1, NUM_WHOLE_LENGTHS),
                    text_format.length_digits,
                )
                for before, separator, after in _places("", "", length)
            ),
            angles=tuple(
                cutter.number(
                    before, separator, f"{after}\nNa{rest}", range(1, NUM_WHOLE_ANGLES), text_format.angle_digits
                )
                for before, separator, after in _places(lengths, "\n", angle)
            ),
            element=cutter.piece(before_site, [f"\n{symbol}" for symbol in SYMBOLS], rest),
            coords=coordinate_pieces(cutter, f"{before_site}\nNa", text_format.coord_digits),
            answer=cutter.piece("", SYMBOLS, ""),
            end=int(tokenizer.eos_token_id),
        )
    except SeamError as error:
        raise UserError(
            f"this tokenizer cannot be held to the grammar of crystals: {error}",
            remedy="constraint=none, or a tokenizer that keeps line breaks, spaces and numbers apart",
        ) from error


def coordinate_pieces(cutter: Cutter, before: str, digits: int) -> tuple[Piece, Piece, Piece]:
    """Return the three pieces of the line with a site's coordinates.

    Args:
        cutter: finds the tokens.
        before: a text up to a site's element, that included.
        digits: decimals.

    Raises:
        SeamError: the tokenizer joins them with their neighbours.
    """
    coord = f"0{_decimals(25, digits)}"
    after = f"\nCl\n{coord} {coord} {coord}"
    return _three(
        cutter.number(text, separator, f"{rest}{after}", range(1), digits, whole=True)
        for text, separator, rest in _places(before, "\n", coord)
    )


def _places(before: str, separator: str, value: str) -> list[tuple[str, str, str]]:
    """Return what is before, the separator and what is after each of three equal numbers of a line."""
    return [
        (before, separator, f" {value} {value}"),
        (f"{before}{separator}{value}", " ", f" {value}"),
        (f"{before}{separator}{value} {value}", " ", ""),
    ]


def _three(pieces: Any) -> tuple[Piece, Piece, Piece]:
    first, second, third = (only for (only,) in pieces)
    return first, second, third


def _decimals(value: int, digits: int) -> str:
    return f".{value:0{digits}d}"[: digits + 1] if digits else ""


class Cutter:
    """Finds the tokens of pieces within texts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.unknown = tokenizer.unk_token_id

    def number(
        self, before: str, separator: str, after: str, wholes: range, digits: int, *, whole: bool = False
    ) -> tuple[Piece, ...]:
        """Return a number's pieces: cut at its point where the tokenizer allows it and ``whole`` does not forbid it.

        Args:
            before: the text before the separator.
            separator: what stands between that and the number.
            after: the text after the number.
            wholes: what may stand before the point.
            digits: decimals.
            whole: make it one piece.
        """
        written = {value: f"{separator}{value}" for value in wholes}
        if digits == 0:
            return (self._full(before, written, after),)
        decimals = {value: _decimals(value, digits) for value in range(10**digits)}
        if not whole:
            try:
                first = self._full(before, written, f"{decimals[1]}{after}")
                second = self._full(f"{before}{separator}5", decimals, after)
            except SeamError:
                pass
            else:
                return first, second
        if len(written) * len(decimals) > _LARGEST_TRIE:
            raise SeamError(f"it joins the digits around the point of numbers with {digits} decimals")
        together = {
            value * len(decimals) + small: text + part
            for value, text in written.items()
            for small, part in decimals.items()
        }
        return (self._full(before, together, after),)

    def _full(self, before: str, texts: dict[int, str], after: str) -> Piece:
        """Return the piece that has these texts for values, all of which can be written."""
        piece = self.piece(before, list(texts.values()), after, list(texts))
        missing = [text for value, text in texts.items() if piece.texts[value] is None]
        if missing:
            raise SeamError(f"it cannot write {missing[0]!r}")
        return piece

    def piece(self, before: str, texts: Sequence[str], after: str, values: Sequence[int] | None = None) -> Piece:
        """Return the piece that has these texts, for the values from 0 or for those that are given."""
        start = self._ids([before])[0] if before else []
        upto = self._ids([before + text for text in texts])
        through = self._ids([before + text + after for text in texts])
        tokens: dict[int, tuple[int, ...]] = {}
        written: dict[int, str] = {}
        for value, text, ids, longer in zip(values or range(len(texts)), texts, upto, through, strict=True):
            if ids[: len(start)] != start or longer[: len(ids)] != ids or len(ids) == len(start):
                raise SeamError(f"{text!r} is not made of tokens of its own")
            cut = tuple(ids[len(start) :])
            if self.unknown is None or self.unknown not in cut:
                tokens[value], written[value] = cut, text
        if not tokens:
            raise SeamError(f"it cannot write {texts[0]!r}")
        count = max(values or range(len(texts))) + 1
        return _piece([written.get(value) for value in range(count)], [tokens.get(value, ()) for value in range(count)])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found


def _piece(texts: Sequence[str | None], tokens: Sequence[tuple[int, ...]]) -> Piece:
    root = Node()
    for value, ids in enumerate(tokens):
        if not ids:
            continue
        node = root
        node.values |= 1 << value
        for token in ids:
            node = node.children.setdefault(token, Node())
            node.values |= 1 << value
        if node.value >= 0:
            raise SeamError(f"{texts[value]!r} and {texts[node.value]!r} have the same tokens")
        node.value = value
    return Piece(tuple(texts), root, root.values, max(map(len, tokens)), tuple(tokens))
