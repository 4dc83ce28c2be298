"""Layers of ALIGNN, under the names of the ``alignn`` package's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crystalfm.encoders.alignn_kernels import NormCall, NormName, gated_edges, linear_norm_silu, wide_type

_GATE_EPSILON = 1e-6
"""Added to the sum of the gates of a node (Choudhary & DeCost 2021, equation 4)."""

_MOST_CONNECTED = 0.75
"""Share of connected nodes up to which the others are left out of what only edges need."""


@dataclass(frozen=True)
class EdgeEnds:
    """Which nodes the edges of a graph connect.

    Attributes:
        source: (M,) place in ``connected`` of the node from which each edge starts.
        target: (M,) place of that at which it ends.
        connected: (K,) the nodes that have an edge, in their order; ``None`` stands for all N.
    """

    source: Tensor
    target: Tensor
    connected: Tensor | None = None

    @classmethod
    def of_connected(cls, source: Tensor, target: Tensor, num_nodes: int) -> EdgeEnds:
        """Find the nodes that have an edge at all, where it is worth it.

        In the line graph of a radius graph, bonds beyond the angles' cut-off have none: two thirds of them.

        Args:
            source: (M,) node from which each edge starts.
            target: (M,) node at which it ends.
            num_nodes: number of nodes (N).
        """
        has_edge = torch.zeros(num_nodes, dtype=torch.bool, device=source.device)
        has_edge[source] = True
        has_edge[target] = True
        connected = has_edge.nonzero()[:, 0]
        if len(connected) > _MOST_CONNECTED * num_nodes:
            return cls(source, target)
        place = has_edge.cumsum(dim=0) - 1
        return cls(place.index_select(0, source), place.index_select(0, target), connected)


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type of the matrix products: autocast's where it is on, else that of the weights."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def make_norm(kind: NormName, width: int) -> nn.BatchNorm1d | nn.LayerNorm:
    """Return a norm over ``width`` channels, as the published models have it."""
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def _norm_call(norm: nn.Module, num_rows: int) -> NormCall:
    """Say how a norm takes part in this call."""
    if isinstance(norm, nn.LayerNorm):
        nothing = norm.weight.new_empty(0)
        return NormCall("layer", norm.eps, (nothing, nothing))
    if not isinstance(norm, nn.BatchNorm1d) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{type(norm).__name__} is neither a layer norm nor a batch norm with running statistics")
    if norm.training and num_rows > 1:
        return NormCall("batch", norm.eps, None)
    return NormCall("batch", norm.eps, (norm.running_mean.clone(), norm.running_var.clone()))


def _track(norm: nn.Module, mean: Tensor, variance: Tensor, num_rows: int) -> None:
    """Update the running statistics of a batch norm as ``torch.nn.BatchNorm1d`` does."""
    if not isinstance(norm, nn.BatchNorm1d) or not norm.training or num_rows <= 1:
        return
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_((variance * (num_rows / (num_rows - 1))).to(norm.running_var.dtype), momentum)


class RBFExpansion(nn.Module):
    """Gaussians at evenly spaced centres, ``exp(-(x - centre)² / spacing)``.

    Args:
        low: first centre.
        high: last centre.
        bins: number of centres (K).
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(low, high, bins))
        self.centers: Tensor
        self.gamma = (bins - 1) / (high - low)

    def forward(self, values: Tensor) -> Tensor:
        """Return (M, K) of values (M,)."""
        return torch.exp(-self.gamma * (values[:, None] - self.centers.to(values.dtype)).square())


class MLPLayer(nn.Module):
    """A linear layer, a norm and a SiLU.

    Args:
        in_features: width of the rows.
        out_features: width of the result (D).
        norm: ``batch`` or ``layer``.
    """

    def __init__(self, in_features: int, out_features: int, norm: NormName) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(in_features, out_features), make_norm(norm, out_features), nn.SiLU())

    def forward(self, rows: Tensor) -> Tensor:
        """Return (M, D) of rows (M, in_features), in autocast's type where it is on."""
        linear: Any = self.layer[0]
        norm: Any = self.layer[1]
        narrow = _compute_dtype(linear.weight)
        wide = wide_type(narrow)
        call = _norm_call(norm, len(rows))
        with torch.autocast(rows.device.type, enabled=False):
            result, mean, variance = linear_norm_silu(
                rows.to(narrow),
                linear.weight.to(narrow),
                linear.bias.to(wide),
                norm.weight.to(wide),
                norm.bias.to(wide),
                call,
            )
        _track(norm, mean, variance, len(rows))
        return result


