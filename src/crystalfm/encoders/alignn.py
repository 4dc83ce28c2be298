"""ALIGNN: messages along the bonds of a crystal and along the pairs of bonds that meet in an atom.

Choudhary & DeCost, "Atomistic Line Graph Neural Network for improved materials property predictions", npj Comput.
Mater. 7, 185 (2021). The names of the weights are those of the ``alignn`` package, so that its checkpoints load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from crystalfm.encoders.alignn_layers import ALIGNNConv, EdgeEnds, EdgeGatedGraphConv, MLPLayer, RBFExpansion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.encoders.alignn_kernels import NormName

LinkName = Literal["identity", "log", "logit"]

_TYPICAL_GAP_EV = 0.7
"""Start of the bias under the ``log`` link, as in the ``alignn`` package."""


@dataclass(frozen=True)
class CrystalBatch:
    """Crystal graphs and line graphs of a batch, flat: A atoms, E directed bonds, T triplets, B rows.

    Attributes:
        atomic_numbers: (A,) int64.
        num_atoms: (B,) int64, atoms of each row; 0 where the crystal is missing.
        edge_source: (E,) int64 atom at which a bond starts.
        edge_target: (E,) int64 atom at which it ends.
        edge_vector: (E, 3) from source to target, in angstrom.
        num_edges: (B,) int64 bonds of each row.
        triplet_first: (T,) int64 bond u to v.
        triplet_second: (T,) int64 bond v to w.
    """

    atomic_numbers: Tensor
    num_atoms: Tensor
    edge_source: Tensor
    edge_target: Tensor
    edge_vector: Tensor
    num_edges: Tensor
    triplet_first: Tensor
    triplet_second: Tensor

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor], modality: str = "crystal_graph") -> CrystalBatch:
        """Take the tensors of a modality out of a batch."""
        return cls(**{name: batch[f"{modality}.{name}"] for name in cls.__dataclass_fields__})

    def cosines(self) -> Tensor:
        """Return the cosine (T,) of the angle between the two bonds of each triplet, seen from their common atom."""
        first = -self.edge_vector.index_select(0, self.triplet_first)
        second = self.edge_vector.index_select(0, self.triplet_second)
        lengths = torch.linalg.vector_norm(self.edge_vector, dim=1)
        product = lengths.index_select(0, self.triplet_first) * lengths.index_select(0, self.triplet_second)
        cosines: Tensor = ((first * second).sum(dim=1) / product).clamp(-1.0, 1.0)
        return cosines


@dataclass(frozen=True)
class AlignnOutput:
    """What ALIGNN says of each row.

    Attributes:
        prediction: (B, T) after the link function; T = 0 without a head.
        atoms: (B, D) mean of the final states of the atoms.
        bonds: (B, D) mean of the final states of the bonds, or ``None`` if not asked for.
        triplets: (B, D) mean of the final states of the triplets, or ``None`` if not asked for.
    """

    prediction: Tensor
    atoms: Tensor
    bonds: Tensor | None = None
    triplets: Tensor | None = None

    def embedding(self) -> Tensor:
        """Return the states side by side: (B, 3 D), the vector of the Hybrid-LLM-GNN paper.

        Raises:
            ValueError: they were not asked for.
        """
        if self.bonds is None or self.triplets is None:
            raise ValueError("the states of bonds and triplets were not asked for (pool_all=True)")
        return torch.cat([self.atoms, self.bonds, self.triplets], dim=1)


def _mean_of_rows(states: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Return the mean (B, D) of the states (M, D) of each row, 0 for a row without any."""
    wide = states.float() if states.dtype in {torch.bfloat16, torch.float16} else states
    total = wide.new_zeros(num_rows, states.shape[1]).index_add(0, rows, wide)
    count = torch.bincount(rows, minlength=num_rows).clamp(min=1)
    mean = total / count[:, None]
    return mean if torch.is_autocast_enabled(mean.device.type) else mean.to(states.dtype)


