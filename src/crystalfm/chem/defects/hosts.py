"""Two-dimensional hosts: their unit cells, and supercells whose sites are numbered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, make_crystal
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

_VACUUM_AXIS = 2
_MATCH_ANGSTROM = 0.3
"""An atom of an unrelaxed structure is this near to the site it is on; the nearest sites are 1.4 angstrom apart."""


@dataclass(frozen=True)
class Host:
    """A two-dimensional material: one layer in the plane of the first two lattice vectors.

    Attributes:
        name: its usual name.
        cell: unit cell; the third lattice vector holds the vacuum.
        default_size: unit cells along the lattice vectors in 2DMD's supercells.
    """

    name: str
    cell: Crystal
    default_size: tuple[int, int, int]

    @property
    def elements(self) -> tuple[str, ...]:
        """Its elements, in the order of its sites."""
        return tuple(dict.fromkeys(SYMBOLS[number - 1] for number in self.cell.atomic_numbers.tolist()))


@dataclass(frozen=True, eq=False)
class Supercell:
    """A host repeated in the plane, with numbered sites.

    Site ``(basis * n1 + i) * n2 + j`` is atom ``basis`` of the unit cell in column i and row j of the repeated cells.

    Attributes:
        host: the host.
        size: unit cells along the three lattice vectors.

    Raises:
        UserError: a size is not positive, or repeats the layer across the vacuum.
    """

    host: Host
    size: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.size) != _VACUUM_AXIS + 1 or min(self.size) < 1 or self.size[_VACUUM_AXIS] != 1:
            raise UserError(
                f"size={list(self.size)} is no supercell of a layer",
                remedy=f"two whole numbers and 1, as size={_listed(self.host.default_size)}",
            )

    @property
    def num_sites(self) -> int:
        """Sites in the supercell."""
        return self.host.cell.num_atoms * self.size[0] * self.size[1]

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(N,) atomic number of each site in the pristine host."""
        numbers: NDArray[np.int64] = np.repeat(self.host.cell.atomic_numbers, self.size[0] * self.size[1])
        return numbers

    @cached_property
    def frac_coords(self) -> NDArray[np.float64]:
        """(N, 3) fractional coordinates of each site."""
        basis, columns, rows = self.places.T
        shifts = np.stack([columns, rows, np.zeros_like(rows)], axis=1)
        coords: NDArray[np.float64] = (self.host.cell.frac_coords[basis] + shifts) / np.array(self.size)
        return coords

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(N, 3) atom of the unit cell, column and row of each site."""
        shape = (self.host.cell.num_atoms, self.size[0], self.size[1])
        return np.stack(np.unravel_index(np.arange(self.num_sites), shape), axis=1).astype(np.int64)

    @property
    def lattice(self) -> NDArray[np.float64]:
        """(3, 3) lattice vectors as rows, in angstrom."""
        lattice: NDArray[np.float64] = self.host.cell.lattice * np.array(self.size)[:, None]
        return lattice

    def site(self, basis: int, column: int, row: int) -> int:
        """Return the number of a site; columns and rows are counted around the supercell."""
        return int((basis * self.size[0] + column % self.size[0]) * self.size[1] + row % self.size[1])

    def sites_of(self, symbol: str) -> list[int]:
        """Return the sites of an element, ascending."""
        return [int(site) for site in np.flatnonzero(self.numbers == SYMBOLS.index(symbol) + 1)]

    def match(self, crystal: Crystal) -> NDArray[np.int64]:
        """Return (M,) the site that each atom of an unrelaxed structure is on.

        Raises:
            UserError: the cells differ, an atom is on no site, or two are on the same.
        """
        if not np.allclose(crystal.lattice, self.lattice, atol=_MATCH_ANGSTROM):
            raise UserError(f"its cell is not that of {self.host.name} {_listed(self.size)}")
        difference = crystal.frac_coords[:, None] - self.frac_coords[None]
        difference -= np.round(difference)
        distances = np.linalg.norm(difference @ self.lattice, axis=2)
        nearest: NDArray[np.int64] = distances.argmin(axis=1)
        far = np.flatnonzero(distances[np.arange(len(nearest)), nearest] > _MATCH_ANGSTROM)
        if len(far):
            raise UserError(f"atom {far[0] + 1} is on no site of {self.host.name} {_listed(self.size)}")
        if len(set(nearest.tolist())) < len(nearest):
            raise UserError(f"two atoms are on one site of {self.host.name} {_listed(self.size)}")
        return nearest


def _listed(size: Iterable[int]) -> str:
    return f"[{','.join(map(str, size))}]"


def _hexagonal(edge: float, height: float) -> list[list[float]]:
    return [[edge, 0.0, 0.0], [-edge / 2, edge * 3**0.5 / 2, 0.0], [0.0, 0.0, height]]


_METAL, _CHALCOGEN = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
"""The two triangular lattices of a hexagonal layer."""


def _hexagonal_host(
    name: str, edge: float, height: float, atoms: Iterable[tuple[str, tuple[float, float], float]], repeats: int
) -> Host:
    symbols, places, depths = zip(*atoms, strict=True)
    coords = [[*place, 0.5 + depth / height] for place, depth in zip(places, depths, strict=True)]
    numbers = [SYMBOLS.index(symbol) + 1 for symbol in symbols]
    return Host(name, make_crystal(_hexagonal(edge, height), numbers, coords), (repeats, repeats, 1))


def _hosts() -> dict[str, Host]:
    """Return the hosts; edges and heights in angstrom are those of 2DMD's relaxed unit cells, rounded."""
    hosts = [
        _hexagonal_host(
            "MoS2", 3.190, 14.879, [("Mo", _METAL, 0.0), ("S", _CHALCOGEN, -1.565), ("S", _CHALCOGEN, 1.565)], 8
        ),
        _hexagonal_host(
            "WSe2", 3.327, 15.069, [("W", _METAL, 0.0), ("Se", _CHALCOGEN, 1.681), ("Se", _CHALCOGEN, -1.681)], 8
        ),
        _hexagonal_host("BN", 2.512, 20.0, [("B", _METAL, 0.0), ("N", _CHALCOGEN, 0.0)], 8),
        *(
            _hexagonal_host(
                f"{metal}Se",
                edge,
                20.0,
                [
                    *((metal, _CHALCOGEN, sign * inner) for sign in (-1, 1)),
                    *(("Se", _METAL, sign * outer) for sign in (1, -1)),
                ],
                6,
            )
            for metal, edge, inner, outer in (("Ga", 3.819, 1.235, 2.409), ("In", 4.096, 1.417, 2.685))
        ),
        Host(
            "P",
            make_crystal(
                np.diag([3.300, 4.601, 20.0]),
                [15] * 4,
                [[0, 0.5886, 0.4473], [0, 0.4114, 0.5527], [0.5, 0.0886, 0.5527], [0.5, 0.9114, 0.4473]],
            ),
            (6, 6, 1),
        ),
    ]
    return {host.name: host for host in hosts}


HOSTS: Mapping[str, Host] = _hosts()
"""2DMD's hosts with high-density defects: MoS2, WSe2, h-BN, GaSe, InSe and black phosphorus."""

ALIASES: Mapping[str, str] = {"h-BN": "BN", "hBN": "BN", "BP": "P", "black phosphorus": "P"}


def find_host(name: str) -> Host:
    """Return a host by its name or one of its other names.

    Raises:
        UserError: there is none of that name.
    """
    host = HOSTS.get(ALIASES.get(name, name))
    if host is None:
        raise UserError(f"the host {name!r} is not known", remedy=f"one of {', '.join(HOSTS)}")
    return host
