"""Graphs of many crystals in a few flat arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.neighbor_search import starts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystal_graph import GraphSettings
    from crystalfm.chem.crystals import Crystal

_BATCH_CRYSTALS = 128
"""Crystals built together: enough that NumPy's calls cost little, few enough that their pairs fit in the cache."""


@dataclass(frozen=True)
class GraphArrays:
    """Graphs of K crystals with A atoms and E edges in all, one crystal after another.

    Integers are of the smallest type that holds them: an edge of crystals of up to 256 atoms takes 17 bytes.

    Attributes:
        num_atoms: (K,) atoms of each crystal.
        num_edges: (K,) directed edges of each crystal.
        num_triplets: (K,) edges of each crystal's line graph.
        atomic_numbers: (A,) unsigned.
        source: (E,) unsigned, atom within its crystal at which the edge starts.
        target: (E,) unsigned, atom within its crystal to an image of which it leads; ascending within a crystal.
        image: (E, 3) signed, cell of the target's image in lattice vectors.
        vector: (E, 3) float32, from source to the target's image, in angstrom.
    """

    num_atoms: NDArray[np.int64]
    num_edges: NDArray[np.int64]
    num_triplets: NDArray[np.int64]
    atomic_numbers: NDArray[np.unsignedinteger[Any]]
    source: NDArray[np.unsignedinteger[Any]]
    target: NDArray[np.unsignedinteger[Any]]
    image: NDArray[np.signedinteger[Any]]
    vector: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.num_atoms)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the arrays."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> GraphArrays:
        """Return graphs of named arrays.

        Raises:
            KeyError: one is missing.
        """
        return cls(**{name: arrays[name] for name in cls.names()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.names()}


def build_arrays(crystals: Iterable[Crystal], settings: GraphSettings) -> GraphArrays:
    """Return the graphs of crystals, in order."""
    remaining = iter(crystals)
    parts = [_empty()]
    while batch := list(islice(remaining, _BATCH_CRYSTALS)):
        parts.append(_build_batch(batch, settings))
    return concatenate(parts)


def _empty() -> GraphArrays:
    none, small = np.empty(0, np.int64), np.empty(0, np.uint8)
    return GraphArrays(none, none, none, small, small, small, np.empty((0, 3), np.int8), np.empty((0, 3), np.float32))


def _build_batch(crystals: Sequence[Crystal], settings: GraphSettings) -> GraphArrays:
    graph = settings.build(crystals)
    num_atoms = np.array([crystal.num_atoms for crystal in crystals])
    first_atoms = starts_of(num_atoms)
    # Edges are sorted by target: those of a crystal follow one another.
    num_edges = np.add.reduceat(np.bincount(graph.target, minlength=graph.num_atoms), first_atoms)
    offsets = np.repeat(first_atoms, num_edges)
    return GraphArrays(
        num_atoms=num_atoms,
        num_edges=num_edges,
        num_triplets=np.add.reduceat(settings.num_triplets(graph), first_atoms),
        atomic_numbers=_smallest(np.concatenate([crystal.atomic_numbers for crystal in crystals]), "u"),
        source=_smallest(graph.source - offsets, "u"),
        target=_smallest(graph.target - offsets, "u"),
        image=_smallest(graph.image, "i"),
        vector=graph.vector,
    )


def concatenate(parts: Sequence[GraphArrays]) -> GraphArrays:
    """Return the graphs of all parts, in order; the types of their integers may differ."""
    return GraphArrays.of(
        {name: np.concatenate([getattr(part, name) for part in parts]) for name in GraphArrays.names()}
    )


def _smallest(values: NDArray[np.int64], kind: str) -> NDArray[Any]:
    """Return integers in the smallest type of a kind that holds them.

    Args:
        values: the integers; not negative for an unsigned kind.
        kind: ``u`` or ``i``.
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for size in (1, 2, 4):
        limits = np.iinfo(f"{kind}{size}")
        if limits.min <= low and high <= limits.max:
            return values.astype(limits.dtype)
    return values
