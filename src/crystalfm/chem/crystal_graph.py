"""Periodic graphs of crystals in ALIGNN's two manners, and the line graph of their bonds.

Edges are sorted by target. A line graph's edges (a triplet each) are sorted by their second edge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from crystalfm.chem.neighbor_search import nearest_pairs, pairs_within, starts_of
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

Strategy = Literal["k_nearest", "radius"]

GRAPH_VERSION = 1
"""Raised when the same crystal would get another graph; makes cached graphs stale."""

SHELL_TOLERANCE_ANGSTROM = 1e-4
"""Neighbours that differ by less from the last one belong to its shell.

The distances within shells of relaxed structures scatter by up to 1e-5 Å (coordinates are published with five to eight
decimals), those between shells differ by more than 1e-3 Å; few gaps lie between.
"""

_ROUNDING_ANGSTROM = 1e-8
_SINGLE_ROUNDING_ANGSTROM = 1e-5
"""A length this little above a cut-off is at the cut-off; without it rotations would decide (float64, float32)."""

_SHORTEST_K_NEAREST_ANGSTROM = 0.15
_SHORTEST_RADIUS_ANGSTROM = 1e-4
_ALIGNN_LATTICE_DECIMALS = 5
_LARGEST_CODE = 2**63


@dataclass(frozen=True)
class CrystalGraph:
    """Directed edges of a crystal, or of several side by side; every edge has its reverse.

    Attributes:
        num_atoms: number of atoms N; several crystals' atoms are counted on from one to the next.
        source: (E,) int64, atom in the home cell at which the edge starts.
        target: (E,) int64, atom at an image of which the edge ends; ascending.
        image: (E, 3) int64, cell in which it ends, in lattice vectors.
        vector: (E, 3) float32, from source to the target's image, in angstrom.
    """

    num_atoms: int
    source: Integers
    target: Integers
    image: Integers
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class GraphSettings:
    """How crystals become graphs.

    Attributes:
        strategy: ``k_nearest`` (ALIGNN's classic graph) or ``radius`` (that of its 2026 release).
        max_neighbors: of ``k_nearest``: neighbours of an atom; the whole shell of the last one is kept.
        cutoff_angstrom: of ``radius``: longest edge.
        angle_cutoff_angstrom: longest edge that takes part in triplets; ``None`` for no limit.
        as_alignn: repeat what the ``alignn`` package does to the bit, see ``k_nearest_graph``.

    Raises:
        UserError: a setting is unknown or out of range.
    """

    strategy: Strategy = "k_nearest"
    max_neighbors: int = 12
    cutoff_angstrom: float = 5.0
    angle_cutoff_angstrom: float | None = None
    as_alignn: bool = False

    def __post_init__(self) -> None:
        strategies = get_args(Strategy)
        angle_cutoff = self.cutoff_angstrom if self.angle_cutoff_angstrom is None else self.angle_cutoff_angstrom
        longest = self.cutoff_angstrom if self.strategy == "radius" else inf
        for fits, setting, remedy in (
            (self.strategy in strategies, f"strategy={self.strategy}", f"one of {', '.join(strategies)}"),
            (self.max_neighbors >= 1, f"max_neighbors={self.max_neighbors}", "1 or more"),
            (0 < self.cutoff_angstrom < inf, f"cutoff_angstrom={self.cutoff_angstrom}", "more than 0"),
            (
                0 < angle_cutoff <= longest,
                f"angle_cutoff_angstrom={self.angle_cutoff_angstrom}",
                "more than 0, and no more than cutoff_angstrom where that counts",
            ),
        ):
            if not fits:
                raise UserError(f"crystal graphs cannot have {setting}", remedy=f"it must be {remedy}")

    def build(self, crystals: Sequence[Crystal]) -> CrystalGraph:
        """Return the graph of a crystal, or of several side by side, which takes less time than one by one.

        Args:
            crystals: one sound crystal or more, see ``crystals.checked``; a few hundred at once at most, for memory.
        """
        if self.strategy == "radius":
            return _radius(crystals, self.cutoff_angstrom, as_alignn=self.as_alignn)
        return _k_nearest(crystals, self.max_neighbors, as_alignn=self.as_alignn)

    @property
    def pair_with_itself(self) -> bool:
        """Whether an edge from an atom to an image of itself follows itself, as its images in a supercell do.

        The classic graphs of ``alignn`` lack these pairs, which DGL leaves out; those of its 2026 release have them.
        """
        return self.strategy == "radius" or not self.as_alignn

    def triplets(self, source: Integers, target: Integers, vector: NDArray[np.float32]) -> tuple[Integers, Integers]:
        """Return the line graph of one graph or of several, concatenated, as ``line_graph`` does."""
        return line_graph(source, target, allowed=self._allowed(vector), pair_with_itself=self.pair_with_itself)

    def num_triplets(self, graph: CrystalGraph) -> Integers:
        """Return how many triplets of ``triplets`` have each atom as the end of the second edge (N,)."""
        allowed = self._allowed(graph.vector)
        chosen = slice(None) if allowed is None else allowed
        source, target = graph.source[chosen], graph.target[chosen]
        paired = np.bincount(target, minlength=graph.num_atoms)[source]
        if not self.pair_with_itself:
            paired -= source == target
        counts: Integers = np.bincount(target, weights=paired, minlength=graph.num_atoms).astype(np.int64)
        return counts

    def _allowed(self, vector: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        if self.angle_cutoff_angstrom is None:
            return None
        longest = self.angle_cutoff_angstrom + (0.0 if self.as_alignn else _SINGLE_ROUNDING_ANGSTROM)
        short: NDArray[np.bool_] = np.sqrt(np.einsum("ei,ei->e", vector, vector)) <= np.float32(longest)
        return short

    def identity(self) -> dict[str, Any]:
        """Return all that determines a graph besides its crystal, as plain values."""
        return {**asdict(self), "version": GRAPH_VERSION}


def k_nearest_graph(crystal: Crystal, max_neighbors: int = 12, *, as_alignn: bool = False) -> CrystalGraph:
    """Connect every atom with its nearest neighbours and the whole shell of the last of them, in both directions.

    It is the classic graph of ALIGNN (Choudhary and DeCost, npj Comput. Mater. 7, 185, 2021): an edge that either of
    its atoms chose is there, and so is its reverse. There is no cut-off: the ``alignn`` package searches within 8 Å and
    grows that where an atom has too few neighbours, and which are the nearest does not depend on how far one looks.

    In two ways that package's graphs depend on more than the crystal, and with ``as_alignn`` these do the same, to the
    bit, for published weights and for comparisons:

    - ``jarvis-tools`` rounds the lattice vectors to five decimals for the atoms' positions but not for the
      translations, and distances count as equal only when all their bits are. So rounding decides which neighbours of
      a shell are kept; about half of the real ones lose some, and a rotation changes which.
    - An edge from an atom to an image of itself is there twice in each direction, as it was chosen at both its ends.
      In a supercell, where its ends are two atoms, it is there once.

    Args:
        crystal: a sound crystal, see ``crystals.checked``.
        max_neighbors: neighbours of an atom, 1 or more.
        as_alignn: whether to build what ``nearest_neighbor_edges`` (``use_canonize``) and ``build_undirected_edgedata``
            of the package build.

    Raises:
        UserError: ``max_neighbors`` is out of range.
    """
    return GraphSettings(max_neighbors=max_neighbors, as_alignn=as_alignn).build([crystal])


def radius_graph(crystal: Crystal, cutoff_angstrom: float = 5.0, *, as_alignn: bool = False) -> CrystalGraph:
    """Connect all atoms and images of atoms that are no farther apart than the cut-off, in both directions.

    It is the graph of the 2026 release of the ``alignn`` package (``build_pure_torch_graph``), which takes 5 Å for
    edges and 3.5 Å for those that take part in triplets (``GraphSettings.angle_cutoff_angstrom``).

    Args:
        crystal: the crystal.
        cutoff_angstrom: longest edge.
        as_alignn: whether to round the lattice for the positions as the package does; edges change by 1e-5 Å. Edges
            exactly as long as the cut-off are then in or out as rounding has it.

    Raises:
        UserError: the cut-off is out of range.
    """
    return GraphSettings("radius", cutoff_angstrom=cutoff_angstrom, as_alignn=as_alignn).build([crystal])


def line_graph(
    source: Integers, target: Integers, *, allowed: NDArray[np.bool_] | None = None, pair_with_itself: bool = True
) -> tuple[Integers, Integers]:
    """Return the pairs of edges u → v and v → w of a graph, or of several graphs concatenated.

    The edge back (w = u) is among the second ones, as in ``dgl.line_graph`` with ``backtracking``.

    Args:
        source: (E,) atoms at which edges start; of several graphs, counted on from one to the next.
        target: (E,) atoms at which they end, ascending.
        allowed: (E,) bool, edges that take part; all when ``None``.
        pair_with_itself: whether an edge from an atom to an image of the same atom follows itself; DGL leaves that out.

    Returns:
        first, second: (T,) int64 indices of edges, sorted by ``second``, then ``first``.

    Raises:
        ValueError: the edges are not sorted by target.
    """
    if (target[1:] < target[:-1]).any():
        raise ValueError("a line graph needs edges sorted by their target")
    if allowed is not None:
        chosen = np.flatnonzero(allowed)
        first, second = line_graph(source[chosen], target[chosen], pair_with_itself=pair_with_itself)
        return chosen[first], chosen[second]
    num_atoms = int(max(source.max(initial=-1), target.max(initial=-1))) + 1
    num_incoming = np.bincount(target, minlength=num_atoms)
    starts = starts_of(num_incoming)
    counts = num_incoming[source]
    edges = np.arange(len(source))
    second = np.repeat(edges, counts)
    # The edges into an atom follow one another: those before an edge are a range.
    first = np.arange(len(second)) + np.repeat(starts[source] - starts_of(counts), counts)
    if not pair_with_itself and (source == target).any():
        kept = first != second
        first, second = first[kept], second[kept]
    return first, second


def _bases(crystals: Sequence[Crystal], *, as_alignn: bool) -> list[Floats]:
    """Return the lattice vectors that give the positions of each crystal's atoms."""
    if as_alignn:
        return [np.around(crystal.lattice, _ALIGNN_LATTICE_DECIMALS) for crystal in crystals]
    return [crystal.lattice for crystal in crystals]


def _k_nearest(crystals: Sequence[Crystal], max_neighbors: int, *, as_alignn: bool) -> CrystalGraph:
    bases = _bases(crystals, as_alignn=as_alignn)
    tolerance = 0.0 if as_alignn else SHELL_TOLERANCE_ANGSTROM
    found = nearest_pairs(crystals, bases, max_neighbors, tolerance, _SHORTEST_K_NEAREST_ANGSTROM)
    center, point, image = (
        np.concatenate([getattr(pairs, name) for pairs in found]) for name in ("center", "point", "image")
    )
    if as_alignn:
        # Of an edge and its reverse, the one from the lower atom stands for both.
        backward = point < center
        low, high = np.where(backward, point, center), np.where(backward, center, point)
        center, point, image = _distinct(low, high, np.where(backward[:, None], -image, image))
    source, target = np.concatenate([center, point]), np.concatenate([point, center])
    image = np.concatenate([image, -image])
    if as_alignn:
        order = np.argsort(target, kind="stable")
        source, target, image = source[order], target[order], image[order]
    else:
        target, source, image = _distinct(target, source, image)
    num_atoms = [crystal.num_atoms for crystal in crystals]
    coords = np.concatenate([crystal.frac_coords for crystal in crystals])
    basis = np.repeat(np.stack(bases), num_atoms, axis=0)[source]
    vector = np.einsum("ei,eij->ej", coords.take(target, axis=0) + image - coords.take(source, axis=0), basis)
    return CrystalGraph(sum(num_atoms), source, target, image, vector.astype(np.float32))


def _radius(crystals: Sequence[Crystal], cutoff_angstrom: float, *, as_alignn: bool) -> CrystalGraph:
    longest = cutoff_angstrom + (0.0 if as_alignn else _ROUNDING_ANGSTROM)
    radii = np.full(len(crystals), longest)
    pairs = pairs_within(crystals, _bases(crystals, as_alignn=as_alignn), radii, _SHORTEST_RADIUS_ANGSTROM)
    pairs = pairs.take(np.argsort(pairs.point, kind="stable"))
    num_atoms = sum(crystal.num_atoms for crystal in crystals)
    return CrystalGraph(num_atoms, pairs.center, pairs.point, pairs.image, pairs.vector.astype(np.float32))


def _distinct(first: Integers, second: Integers, image: Integers) -> tuple[Integers, Integers, Integers]:
    """Return each combination of two atoms and an image once, sorted by the first atom, the second, and the image."""
    origin = image.min(axis=0)
    sizes = [int(second.max()) + 1, *(image.max(axis=0) - origin + 1).tolist()]
    if (int(first.max()) + 1) * prod(sizes) < _LARGEST_CODE:
        code = first
        for size, values in zip(sizes, (second, *(image - origin).T), strict=True):
            code = code * size + values
        _, places = np.unique(code, return_index=True)
    else:  # coordinates that are millions of cells apart
        _, places = np.unique(np.column_stack([first, second, image]), axis=0, return_index=True)
    return first[places], second[places], image[places]
