"""ALIGNN over the sparse graph of a configuration of defects: nodes at the defects alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from crystalfm.chem.atom_features import NUM_CGCNN_FEATURES
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.defects.sparse_graph import elements_of_codes, sparse_crystal
from crystalfm.contracts import UserError
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.data.graph_cache import cached_graphs
from crystalfm.encoders.alignn import ALIGNN
from crystalfm.encoders.alignn_published import atom_table
from crystalfm.encoders.alignn_weights import graphs_of_state
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.crystal_graph import AlignnNetwork
from crystalfm.encoders.defect_states import KnownDefects, read_records
from crystalfm.encoders.settings import check_at_least, check_choice, check_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.data.features import FeatureStore
    from crystalfm.encoders.cache import EmbeddingCache
    from crystalfm.encoders.networks import EncoderNetwork

ENCODER_VERSION = 1
"""Raised when the same configuration would get another graph, or a node other features."""


def node_table() -> Tensor:
    """Return the features (C, 2 F + 1) of every number of a node.

    They are CGCNN's of the element taken, those of the element that came (0 for a vacancy), and 1 for a vacancy.
    """
    elements = atom_table(NUM_CGCNN_FEATURES)
    taken, added = (torch.from_numpy(numbers) for numbers in elements_of_codes())
    vacancy = (added == 0).float()[:, None]
    return torch.cat([elements[taken], elements[added] * (1 - vacancy), vacancy], dim=1)


class DefectGraphEncoder(ModalityEncoder):
    """ALIGNN (Choudhary & DeCost 2021) over defects as nodes (Kazeev et al. 2023), trained with the model.

    Each defect is joined to the nearest other defects and images of defects, and the whole shell of the last of them;
    pairs of such edges make the line graph. A cell of 192 sites with three defects has three nodes in place of 190
    atoms. The graph is equal for all configurations that the layer's symmetry makes equivalent.

    Args:
        modality: modality it serves (runtime).
        cache: embedding cache, beside which the graphs are kept (runtime).
        max_neighbors: nearest defects that each is joined to.
        longest_angstrom: centre of the last Gaussian over distances; what is farther is only known to be far.
        alignn_layers: layers that update triplets, edges and defects.
        gcn_layers: layers after them that update edges and defects.
        edge_input_features: Gaussians over distances.
        triplet_input_features: Gaussians over the cosine of angles.
        embedding_features: width between Gaussians and states.
        hidden_features: width of the states (D).
        norm: ``layer``, or ``batch`` as in the paper.
        pooling: ``atoms`` (the defects), or ``all``: defects, edges and triplets side by side.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        modality: str,
        cache: EmbeddingCache,
        max_neighbors: int = 6,
        longest_angstrom: float = 16.0,
        alignn_layers: int = 2,
        gcn_layers: int = 2,
        edge_input_features: int = 80,
        triplet_input_features: int = 40,
        embedding_features: int = 64,
        hidden_features: int = 64,
        norm: Literal["batch", "layer"] = "layer",
        pooling: Literal["atoms", "all"] = "atoms",
    ) -> None:
        super().__init__(modality)
        check_choice(modality, "norm", norm, ("batch", "layer"))
        check_choice(modality, "pooling", pooling, ("atoms", "all"))
        counts = {
            "alignn_layers": alignn_layers,
            "gcn_layers": gcn_layers,
            "edge_input_features": edge_input_features,
            "triplet_input_features": triplet_input_features,
            "embedding_features": embedding_features,
            "hidden_features": hidden_features,
        }
        least = {"alignn_layers": 0, "gcn_layers": 0, "edge_input_features": 2, "triplet_input_features": 2}
        for key, value in {"max_neighbors": max_neighbors, **counts}.items():
            check_at_least(modality, key, value, least.get(key, 1))
        check_at_least(modality, "longest_angstrom", longest_angstrom, 1.0)
        if alignn_layers + gcn_layers == 0:
            raise UserError(f"encoders.{modality} has no layer", remedy="set alignn_layers or gcn_layers")
        self._architecture: dict[str, Any] = {**counts, "cutoff_angstrom": longest_angstrom, "norm": norm}
        self._graphs = GraphSettings("k_nearest", max_neighbors)
        self._pooling: Literal["atoms", "all"] = pooling
        self._cache = cache
        self._known = KnownDefects()
        width = hidden_features * (3 if pooling == "all" else 1)
        self._report = EncoderReport(modality, "alignn_defects", frozen=False, width=width)

    def fit(self, values: Sequence[str | None]) -> None:
        """Remember the hosts and rules of the training rows."""
        self._known = KnownDefects.of(read_records(values))

    def prepare(self, values: Sequence[str | None]) -> FeatureStore:
        """Return the graph of every row; a row without a defect counts as one without this modality.

        Raises:
            ValueError: a value is no record of defects.
        """
        records = read_records(values)
        texts = [sparse_crystal(record).to_json() if len(record.configuration) else None for record in records]
        remaining = iter(texts)
        rows = [None if value is None else next(remaining) for value in values]
        distinct = sorted({text for text in texts if text is not None})
        place = {text: number for number, text in enumerate(distinct)}
        present = np.array([row is not None for row in rows], dtype=bool)
        index: NDArray[np.int64] = np.array([0 if row is None else place[row] for row in rows], dtype=np.int64)
        graphs = cached_graphs(self._cache.root.parent, distinct, self._graphs)
        most = int(graphs.num_atoms.max(initial=0))
        self._report.notes = [f"{len(distinct):,} distinct configurations of up to {most} defects"]
        if unknown := self._known.unknown(records):
            self._report.notes.append(f"rules that no training row has: {', '.join(unknown)}")
        return CrystalGraphStore(self.modality, present, graphs=graphs, index=index, settings=self._graphs)

    def build_network(self) -> EncoderNetwork:
        """Return ALIGNN without its head, untrained."""
        network = ALIGNN(node_table(), output_features=0, **self._architecture)
        return AlignnNetwork(self.modality, network, self._pooling)

    def state(self) -> dict[str, Any]:
        """Return how graphs are made, the architecture, and the hosts and rules of the training rows."""
        return {
            "version": ENCODER_VERSION,
            "known": self._known.state(),
            "graphs": self._graphs.identity(),
            "architecture": dict(self._architecture),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore them.

        Raises:
            UserError: this release makes graphs in another way.
        """
        check_version(self.modality, "graph", state, ENCODER_VERSION)
        self._known = KnownDefects.of_state(state["known"])
        self._graphs = graphs_of_state(state["graphs"])
        self._architecture = dict(state["architecture"])

    def report(self) -> EncoderReport:
        """Describe the encoder; complete after ``prepare``."""
        return self._report
