"""The crystal-graph encoder: ALIGNN over atoms, bonds and angles, untrained or published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.contracts import UserError
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.data.graph_cache import cached_graphs
from crystalfm.encoders.alignn import ALIGNN, AlignnOutput, CrystalBatch
from crystalfm.encoders.alignn_published import atom_table, load_published
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import EncoderNetwork
from crystalfm.encoders.settings import check_at_least, check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from crystalfm.encoders.cache import EmbeddingCache

_NUM_CGCNN = 92


def _run(network: ALIGNN, batch: CrystalBatch, *, pool_all: bool) -> AlignnOutput:
    output: AlignnOutput = network(batch, pool_all=pool_all)
    return output


# Its passes over memory are fused by hand, and the compiler fails on what is left of graphs of ever new sizes.
_without_compiler: Any = torch.compiler.disable
_run_as_it_is: Any = _without_compiler(_run)


class AlignnNetwork(EncoderNetwork):
    """ALIGNN's pooled states as the vector of a crystal.

    Args:
        modality: modality whose batch keys it reads.
        network: the network; its head is not used.
        pooling: ``atoms``, or ``all`` for atoms, bonds and triplets side by side.
    """

    def __init__(self, modality: str, network: ALIGNN, pooling: Literal["atoms", "all"]) -> None:
        super().__init__(modality, network.width * (3 if pooling == "all" else 1))
        self.network = network
        self.pool_all = pooling == "all"
        if not self.pool_all:
            network.freeze_what_only_pooling_needs()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) or (B, 3 D) of the crystals in the batch, 0 for a row without one."""
        output: AlignnOutput = _run_as_it_is(
            self.network, CrystalBatch.from_batch(batch, self.modality), pool_all=self.pool_all
        )
        return output.embedding() if self.pool_all else output.atoms


