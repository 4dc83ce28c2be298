"""Configurations of defects as short texts, and back.

``edits`` names the changed sites alone, a line each, in the order of their numbers: the atom of the unit cell, column,
row, and what is there now: ``S2 3 5 VAC``. ``full`` writes every site of the supercell again, what is there on a line
and its fractional coordinates on the next, as texts of crystals have it; nothing but the symbols can differ.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.chem.defects.configurations import Configuration
from crystalfm.generation.defects.prompts import sublattices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.generation.defects.prompts import DefectPromptSettings

VACANCY_TEXT = "VAC"
PRISTINE_TEXT = "pristine"
"""The answer in edits without a defect."""

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)} | {VACANCY_TEXT: 0}
_NUM_WORDS = 4
_VALUE_LENGTH = 80


class DefectProblem(StrEnum):
    """What can be wrong with an answer."""

    EMPTY = "empty text"
    LINE = "no line of a changed site"
    SUBLATTICE = "no atom of the unit cell"
    PLACE = "no column and row of the supercell"
    ORDER = "sites out of order"
    ELEMENT = "no element"
    UNCHANGED = "a changed site that is as before"
    NUM_SITES = "not as many sites as the supercell"
    COORDINATES = "other coordinates than the site's"


class DefectTextError(ValueError):
    """A text that is no configuration of the supercell.

    Args:
        problem: what is wrong.
        line: line of the text, from 1; 0 where it is no matter of a line.
        value: what stands there; shortened to one line.
    """

    def __init__(self, problem: DefectProblem, line: int = 0, value: str = "") -> None:
        shown = " ".join(value.split())
        self.problem = problem
        self.line = line
        self.value = shown if len(shown) <= _VALUE_LENGTH else shown[: _VALUE_LENGTH - 1] + "…"
        where = f", line {line}" if line else ""
        super().__init__(f"{problem}{where}: {self.value!r}" if self.value else f"{problem}{where}")


def write_answer(configuration: Configuration, supercell: Supercell, settings: DefectPromptSettings) -> str:
    """Return the text of a configuration.

    Raises:
        UserError: it is none of the supercell.
    """
    configuration.rules(supercell)
    if settings.answer == "full":
        return _full_text(configuration, supercell, settings.coord_digits)
    names, places = sublattices(supercell.host), supercell.places.tolist()
    lines = []
    for site, number in configuration.defects:
        basis, column, row = places[site]
        lines.append(f"{names[basis]} {column} {row} {_symbol(number)}")
    return "\n".join(lines) or PRISTINE_TEXT


def read_answer(text: str, supercell: Supercell, settings: DefectPromptSettings) -> Configuration:
    """Return the configuration of a text; only texts that ``write_answer`` can write are read.

    Raises:
        DefectTextError: the text is none.
    """
    if not text:
        raise DefectTextError(DefectProblem.EMPTY)
    if settings.answer == "full":
        return _read_full(text, supercell, settings.coord_digits)
    return _read_edits(text, supercell)


@lru_cache(maxsize=32)
def coordinate_values(supercell: Supercell, digits: int) -> NDArray[np.int64]:
    """Return (N, 3) the fractional coordinates of the sites in units of the last of so many decimals."""
    scale = 10**digits
    coords = supercell.frac_coords
    values: NDArray[np.int64] = np.rint((coords - np.floor(coords)) * scale).astype(np.int64) % scale
    return values


@lru_cache(maxsize=32)
def _coordinate_lines(supercell: Supercell, digits: int) -> tuple[str, ...]:
    values = coordinate_values(supercell, digits).tolist()
    return tuple(" ".join(f"0.{value:0{digits}d}" for value in row) for row in values)


def _full_text(configuration: Configuration, supercell: Supercell, digits: int) -> str:
    numbers = supercell.numbers.tolist()
    for site, number in configuration.defects:
        numbers[site] = number
    pairs = zip(numbers, _coordinate_lines(supercell, digits), strict=True)
    return "\n".join(f"{_symbol(number)}\n{line}" for number, line in pairs)


def _read_full(text: str, supercell: Supercell, digits: int) -> Configuration:
    lines = text.split("\n")
    if len(lines) != 2 * supercell.num_sites:
        raise DefectTextError(DefectProblem.NUM_SITES, value=f"{len(lines) / 2:g} of {supercell.num_sites}")
    found = []
    pairs = zip(lines[::2], lines[1::2], _coordinate_lines(supercell, digits), strict=True)
    for site, (symbol, coords, expected) in enumerate(pairs):
        number = _number(symbol, 2 * site + 1)
        if coords != expected:
            raise DefectTextError(DefectProblem.COORDINATES, 2 * site + 2, coords)
        found.append(number)
    changed = np.flatnonzero(np.array(found) != supercell.numbers)
    return Configuration(tuple((int(site), found[site]) for site in changed))


def _read_edits(text: str, supercell: Supercell) -> Configuration:
    if text == PRISTINE_TEXT:
        return Configuration(())
    basis_of = {name: basis for basis, name in enumerate(sublattices(supercell.host))}
    columns, rows = ({str(value): value for value in range(size)} for size in supercell.size[:2])
    defects: list[tuple[int, int]] = []
    for place, line in enumerate(text.split("\n"), start=1):
        words = line.split(" ")
        if len(words) != _NUM_WORDS:
            raise DefectTextError(DefectProblem.LINE, place, line)
        name, column, row, symbol = words
        if name not in basis_of:
            raise DefectTextError(DefectProblem.SUBLATTICE, place, name)
        if column not in columns or row not in rows:
            raise DefectTextError(DefectProblem.PLACE, place, f"{column} {row}")
        site, number = supercell.site(basis_of[name], columns[column], rows[row]), _number(symbol, place)
        if defects and site <= defects[-1][0]:
            raise DefectTextError(DefectProblem.ORDER, place, line)
        if number == supercell.numbers[site]:
            raise DefectTextError(DefectProblem.UNCHANGED, place, line)
        defects.append((site, number))
    return Configuration(tuple(defects))


def _symbol(number: int) -> str:
    return SYMBOLS[number - 1] if number else VACANCY_TEXT


def _number(symbol: str, line: int) -> int:
    if symbol not in _NUMBERS:
        raise DefectTextError(DefectProblem.ELEMENT, line, symbol)
    return _NUMBERS[symbol]
