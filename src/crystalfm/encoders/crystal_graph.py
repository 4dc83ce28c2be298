"""The crystal-graph encoder: ALIGNN over atoms, bonds and angles, trained with the model or frozen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.contracts import UserError
from crystalfm.data.budget import batches_within
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.data.features import VectorStore
from crystalfm.data.graph_cache import build_graphs, cached_graphs, search_version
from crystalfm.encoders.alignn import ALIGNN, AlignnOutput, CrystalBatch
from crystalfm.encoders.alignn_weights import find_weights, graphs_of_state, untrained, weights_of_state
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import CachedVectors, EncoderNetwork
from crystalfm.encoders.settings import check_at_least, check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.features import FeatureStore
    from crystalfm.encoders.alignn_weights import AlignnWeights
    from crystalfm.encoders.cache import EmbeddingCache

_log = logging.getLogger(__name__)

ENCODER_VERSION = 1
"""Raised when the same weights would give other vectors; makes cached vectors stale."""

_NUM_CGCNN = 92

_STATES_AT_ONCE = 16_000
"""Atoms, bonds and triplets of the crystals that a frozen encoder encodes at once: more would leave a CPU's caches."""


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

    Frozen, it encodes each distinct crystal once into the embedding cache, in float32 and evaluation mode, and the
    checkpoint holds its weights, so that nothing else is needed to predict. Otherwise it is trained with the model.

    Args:
        modality: modality it serves (runtime).
        store: asset store that holds published weights (runtime).
        cache: embedding cache, beside which the graphs are kept (runtime).
        frozen: whether the weights stay as they are; needs ``weights``.
        weights: pretrained network to start from: name of an asset (``alignn_ff``), folder or zip of the ``alignn``
            package, or a run folder or checkpoint of ours; it sets how graphs are made, layers, widths and norm.
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

    Raises:
        UserError: a setting is out of range, or ``frozen`` lacks ``weights``.
    """

    def __init__(
        self,
        *,
        modality: str,
        store: AssetStore,
        cache: EmbeddingCache,
        frozen: bool = False,
        weights: str | None = None,
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
        if frozen and weights is None:
            raise UserError(
                f"encoders.{modality}.frozen=true needs weights",
                remedy=f"set encoders.{modality}.weights, or frozen=false",
            )
        self._pooling: Literal["atoms", "all"] = pooling
        self._store = store
        self._cache = cache
        self._frozen = frozen
        self._source = weights
        self._weights: AlignnWeights | None = None
        self._notes: list[str] = []
        self._report = EncoderReport(modality, "alignn", frozen=frozen, width=self._width())

    def _width(self) -> int:
        return int(self._architecture["hidden_features"]) * (3 if self._pooling == "all" else 1)

    def prepare(self, values: Sequence[str | None]) -> FeatureStore:
        """Return cached vectors of every row when frozen, the graphs of every row otherwise.

        Raises:
            CrystalError: a string is not a crystal.
            UserError: the weights cannot be had.
        """
        self._adopt_weights()
        structures = sorted({value for value in values if value is not None})
        place = {text: number for number, text in enumerate(structures)}
        present = np.array([value is not None for value in values], dtype=bool)
        index = np.array([0 if value is None else place[value] for value in values], dtype=np.int64)
        if self._frozen:
            return self._vectors(structures, present, index)
        graphs = cached_graphs(self._cache.root.parent, structures, self._graphs)
        largest = int(graphs.num_atoms.max(initial=0))
        self._report.notes = [*self._notes, f"{len(structures):,} distinct crystals of up to {largest} atoms"]
        return CrystalGraphStore(self.modality, present, graphs=graphs, index=index, settings=self._graphs)

    def _vectors(self, structures: list[str], present: NDArray[np.bool_], index: NDArray[np.int64]) -> VectorStore:
        lookup = self._cache.vectors(self.identity(), structures, self._encode, self._width())
        self._report.cache_hits, self._report.cache_misses = lookup.hits, lookup.misses
        self._report.notes = [*self._notes, *([lookup.reason] if lookup.reason else [])]
        rows = np.zeros(len(present), dtype=np.int64)
        rows[present] = lookup.index[index[present]]
        return VectorStore(self.modality, present, cast("NDArray[Any]", lookup.vectors), rows, "embedding")

    def identity(self) -> dict[str, Any]:
        """Return all that determines a frozen encoder's vector besides its crystal: the key of the embedding cache."""
        weights = self._pretrained()
        return {
            "encoder": "alignn",
            "version": ENCODER_VERSION,
            "weights_sha256": weights.sha256,
            **weights.architecture,
            "graphs": self._graphs.identity(),
            "neighbours": search_version(),
            "pooling": self._pooling,
        }

    def _encode(self, structures: list[str]) -> NDArray[np.float32]:
        """Return the vectors (n, D) of crystals, batched by size."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = AlignnNetwork(self.modality, self._pretrained().build(), self._pooling).to(device).eval()
        _log.info("encoding %d crystals on %s", len(structures), device)
        graphs = build_graphs(structures, self._graphs)
        everything = np.arange(len(structures))
        store = CrystalGraphStore(
            self.modality, np.ones(len(structures), dtype=bool), graphs=graphs, index=everything, settings=self._graphs
        )
        costs = store.costs
        order = np.argsort(-costs, kind="stable")
        vectors = np.empty((len(structures), network.width), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for chosen in batches_within(order, costs[order], _STATES_AT_ONCE):
                batch = {key: tensor.to(device) for key, tensor in store.gather(chosen).items()}
                vectors[chosen] = network(batch).cpu().numpy()
        return vectors

    def build_network(self) -> EncoderNetwork:
        """Return the passage of cached vectors when frozen; otherwise ALIGNN without its head.

        Its weights are the pretrained ones, or untrained without any or after ``load_state``: a checkpoint's weights
        come after.

        Raises:
            UserError: the weights cannot be had.
        """
        self._adopt_weights()
        if self._frozen:
            return CachedVectors(self.modality, self._width())
        network = untrained(self._architecture) if self._weights is None else self._weights.build().train()
        return AlignnNetwork(self.modality, network, self._pooling)

    def _adopt_weights(self) -> None:
        """Take over how graphs are made and the architecture from the pretrained weights, if there are any."""
        if self._source is None or self._weights is not None:
            return
        found = find_weights(self._source, self._store, f"encoders.{self.modality}.weights")
        others = "" if found.graphs == self._graphs else f", whose graphs are {describe(found.graphs)}"
        self._notes = [f"weights of {found.source}{others}"]
        self._take(found)

    def _take(self, weights: AlignnWeights) -> None:
        self._weights = weights
        self._graphs = weights.graphs
        self._architecture = dict(weights.architecture)
        self._report.width = self._width()

    def _pretrained(self) -> AlignnWeights:
        self._adopt_weights()
        if self._weights is None:
            raise RuntimeError(f"encoders.{self.modality} has no pretrained weights")
        return self._weights

    def state(self) -> dict[str, Any]:
        """Return how graphs are made and the architecture; when frozen the weights too, which no network holds."""
        self._adopt_weights()
        if self._frozen:
            return {"frozen": True, **self._pretrained().state()}
        return {"frozen": False, "graphs": self._graphs.identity(), "architecture": dict(self._architecture)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over how graphs are made, the architecture, and a frozen encoder's weights.

        Raises:
            UserError: this release makes graphs in another way, or the state is frozen where the settings say
                trained or vice versa.
        """
        if state.get("frozen", False) != self._frozen:
            raise UserError(
                f"encoders.{self.modality}.frozen={self._frozen}, the checkpoint was made with {not self._frozen}",
                remedy="leave the encoder's settings to the checkpoint",
            )
        self._source = None
        if self._frozen:
            self._take(weights_of_state(state))
            return
        self._graphs = graphs_of_state(state["graphs"])
        self._architecture = dict(state["architecture"])
        self._report.width = self._width()

    def report(self) -> EncoderReport:
        """Describe the encoder; after ``prepare`` with the number and size of the crystals, or hits and misses."""
        return self._report


def describe(graphs: GraphSettings) -> str:
    """Say in a few words how graphs are made."""
    if graphs.strategy == "radius":
        return f"all neighbours within {graphs.cutoff_angstrom:g} angstrom"
    manner = ", as alignn makes them" if graphs.as_alignn else ""
    return f"{graphs.max_neighbors} nearest neighbours{manner}"