class ALIGNN(nn.Module):
    """The network of the paper; figures of its table 1 are the defaults.

    Args:
        atom_features: (Z, F) table of the features of each element, row by atomic number.
        alignn_layers: layers that update triplets, bonds and atoms.
        gcn_layers: layers after them that update bonds and atoms.
        edge_input_features: Gaussians over bond lengths.
        triplet_input_features: Gaussians over the cosine of bond angles.
        embedding_features: width between Gaussians and states.
        hidden_features: width of the states (D).
        output_features: number of quantities predicted (T); 0 for a network without a head.
        cutoff_angstrom: centre of the last Gaussian over bond lengths.
        norm: ``batch`` as in the paper, or ``layer`` as in ALIGNN-FF.
        link: function on the output: ``identity``, ``log`` (exponential) or ``logit`` (sigmoid).
    """

    def __init__(
        self,
        atom_features: Tensor,
        *,
        alignn_layers: int = 4,
        gcn_layers: int = 4,
        edge_input_features: int = 80,
        triplet_input_features: int = 40,
        embedding_features: int = 64,
        hidden_features: int = 256,
        output_features: int = 1,
        cutoff_angstrom: float = 8.0,
        norm: NormName = "batch",
        link: LinkName = "identity",
    ) -> None:
        super().__init__()
        self.width = hidden_features
        self.link = link
        self.register_buffer("features", atom_features.float(), persistent=False)
        self.features: Tensor
        self.atom_embedding = MLPLayer(atom_features.shape[1], hidden_features, norm)
        self.edge_embedding = nn.Sequential(
            RBFExpansion(0.0, cutoff_angstrom, edge_input_features),
            MLPLayer(edge_input_features, embedding_features, norm),
            MLPLayer(embedding_features, hidden_features, norm),
        )
        self.angle_embedding = nn.Sequential(
            RBFExpansion(-1.0, 1.0, triplet_input_features),
            MLPLayer(triplet_input_features, embedding_features, norm),
            MLPLayer(embedding_features, hidden_features, norm),
        )
        self.alignn_layers = nn.ModuleList(ALIGNNConv(hidden_features, norm) for _ in range(alignn_layers))
        self.gcn_layers = nn.ModuleList(EdgeGatedGraphConv(hidden_features, norm) for _ in range(gcn_layers))
        self.fc = nn.Linear(hidden_features, output_features) if output_features else None
        if self.fc is not None and link == "log":
            nn.init.constant_(self.fc.bias, math.log(_TYPICAL_GAP_EV))

    def freeze_what_only_pooling_needs(self) -> None:
        """Take no gradient of weights that reach only the pooled states of bonds and triplets.

        Without this, processes that train together would wait for gradients that never come.
        """
        unneeded: list[nn.Module] = []
        if len(self.gcn_layers):
            unneeded += [layer.bn_edges for layer in self.gcn_layers[-1:] if isinstance(layer, EdgeGatedGraphConv)]
            unneeded += [
                layer.edge_update.bn_edges for layer in self.alignn_layers[-1:] if isinstance(layer, ALIGNNConv)
            ]
        else:
            for layer in self.alignn_layers[-1:]:
                if isinstance(layer, ALIGNNConv):
                    unneeded += [layer.edge_update, layer.node_update.bn_edges]
        for module in unneeded:
            module.requires_grad_(requires_grad=False)

    def forward(self, batch: CrystalBatch, *, pool_all: bool = False) -> AlignnOutput:
        """Return predictions and pooled states of every row.

        Args:
            batch: crystals of the rows.
            pool_all: whether bonds and triplets are pooled too; what would be computed for them alone is else left out.
        """
        bonds = EdgeEnds(batch.edge_source, batch.edge_target)
        atom_states = self.atom_embedding(self.features.index_select(0, batch.atomic_numbers))
        bond_states = self.edge_embedding(torch.linalg.vector_norm(batch.edge_vector, dim=1))
        triplet_states = None
        if len(self.alignn_layers):
            triplets = EdgeEnds.of_connected(batch.triplet_first, batch.triplet_second, len(batch.edge_source))
            triplet_states = self.angle_embedding(batch.cosines())
            states = (atom_states, bond_states, triplet_states)
            for number, layer in enumerate(self.alignn_layers, start=1):
                states = layer(states, bonds, triplets, update_triplets=pool_all or number < len(self.alignn_layers))
            atom_states, bond_states, triplet_states = states
        for number, layer in enumerate(self.gcn_layers, start=1):
            needed = pool_all or number < len(self.gcn_layers)
            atom_states, bond_states = layer(atom_states, bond_states, bonds, update_edges=needed)
        return self._read_out(batch, atom_states, bond_states, triplet_states, pool_all=pool_all)

    def _read_out(
        self, batch: CrystalBatch, atoms: Tensor, bonds: Tensor, triplets: Tensor | None, *, pool_all: bool
    ) -> AlignnOutput:
        num_rows = len(batch.num_atoms)
        numbers = torch.arange(num_rows, device=atoms.device)
        pooled = _mean_of_rows(atoms, numbers.repeat_interleave(batch.num_atoms, output_size=len(atoms)), num_rows)
        prediction = pooled.new_zeros(num_rows, 0) if self.fc is None else self._linked(self.fc(pooled))
        if not pool_all:
            return AlignnOutput(prediction, pooled)
        row_of_bond = numbers.repeat_interleave(batch.num_edges, output_size=len(bonds))
        pooled_bonds = _mean_of_rows(bonds, row_of_bond, num_rows)
        pooled_triplets = torch.zeros_like(pooled_bonds)
        if triplets is not None:
            pooled_triplets = _mean_of_rows(triplets, row_of_bond.index_select(0, batch.triplet_first), num_rows)
        return AlignnOutput(prediction, pooled, pooled_bonds, pooled_triplets)

    def _linked(self, output: Tensor) -> Tensor:
        if self.link == "log":
            return output.exp()
        return output.sigmoid() if self.link == "logit" else output
