"""The molecular-graph encoder: relational graph convolutions over atoms, trained from scratch with the model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.molecular_graph import ATOM_FEATURES, GRAPH_VERSION, molecular_graph
from crystalfm.data.features import GraphStore
from crystalfm.data.parsed_cache import cached_table
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.graph_network import RelationalGraphNetwork
from crystalfm.encoders.settings import check_at_least, check_divides, check_rate, check_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from crystalfm.encoders.cache import EmbeddingCache
    from crystalfm.encoders.networks import EncoderNetwork


class MolecularGraphEncoder(ModalityEncoder):
    """Graph convolutions over the atoms of SMILES strings; hydrogens are features of their neighbours.

    Every layer sums over all atoms with weights learned for each relation of two atoms: their bond, or the number of
    bonds between them. So it sees the whole molecule at once, as Graphormer does by attention (Ying et al., arXiv
    2106.05234), at the price of a graph convolution. The graphs of the molecules are made once and kept in the cache.

    Args:
        modality: modality it serves (runtime).
        cache: cache beside which the graphs are kept (runtime).
        width: width of the network and of its vectors (D).
        num_layers: number of blocks.
        num_groups: groups of channels, each with weights of its own for every relation; divides ``width``.
        dropout: dropout on the residual branches.
        mlp_ratio: width of a block's hidden layer over ``width``.
        max_atoms: larger molecules take part without this modality, and the report counts them: the memory for all
            pairs of atoms grows with the square of their number.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        modality: str,
        cache: EmbeddingCache,
        width: int = 128,
        num_layers: int = 6,
        num_groups: int = 16,
        dropout: float = 0.0,
        mlp_ratio: float = 2.0,
        max_atoms: int = 512,
    ) -> None:
        super().__init__(modality)
        for key, value in (("width", width), ("num_layers", num_layers), ("num_groups", num_groups)):
            check_at_least(modality, key, value, 1)
        check_at_least(modality, "mlp_ratio", mlp_ratio, 0.1)
        check_at_least(modality, "max_atoms", max_atoms, 1)
        check_rate(modality, "dropout", dropout)
        check_divides(modality, "num_groups", num_groups, "width", width)
        self._cache = cache
        self._width = width
        self._num_layers = num_layers
        self._num_groups = num_groups
        self._dropout = dropout
        self._mlp_ratio = mlp_ratio
        self._max_atoms = max_atoms
        self._report = EncoderReport(modality, "molecular_graph", frozen=False, width=width)

    def prepare(self, values: Sequence[str | None]) -> GraphStore:
        """Return the graphs of every row.

        Raises:
            MoleculeError: a string is not a valid SMILES.
        """
        import rdkit

        strings = sorted({value for value in values if value is not None})
        digest = hashlib.sha256("\n".join([str(GRAPH_VERSION), rdkit.__version__, *strings]).encode()).hexdigest()
        graphs = cached_table(self._cache.root.parent, f"graphs-{digest}", "molecular graphs", lambda: _table(strings))
        num_atoms = graphs["num_atoms"].to_numpy()
        place = {text: number for number, text in enumerate(strings)}
        index = np.array([0 if value is None else place[value] for value in values], dtype=np.int64)
        present = np.array([value is not None for value in values], dtype=bool)
        too_large = present & (num_atoms[index] > self._max_atoms) if strings else present
        self._report.notes = [f"{len(strings):,} distinct molecules of up to {int(num_atoms.max(initial=0))} atoms"]
        if too_large.any():
            self._report.notes.append(f"{int(too_large.sum())} rows without it: more than {self._max_atoms} atoms")
        return GraphStore(
            self.modality,
            present & ~too_large,
            atoms=_joined(graphs, "atoms").reshape(-1, len(ATOM_FEATURES)),
            relations=_joined(graphs, "relations"),
            num_atoms=num_atoms,
            index=index,
        )

    def build_network(self) -> EncoderNetwork:
        """Return the graph network, untrained."""
        return RelationalGraphNetwork(
            self.modality,
            width=self._width,
            num_layers=self._num_layers,
            num_groups=self._num_groups,
            dropout=self._dropout,
            mlp_ratio=self._mlp_ratio,
        )

    def state(self) -> dict[str, Any]:
        """Return the version of the features; nothing is fitted."""
        return {"version": GRAPH_VERSION}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Check that the features mean what they meant in training.

        Raises:
            UserError: the features are of another version.
        """
        check_version(self.modality, "features", state, GRAPH_VERSION)

    def report(self) -> EncoderReport:
        """Describe the encoder; after ``prepare`` with the number and size of the molecules."""
        return self._report


def _table(strings: Sequence[str]) -> pa.Table:
    """Return one row a molecule: number of atoms, features of the atoms, relations of all pairs."""
    import pyarrow as pa

    sizes: list[int] = []
    atoms: list[bytes] = []
    relations: list[bytes] = []
    for text in strings:
        graph = molecular_graph(text)
        sizes.append(len(graph.atoms))
        atoms.append(graph.atoms.tobytes())
        relations.append(graph.relations.tobytes())
    columns = {
        "num_atoms": pa.array(sizes, pa.int64()),
        "atoms": pa.array(atoms, pa.large_binary()),
        "relations": pa.array(relations, pa.large_binary()),
    }
    return pa.table(columns)


def _joined(graphs: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of a column, rows one after another."""
    return np.frombuffer(b"".join(graphs[name].to_pylist()), dtype=np.uint8)
