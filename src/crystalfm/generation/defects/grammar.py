"""Which tokens may follow while the defects of a supercell are written.

Coordinates cannot change, sites come once and in order, and what comes there is what the rules allow; whatever is
written can be read and has as many defects as asked for. As in ``generation.grammar``, texts are spelled in the tokens
that the tokenizer itself would write.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.defects.answers import PRISTINE_TEXT, VACANCY_TEXT, coordinate_values
from crystalfm.generation.defects.prompts import MAX_CELLS, sublattices
from crystalfm.generation.token_tries import Cutter, Piece, SeamError, coordinate_pieces
from crystalfm.generation.writing import FreeState, Next, PieceGrammar, PieceState, WritingState

if TYPE_CHECKING:
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule
    from crystalfm.generation.constraints import Task
    from crystalfm.generation.defects.constraints import AnyConstraint, DefectConstraint
    from crystalfm.generation.defects.prompts import DefectPromptSettings

_SYMBOL_TEXTS = (VACANCY_TEXT, *SYMBOLS)
"""What may be on a site, by atomic number."""


class SiteChoice:
    """Which sites may be changed next, and how, so that there is a way to as many defects as asked for.

    Sets of sites and of atomic numbers are ints with their bits set.

    Args:
        constraint: what the answer has to fulfil.
    """

    def __init__(self, constraint: DefectConstraint) -> None:
        self.supercell: Supercell = constraint.supercell
        self._fewest, self._most = constraint.fewest, constraint.most
        self._left = None if constraint.counts is None else Counter(constraint.counts)
        self._rules = constraint.rules
        removed = sorted({rule.removed for rule in constraint.rules})
        self._sites = {element: sorted(self.supercell.sites_of(element), reverse=True) for element in removed}
        self._bits = {element: sum(1 << site for site in sites) for element, sites in self._sites.items()}
        self._any = sorted((site for sites in self._sites.values() for site in sites), reverse=True)
        self.num_defects = 0
        self.last = -1

    @property
    def may_end(self) -> bool:
        """Whether there are enough defects."""
        return self.num_defects >= self._fewest

    @property
    def num_missing(self) -> int:
        """Defects that have to come yet."""
        return max(self._fewest - self.num_defects, 0)

    @property
    def sites(self) -> int:
        """Sites that may be the next to be changed."""
        return self.sites_after(self.last, self._open_rules(), self.num_defects)

    @property
    def bound(self) -> int:
        """The last site that may be the next to be changed; beyond it there are too few."""
        return self._bound(self._left, self.num_defects)

    def sites_after(self, last: int, rules: tuple[DefectRule, ...], num_defects: int) -> int:
        """Return the sites beyond one that may be changed under these rules, with so many defects before them."""
        if num_defects >= self._most:
            return 0
        bound = self._bound(self._left, num_defects)
        return self._of(rules) & ((1 << (bound + 1)) - 1) & -(1 << (last + 1))

    def numbers_at(self, site: int) -> int:
        """Return what a site may be changed to."""
        element = SYMBOLS[int(self.supercell.numbers[site]) - 1]
        return sum(1 << rule.number for rule in self._open_rules() if rule.removed == element)

    def after(self, site: int, number: int) -> tuple[int, bool]:
        """Return the sites that may be changed after a change, and whether the answer may end there."""
        rule = self._rule(site, number)
        left = self._left
        if left is not None:
            self._left = left - Counter([rule])
        try:
            following = self.sites_after(site, self._open_rules(), self.num_defects + 1)
        finally:
            self._left = left
        return following, self.num_defects + 1 >= self._fewest

    def change(self, site: int, number: int) -> None:
        """Take note of a change."""
        if self._left is not None:
            self._left -= Counter([self._rule(site, number)])
        self.num_defects += 1
        self.last = site

    def _rule(self, site: int, number: int) -> DefectRule:
        element = SYMBOLS[int(self.supercell.numbers[site]) - 1]
        return next(rule for rule in self._rules if rule.removed == element and rule.number == number)

    def _open_rules(self) -> tuple[DefectRule, ...]:
        left = self._left
        return self._rules if left is None else tuple(rule for rule in self._rules if left[rule] > 0)

    def _of(self, rules: tuple[DefectRule, ...]) -> int:
        sites = 0
        for element in {rule.removed for rule in rules}:
            sites |= self._bits[element]
        return sites

    def _bound(self, left: Counter[DefectRule] | None, num_defects: int) -> int:
        if left is None:
            return self._any[max(self._fewest - num_defects, 1) - 1]
        wanted: Counter[str] = Counter()
        for rule, count in left.items():
            wanted[rule.removed] += count
        return min(
            (self._sites[element][count - 1] for element, count in wanted.items() if count), default=self._any[0]
        )


class EditsState(PieceState["DefectGrammar"]):
    """The changed sites.

    Args:
        grammar: its grammar.
        constraint: what it has to fulfil.
        max_new_tokens: most tokens, the end included.
    """

    def __init__(self, grammar: DefectGrammar, constraint: DefectConstraint, max_new_tokens: int) -> None:
        self._choice = SiteChoice(constraint)
        self._basis_of = {grammar.names.index(name): k for k, name in enumerate(sublattices(constraint.supercell.host))}
        self._open = self._choice.sites
        self._last_line = max_new_tokens - grammar.line_tokens - 1
        self._written: list[int] = []
        values = self._names_in(self._open)
        if constraint.fewest == 0:
            values |= 1 << grammar.pristine
        super().__init__(grammar, Next(grammar.first_name, values, may_end=False))

    def _after(self, value: int) -> Next:
        grammar, place = self.grammar, len(self._written)
        if place == 0:
            if value == grammar.pristine:
                return Next(None, 0, may_end=True)
            return Next(grammar.column, self._columns(self._basis_of[value]), may_end=False)
        if place == 1:
            return Next(grammar.row, self._row_bits(self._basis_of[self._written[0]], value), may_end=False)
        if place == len((grammar.column, grammar.row)):
            return Next(grammar.edit, self._choice.numbers_at(self._site(self._written[1], value)), may_end=False)
        following, may_end = self._choice.after(self._site(*self._written[1:]), value)
        if may_end and self.num_tokens > self._last_line:
            following = 0
        return Next(grammar.next_name, self._names_in(following), may_end=may_end)

    def _complete(self, value: int) -> None:
        self._written.append(value)
        if len(self._written) > len((self.grammar.first_name, self.grammar.column, self.grammar.row)):
            _, column, row, number = self._written
            self._choice.change(self._site(column, row), number)
            self._open = self._choice.sites
            self._written = []

    def _site(self, column: int, row: int) -> int:
        return self._choice.supercell.site(self._basis_of[self._written[0]], column, row)

    def _names_in(self, sites: int) -> int:
        return sum(1 << value for value, basis in self._basis_of.items() if sites & self._block(basis))

    def _block(self, basis: int) -> int:
        columns, rows, _ = self._choice.supercell.size
        return ((1 << (columns * rows)) - 1) << (basis * columns * rows)

    def _columns(self, basis: int) -> int:
        columns, _, _ = self._choice.supercell.size
        return sum(1 << column for column in range(columns) if self._row_bits(basis, column))

    def _row_bits(self, basis: int, column: int) -> int:
        rows = self._choice.supercell.size[1]
        return self._open >> self._choice.supercell.site(basis, column, 0) & ((1 << rows) - 1)


class FullState(PieceState["DefectGrammar"]):
    """Every site of the supercell.

    Args:
        grammar: its grammar.
        constraint: what it has to fulfil.
    """

    def __init__(self, grammar: DefectGrammar, constraint: DefectConstraint) -> None:
        self._choice = SiteChoice(constraint)
        self._numbers: list[int] = constraint.supercell.numbers.tolist()
        self._coords: list[list[int]] = coordinate_values(constraint.supercell, grammar.settings.coord_digits).tolist()
        self._at = 0
        self._stage = 0
        super().__init__(grammar, Next(grammar.first_symbol, self._symbols(0), may_end=False))

    def _after(self, value: int) -> Next:  # noqa: ARG002
        coords = self.grammar.coords
        if self._stage < len(coords):
            return Next(coords[self._stage], 1 << self._coords[self._at][self._stage], may_end=False)
        if self._at + 1 == len(self._numbers):
            return Next(None, 0, may_end=True)
        return Next(self.grammar.next_symbol, self._symbols(self._at + 1), may_end=False)

    def _complete(self, value: int) -> None:
        if self._stage == 0 and value != self._numbers[self._at]:
            self._choice.change(self._at, value)
        self._stage += 1
        if self._stage > len(self.grammar.coords):
            self._stage = 0
            self._at += 1

    def _symbols(self, site: int) -> int:
        """Return what may stand on a site."""
        changed = self._choice.numbers_at(site) if self._choice.sites >> site & 1 else 0
        needed = self._choice.num_missing and site == self._choice.bound
        return changed if needed else changed | 1 << self._numbers[site]


class DefectGrammar(PieceGrammar):
    """The grammar of answers for one tokenizer.

    Args:
        tokenizer: fast tokenizer of transformers.
        settings: how answers are worded.

    Attributes:
        settings: how answers are worded.
        names: names of the hosts' sublattices, then what stands for no defect at all.
        pristine: the place of the latter.
        line_tokens: most tokens of a changed site in edits.

    Raises:
        UserError: the tokenizer joins what the grammar has to keep apart, or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, settings: DefectPromptSettings) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token", remedy="use a tokenizer that has one")
        self.settings = settings
        named = dict.fromkeys(name for host in settings.hosts for name in sublattices(host))
        self.names = (*named, PRISTINE_TEXT)
        self.pristine = len(named)
        cutter = Cutter(tokenizer)
        try:
            cut = self._cut_edits(cutter) if settings.answer == "edits" else self._cut_full(cutter)
        except SeamError as error:
            raise UserError(
                f"this tokenizer cannot be held to the grammar of defects: {error}",
                remedy="constraint=none, or a tokenizer that keeps line breaks, spaces and numbers apart",
            ) from error
        super().__init__(int(tokenizer.eos_token_id), {id(piece): piece for piece, _ in cut}.values())
        self.require_one_reading(cut)

    def start(self, task: Task, constraint: AnyConstraint, max_new_tokens: int) -> WritingState:
        """Return an empty answer.

        Args:
            task: ``defects``.
            constraint: a ``DefectConstraint``, or one of the kind ``none``.
            max_new_tokens: most tokens, the end included.

        Raises:
            UserError: the tokens do not suffice for the smallest answer, or something else than defects is asked for.
        """
        if isinstance(constraint, Constraint):
            if task != "defects" or constraint.kind != "none":
                raise UserError("this model writes defects, not crystals", remedy="give a run trained on crystals")
            return FreeState(self.end)
        self._require_written(constraint)
        self.require_room(max_new_tokens, self.needed_tokens(constraint))
        if self.settings.answer == "full":
            return FullState(self, constraint)
        return EditsState(self, constraint, max_new_tokens)

    def needed_tokens(self, constraint: DefectConstraint, num_defects: int | None = None) -> int:
        """Return how many tokens surely suffice, the end included.

        Args:
            constraint: what the answer has to fulfil.
            num_defects: for so many defects; None for the fewest. All the same to full answers.
        """
        if self.settings.answer == "full":
            return constraint.supercell.num_sites * self.line_tokens + 1
        count = constraint.fewest if num_defects is None else num_defects
        return max(count, 1) * self.line_tokens + 1

    def _cut_edits(self, cutter: Cutter) -> list[tuple[Piece, Piece | None]]:
        """Find the pieces of edits; return which may follow which."""
        name = self.names[0]
        rest = f" 5 {VACANCY_TEXT}"
        places = [f" {value}" for value in range(MAX_CELLS)]
        line = f"{name} 3{rest}"
        self.first_name = cutter.piece("", self.names, f" 3{rest}")
        self.next_name = cutter.piece(line, [f"\n{each}" for each in self.names[: self.pristine]], f" 3{rest}")
        self.column = cutter.piece(name, places, rest)
        self.row = cutter.piece(f"{name} 3", places, f" {VACANCY_TEXT}")
        self.edit = cutter.piece(f"{name} 3 5", [f" {text}" for text in _SYMBOL_TEXTS], f"\n{line}")
        self.symbols = self.edit
        longest = max(self.first_name.most_tokens, self.next_name.most_tokens)
        self.line_tokens = longest + sum(piece.most_tokens for piece in (self.column, self.row, self.edit))
        return [
            (self.first_name, self.column),
            (self.first_name, None),
            (self.column, self.row),
            (self.row, self.edit),
            (self.edit, self.next_name),
            (self.edit, None),
            (self.next_name, self.column),
        ]

    def _cut_full(self, cutter: Cutter) -> list[tuple[Piece, Piece | None]]:
        """Find the pieces of full answers; return which may follow which."""
        digits = self.settings.coord_digits
        coord = f"0.{25:02d}"[: digits + len("0.")].ljust(digits + len("0."), "0")
        rest = f"\n{coord} {coord} {coord}"
        self.first_symbol = cutter.piece("", _SYMBOL_TEXTS, rest)
        self.next_symbol = cutter.piece(f"Na{rest}", [f"\n{text}" for text in _SYMBOL_TEXTS], rest)
        self.coords = coordinate_pieces(cutter, "Na", digits)
        self.symbols = self.next_symbol
        longest = max(self.first_symbol.most_tokens, self.next_symbol.most_tokens)
        self.line_tokens = longest + sum(piece.most_tokens for piece in self.coords)
        first, second, third = self.coords
        return [
            (self.first_symbol, first),
            (first, second),
            (second, third),
            (third, self.next_symbol),
            (third, None),
            (self.next_symbol, first),
        ]

    def _require_written(self, constraint: DefectConstraint) -> None:
        """Refuse elements that the tokenizer cannot write, and hosts that the settings do not name."""
        missing = sorted(rule.added for rule in constraint.rules if not self.symbols.all_values >> rule.number & 1)
        if missing:
            raise UserError(
                f"the model's tokenizer cannot write {', '.join(missing)}", remedy="leave these elements out"
            )
        host = constraint.supercell.host
        if not set(sublattices(host)) <= set(self.names):
            raise UserError(
                f"the model does not know the host {host.name!r}",
                remedy=f"it knows {', '.join(known.name for known in self.settings.hosts)}",
            )