class CrystalGraphEncoder(ModalityEncoder):
    """ALIGNN (Choudhary & DeCost 2021) over the graphs of crystals, which are made once and kept in the cache.

    Args:
        modality: modality it serves (runtime).
        cache: cache beside which the graphs are kept (runtime).
        strategy: ``k_nearest``, the paper's graph, or ``radius``.
        max_neighbors: of ``k_nearest``: neighbours of an atom; the whole shell of the last one is kept.
        cutoff_angstrom: of ``radius``: longest bond.
        angle_cutoff_angstrom: longest bond that takes part in triplets; ``None`` for no limit.
        as_alignn: graphs as the ``alignn`` package makes them, to the bit; for its published weights.
        alignn_layers: layers that update triplets, bonds and atoms.
        gcn_layers: layers after them that update bonds and atoms.
        edge_input_features: Gaussians over bond lengths, 0 to 8 angstrom.
        triplet_input_features: Gaussians over the cosine of bond angles.
        embedding_features: width between Gaussians and states.
        hidden_features: width of the states (D).
        norm: ``batch`` as in the paper, or ``layer``, where rows of a batch do not see each other.
        pooling: ``atoms`` (the paper's), or ``all``: atoms, bonds and triplets side by side.
        published: folder of a network of the ``alignn`` package to start from; it sets layers, widths and norm.

    Raises:
        UserError: a setting is out of range, or the published network cannot be loaded.
    """

    def __init__(
        self,
        *,
        modality: str,
        cache: EmbeddingCache,
        strategy: Literal["k_nearest", "radius"] = "k_nearest",
        max_neighbors: int = 12,
        cutoff_angstrom: float = 5.0,
        angle_cutoff_angstrom: float | None = None,
        as_alignn: bool = False,
        alignn_layers: int = 4,
        gcn_layers: int = 4,
        edge_input_features: int = 80,
        triplet_input_features: int = 40,
        embedding_features: int = 64,
        hidden_features: int = 256,
        norm: Literal["batch", "layer"] = "batch",
        pooling: Literal["atoms", "all"] = "atoms",
        published: str | None = None,
    ) -> None:
        super().__init__(modality)
        check_choice(modality, "strategy", strategy, ("k_nearest", "radius"))
        check_choice(modality, "norm", norm, ("batch", "layer"))
        check_choice(modality, "pooling", pooling, ("atoms", "all"))
        self._architecture: dict[str, Any] = {
            "alignn_layers": alignn_layers,
            "gcn_layers": gcn_layers,
            "edge_input_features": edge_input_features,
            "triplet_input_features": triplet_input_features,
            "embedding_features": embedding_features,
            "hidden_features": hidden_features,
        }
        for key, value in {"max_neighbors": max_neighbors, **self._architecture}.items():
            check_at_least(modality, key, value, {"alignn_layers": 0, "gcn_layers": 0}.get(key, 1))
        for key in ("edge_input_features", "triplet_input_features"):
            check_at_least(modality, key, self._architecture[key], 2)
        if alignn_layers + gcn_layers == 0:
            raise UserError(f"encoders.{modality} has no layer", remedy="set alignn_layers or gcn_layers")
        check_at_least(modality, "cutoff_angstrom", cutoff_angstrom, 0.5)
        self._graphs = GraphSettings(strategy, max_neighbors, cutoff_angstrom, angle_cutoff_angstrom, as_alignn)
        self._architecture |= {"norm": norm, "num_atom_features": _NUM_CGCNN}
        self._pooling = pooling
        self._cache = cache
        self._published = None if published is None else Path(published).expanduser()
        self._report = EncoderReport(modality, "alignn", frozen=False, width=self._width())

    def _width(self) -> int:
        return int(self._architecture["hidden_features"]) * (3 if self._pooling == "all" else 1)

    def prepare(self, values: Sequence[str | None]) -> CrystalGraphStore:
        """Return the graphs of every row.

        Raises:
            CrystalError: a string is not a crystal.
        """
        structures = sorted({value for value in values if value is not None})
        graphs = cached_graphs(self._cache.root.parent, structures, self._graphs)
        place = {text: number for number, text in enumerate(structures)}
        present = np.array([value is not None for value in values], dtype=bool)
        index = np.array([0 if value is None else place[value] for value in values], dtype=np.int64)
        largest = int(graphs.num_atoms.max(initial=0))
        self._report.notes = [f"{len(structures):,} distinct crystals of up to {largest} atoms"]
        return CrystalGraphStore(self.modality, present, graphs=graphs, index=index, settings=self._graphs)

    def build_network(self) -> EncoderNetwork:
        """Return ALIGNN without its head: untrained, or with published weights unless ``load_state`` was called.

        Raises:
            UserError: the published network cannot be loaded.
        """
        published = self._adopt_published()
        if published is not None:
            published.fc = None
            return AlignnNetwork(self.modality, published.train(), self._pooling)
        settings = dict(self._architecture)
        table = atom_table(settings.pop("num_atom_features"))
        return AlignnNetwork(self.modality, ALIGNN(table, output_features=0, **settings), self._pooling)

    def _adopt_published(self) -> ALIGNN | None:
        """Take over the architecture of the published network, if there is one, and return it."""
        if self._published is None:
            return None
        found = load_published(self._published)
        kept = {key: value for key, value in found.settings.items() if key not in {"output_features", "link"}}
        self._architecture = {**kept, "num_atom_features": int(found.network.features.shape[1])}
        self._report.width = self._width()
        return found.network

    def state(self) -> dict[str, Any]:
        """Return how graphs are made and the architecture, so that a checkpoint needs no published folder."""
        self._adopt_published()
        return {"graphs": self._graphs.identity(), "architecture": dict(self._architecture)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over the architecture; check that graphs mean what they meant in training.

        Raises:
            UserError: graphs are made in another way.
        """
        if state.get("graphs") != self._graphs.identity():
            raise UserError(
                f"the checkpoint's {self.modality} has graphs of {state.get('graphs')}, here they are made with "
                f"{self._graphs.identity()}",
                remedy="use the settings and the release that made the checkpoint",
            )
        self._architecture = dict(state["architecture"])
        self._published = None
        self._report.width = self._width()

    def report(self) -> EncoderReport:
        """Describe the encoder; after ``prepare`` with the number and size of the crystals."""
        return self._report