class EdgeGatedGraphConv(nn.Module):
    """Edge-gated graph convolution (Choudhary & DeCost 2021, equations 1 to 4), with residuals.

    Args:
        width: width of the states of nodes and edges (D).
        norm: ``batch`` or ``layer``.
    """

    def __init__(self, width: int, norm: NormName) -> None:
        super().__init__()
        self.src_gate = nn.Linear(width, width)
        self.dst_gate = nn.Linear(width, width)
        self.edge_gate = nn.Linear(width, width)
        self.bn_edges = make_norm(norm, width)
        self.src_update = nn.Linear(width, width)
        self.dst_update = nn.Linear(width, width)
        self.bn_nodes = make_norm(norm, width)

    def forward(
        self, nodes: Tensor, edges: Tensor, ends: EdgeEnds, *, update_edges: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Update the states of nodes and edges.

        Args:
            nodes: (N, D) states of the nodes.
            edges: (M, D) states of the edges.
            ends: nodes that each edge connects.
            update_edges: whether the new states of the edges are needed.

        Returns:
            new states of nodes (N, D) and edges (M, D), or the old ones of the edges if no new ones are needed.
        """
        width, narrow = self.edge_gate.out_features, _compute_dtype(self.edge_gate.weight)
        connected = nodes if ends.connected is None else nodes.index_select(0, ends.connected)
        # Both are wanted at the source of an edge: projected together, they are gathered in one go.
        source_table = functional.linear(
            connected,
            torch.cat([self.src_gate.weight, self.dst_update.weight]),
            torch.cat([self.src_gate.bias, self.dst_update.bias]),
        )
        target_table = functional.linear(connected, self.dst_gate.weight, self.dst_gate.bias + self.edge_gate.bias)
        wide = wide_type(narrow)
        with torch.autocast(edges.device.type, enabled=False):
            sums, new_edges, mean, variance = gated_edges(
                edges.to(narrow),
                source_table.to(wide),
                target_table.to(wide),
                self.edge_gate.weight.to(narrow),
                self.bn_edges.weight.to(wide),
                self.bn_edges.bias.to(wide),
                (ends.source, ends.target),
                _norm_call(self.bn_edges, len(edges)),
                update=update_edges,
            )
        _track(self.bn_edges, mean, variance, len(edges))
        received = sums[:, width:] / (sums[:, :width] + _GATE_EPSILON)
        if not torch.is_autocast_enabled(nodes.device.type):
            received = received.to(nodes.dtype)
        updated = self.src_update(nodes)
        if ends.connected is None:
            updated = updated + received
        else:
            updated = updated.to(received.dtype).index_add(0, ends.connected, received)
        new_nodes = nodes + functional.silu(self._normalise_nodes(updated))
        return new_nodes, new_edges if update_edges else edges

    def _normalise_nodes(self, nodes: Tensor) -> Tensor:
        # A batch norm refuses a single row in training, and has no statistics of none.
        if len(nodes) > 1 or not isinstance(self.bn_nodes, nn.BatchNorm1d):
            result: Tensor = self.bn_nodes(nodes)
            return result
        norm = self.bn_nodes
        return functional.batch_norm(nodes, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class ALIGNNConv(nn.Module):
    """A convolution over the crystal graph, then one over its line graph.

    Args:
        width: width of all states (D).
        norm: ``batch`` or ``layer``.
    """

    def __init__(self, width: int, norm: NormName) -> None:
        super().__init__()
        self.node_update = EdgeGatedGraphConv(width, norm)
        self.edge_update = EdgeGatedGraphConv(width, norm)

    def forward(
        self,
        states: tuple[Tensor, Tensor, Tensor],
        bonds: EdgeEnds,
        triplets: EdgeEnds,
        *,
        update_triplets: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the states of atoms, bonds and triplets.

        Args:
            states: states of atoms (A, D), bonds (E, D) and triplets (T, D).
            bonds: atoms at which each of the E bonds starts and ends.
            triplets: first and second bond of each of the T triplets.
            update_triplets: whether the new states of the triplets are needed.

        Returns:
            the new states.
        """
        atom_states, bond_states, triplet_states = states
        atom_states, messages = self.node_update(atom_states, bond_states, bonds)
        bond_states, triplet_states = self.edge_update(messages, triplet_states, triplets, update_edges=update_triplets)
        return atom_states, bond_states, triplet_states
