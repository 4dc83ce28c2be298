"""Crystals as short texts, for language models: cell lengths, cell angles, then each site's element and coordinates.

The layout is that of Gruver et al., ICLR 2024 (arXiv 2402.04379), with two repairs: angles are rounded where theirs
are cut off (89.99 became 89), and coordinates are wrapped after rounding, so that 1.00, which is 0.00, is never
written. What is written can be read back and gives the same text again.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MAX_LENGTH_DIGITS = 4
MAX_ANGLE_DIGITS = 3
MAX_COORD_DIGITS = 6

LENGTH_LIMIT_ANGSTROM = 1000
"""Cell lengths are shorter than this: three digits before the point."""

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
_NUM_VALUES = 3
_NUM_CELL_LINES = 2
_RIGHT_ANGLE = 90.0
_VALUE_LENGTH = 80


class TextProblem(StrEnum):
    """What can be wrong with a crystal's text, or with a crystal that is to be written."""

    EMPTY = "empty text"
    LENGTHS = "no line of cell lengths"
    ANGLES = "no line of cell angles"
    NO_CELL = "no such cell"
    NO_SITES = "no sites"
    ELEMENT = "no element"
    COORDINATES = "no line of coordinates"
    CUT_OFF = "cut off within a site"
    NOT_FINITE = "numbers that are not finite"


class CrystalTextError(ValueError):
    """A text that is no crystal, or a crystal that has no text.

    Args:
        problem: what is wrong.
        line: line of the text, from 1; 0 where it is no matter of a line.
        value: what stands there; shortened to one line.
    """

    def __init__(self, problem: TextProblem, line: int, value: str = "") -> None:
        shown = " ".join(value.split())
        self.problem = problem
        self.line = line
        self.value = shown if len(shown) <= _VALUE_LENGTH else shown[: _VALUE_LENGTH - 1] + "…"
        where = f", line {line}" if line else ""
        super().__init__(f"{problem}{where}: {self.value!r}" if self.value else f"{problem}{where}")


