"""The feature store of crystal graphs: flat arrays in, a batch of concatenated graphs with their line graph out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crystalfm.chem.neighbor_search import starts_of
from crystalfm.contracts import batch_key
from crystalfm.data.features import FeatureStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.chem.crystal_graph import GraphSettings
    from crystalfm.chem.graph_arrays import GraphArrays


class CrystalGraphStore(FeatureStore):
    """Crystal graphs of every row in flat arrays, a memory map included, each distinct crystal once.

    Nothing is padded, so rows of like size need not share a batch: ``lengths`` is ``None``. What a row costs is in
    ``costs``, for batches of bounded memory.

    Args:
        modality: prefix of the batch keys.
        present: (N,) bool, false where the row lacks the modality.
        graphs: graphs of K crystals.
        index: (N,) crystal of each row (anything valid where absent).
        settings: how the graphs were built, which says what their line graph is.
    """

    def __init__(
        self,
        modality: str,
        present: NDArray[np.bool_],
        *,
        graphs: GraphArrays,
        index: NDArray[np.int64],
        settings: GraphSettings,
    ) -> None:
        super().__init__(modality, present)
        self._graphs = graphs
        self._index = index
        self._settings = settings
        self._atom_starts = starts_of(graphs.num_atoms)
        self._edge_starts = starts_of(graphs.num_edges)

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """Atoms of each row (N,); 0 where the modality is absent."""
        return self._per_row(self._graphs.num_atoms)

    @property
    def num_edges(self) -> NDArray[np.int64]:
        """Directed edges of each row (N,); 0 where the modality is absent."""
        return self._per_row(self._graphs.num_edges)

    @property
    def num_triplets(self) -> NDArray[np.int64]:
        """Edges of each row's line graph (N,), which time and memory follow; 0 where the modality is absent."""
        return self._per_row(self._graphs.num_triplets)

    @property
    def costs(self) -> NDArray[np.int64]:
        """Atoms, edges and triplets of each row (N,): a network keeps as many states of it."""
        return self.num_atoms + self.num_edges + self.num_triplets

    def _per_row(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.zeros(len(self), dtype=np.int64)
        found[self.present] = counts[self._index[self.present]]
        return found

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return the graphs of ``rows`` one after another, and their line graph.

        Keys: ``atomic_numbers`` (A,), ``num_atoms`` (B,), ``edge_source``, ``edge_target`` (E,) and ``edge_vector``
        (E, 3), ``num_edges`` (B,), ``triplet_first`` and ``triplet_second`` (T,); see ``contracts.BATCH_KEYS``. Edges
        are sorted by target, triplets by second edge.
        """
        del variants
        present = self.present[rows]
        crystals = self._index[rows[present]]
        num_atoms, num_edges = self._graphs.num_atoms[crystals], self._graphs.num_edges[crystals]
        atoms = _ranges(self._atom_starts[crystals], num_atoms)
        edges = _ranges(self._edge_starts[crystals], num_edges)
        first_atom = np.repeat(starts_of(num_atoms), num_edges)
        source = self._graphs.source[edges] + first_atom
        target = self._graphs.target[edges] + first_atom
        vector = self._graphs.vector[edges]
        first, second = self._settings.triplets(source, target, vector)
        features: dict[str, NDArray[Any]] = {
            "atomic_numbers": self._graphs.atomic_numbers[atoms].astype(np.int64),
            "num_atoms": _spread(num_atoms, present),
            "edge_source": source,
            "edge_target": target,
            "edge_vector": vector,
            "num_edges": _spread(num_edges, present),
            "triplet_first": first,
            "triplet_second": second,
        }
        return {batch_key(self.modality, kind): torch.from_numpy(array) for kind, array in features.items()}


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of all ranges ``start, …, start + count - 1``, one range after another."""
    places: NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(starts - starts_of(counts), counts)
    return places


def _spread(values: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return values where present and 0 elsewhere."""
    spread = np.zeros(len(present), dtype=np.int64)
    spread[present] = values
    return spread