@dataclass(frozen=True)
class CrystalTextFormat:
    """How a crystal is written.

    ``a b c``, ``alpha beta gamma``, and for each site a line with its element and one with its fractional
    coordinates; lines end in a newline except the last.

    Args:
        length_digits: decimals of the cell lengths in angstrom, 0 to 4.
        angle_digits: decimals of the cell angles in degrees, 0 to 3.
        coord_digits: decimals of the fractional coordinates, 1 to 6.

    Raises:
        UserError: a number of digits is out of range.
    """

    length_digits: int = 1
    angle_digits: int = 0
    coord_digits: int = 2

    def __post_init__(self) -> None:
        _require_digits("length_digits", self.length_digits, 0, MAX_LENGTH_DIGITS)
        _require_digits("angle_digits", self.angle_digits, 0, MAX_ANGLE_DIGITS)
        _require_digits("coord_digits", self.coord_digits, 1, MAX_COORD_DIGITS)

    def write(self, crystal: Crystal) -> str:
        """Return the crystal's text, without a newline at its end.

        Raises:
            CrystalTextError: the crystal has no atoms, numbers that are not finite, an unknown element, a cell length
                that rounds to zero or does not fit, or angles that make no cell once they are rounded.
        """
        if crystal.num_atoms == 0:
            raise CrystalTextError(TextProblem.NO_SITES, 0)
        if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
            raise CrystalTextError(TextProblem.NOT_FINITE, 0)
        lengths, angles = _cell_parameters(crystal.lattice)
        lines = [
            " ".join(f"{length:.{self.length_digits}f}" for length in lengths),
            " ".join(f"{angle:.{self.angle_digits}f}" for angle in angles),
        ]
        self.read_cell(lines)
        scale = 10**self.coord_digits
        wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
        rounded = np.rint(wrapped * scale).astype(np.int64) % scale
        for number, coords in zip(crystal.atomic_numbers.tolist(), rounded.tolist(), strict=True):
            if not 1 <= number <= len(SYMBOLS):
                raise CrystalTextError(TextProblem.ELEMENT, 0, f"atomic number {number}")
            lines.append(SYMBOLS[number - 1])
            lines.append(" ".join(f"0.{value:0{self.coord_digits}d}" for value in coords))
        return "\n".join(lines)

    def read(self, text: str) -> Crystal:
        """Return the crystal of a text; only texts that ``write`` can write are read.

        The first lattice vector is along x, the second in the xy plane, and the three are right-handed. Atoms may
        overlap: see ``crystals.checked``.

        Raises:
            CrystalTextError: the text is none.
        """
        if not text:
            raise CrystalTextError(TextProblem.EMPTY, 1)
        lines = text.split("\n")
        lattice = self.read_cell(lines)
        sites = lines[_NUM_CELL_LINES:]
        if not sites:
            raise CrystalTextError(TextProblem.NO_SITES, _NUM_CELL_LINES)
        numbers, coords = [], []
        for place, symbol in enumerate(sites[::2]):
            line = _NUM_CELL_LINES + 2 * place + 1
            if symbol not in _NUMBERS:
                raise CrystalTextError(TextProblem.ELEMENT, line, symbol)
            if 2 * place + 1 == len(sites):
                raise CrystalTextError(TextProblem.CUT_OFF, line, symbol)
            found = self._coords_line.fullmatch(sites[2 * place + 1])
            if found is None:
                raise CrystalTextError(TextProblem.COORDINATES, line + 1, sites[2 * place + 1])
            numbers.append(_NUMBERS[symbol])
            coords.append([int(digits) for digits in found.groups()])
        frac_coords = np.array(coords, dtype=np.float64) / 10**self.coord_digits
        return Crystal(lattice, np.array(numbers, dtype=np.int64), frac_coords)

    def rounded(self, crystal: Crystal) -> Crystal:
        """Return the crystal as its text gives it back.

        Raises:
            CrystalTextError: see ``write``.
        """
        return self.read(self.write(crystal))

    def state(self) -> dict[str, int]:
        """Return the settings as plain numbers, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CrystalTextFormat:
        """Return the format that ``state`` describes.

        Raises:
            UserError: a setting is unknown, missing or out of range.
        """
        names = tuple(cls().state())
        if set(state) != set(names):
            raise UserError(
                f"a crystal text's format has the settings {', '.join(sorted(map(str, state))) or 'none'}",
                remedy=f"expected: {', '.join(names)}",
            )
        return cls(**{name: state[name] for name in names})

    def read_cell(self, lines: Sequence[str]) -> NDArray[np.float64]:
        """Return the (3, 3) lattice in angstrom of a text's first two lines.

        Raises:
            CrystalTextError: they are none of a cell.
        """
        found = self._lengths_line.fullmatch(lines[0])
        if found is None:
            raise CrystalTextError(TextProblem.LENGTHS, 1, lines[0])
        lengths = [float(value) for value in found.groups()]
        if min(lengths) == 0.0:
            raise CrystalTextError(TextProblem.NO_CELL, 1, lines[0])
        second = lines[1] if len(lines) > 1 else ""
        found = self._angles_line.fullmatch(second)
        if found is None:
            raise CrystalTextError(TextProblem.ANGLES, 2, second)
        alpha, beta, gamma = (round(float(value) * 10**self.angle_digits) for value in found.groups())
        if not is_cell(alpha, beta, gamma, digits=self.angle_digits):
            raise CrystalTextError(TextProblem.NO_CELL, 2, second)
        return _lattice(lengths, [angle / 10**self.angle_digits for angle in (alpha, beta, gamma)])

    @cached_property
    def _lengths_line(self) -> re.Pattern[str]:
        return _three(rf"((?:0|[1-9][0-9]{{0,2}}){_decimals(self.length_digits)})")

    @cached_property
    def _angles_line(self) -> re.Pattern[str]:
        return _three(rf"((?:0|[1-9][0-9]{{0,2}}){_decimals(self.angle_digits)})")

    @cached_property
    def _coords_line(self) -> re.Pattern[str]:
        return _three(rf"0\.([0-9]{{{self.coord_digits}}})")


def is_cell(alpha: int, beta: int, gamma: int, *, digits: int = 0) -> bool:
    """Return whether three angles make a cell with a volume, in exact arithmetic.

    Each must be smaller than the sum of the two others, and all together smaller than a full turn.

    Args:
        alpha: angle between the second and third vector, in units of ``10**-digits`` degrees.
        beta: angle between the first and third.
        gamma: angle between the first and second.
        digits: decimals of a degree.
    """
    together = alpha + beta + gamma
    return together < 360 * 10**digits and 2 * max(alpha, beta, gamma) < together


def _require_digits(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name}={value!r} is out of range", remedy=f"{name}={least} to {most}")


def _three(number: str) -> re.Pattern[str]:
    return re.compile(" ".join([number] * _NUM_VALUES))


def _decimals(digits: int) -> str:
    return rf"\.[0-9]{{{digits}}}" if digits else ""


def _cell_parameters(lattice: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the lengths in angstrom and the angles in degrees."""
    lengths = np.linalg.norm(lattice, axis=1)
    first, second = lattice[[1, 0, 0]], lattice[[2, 2, 1]]
    # More digits than the arc cosine has near 0 and 180 degrees.
    across = np.linalg.norm(np.cross(first, second), axis=1)
    angles = np.degrees(np.arctan2(across, np.einsum("ij,ij->i", first, second)))
    return lengths.tolist(), angles.tolist()


def _cosine(angle: float) -> float:
    """Return the cosine of an angle in degrees; that of a right angle is zero to the last digit."""
    return 0.0 if angle == _RIGHT_ANGLE else float(np.cos(np.radians(angle)))


def _lattice(lengths: list[float], angles: list[float]) -> NDArray[np.float64]:
    """Return the lattice vectors as rows: the first along x, the second in the xy plane, right-handed."""
    cos_alpha, cos_beta, cos_gamma = (_cosine(angle) for angle in angles)
    sin_gamma = float(np.sin(np.radians(angles[2])))
    half = sum(angles) / 2
    # Squared volume of the cell with unit lengths as a product: no digits cancel in flat cells.
    squared = 4 * float(np.prod(np.sin(np.radians([half, *(half - angle for angle in angles)]))))
    directions = np.array(
        [
            [1.0, 0.0, 0.0],
            [cos_gamma, sin_gamma, 0.0],
            [cos_beta, (cos_alpha - cos_beta * cos_gamma) / sin_gamma, float(np.sqrt(squared)) / sin_gamma],
        ]
    )
    lattice: NDArray[np.float64] = np.array(lengths)[:, None] * directions
    return lattice
