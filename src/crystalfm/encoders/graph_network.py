"""The network of the molecular-graph encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crystalfm.chem.molecular_graph import ATOM_FEATURES, NUM_RELATIONS
from crystalfm.contracts import batch_key
from crystalfm.encoders.networks import EncoderNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PADDING = NUM_RELATIONS
_LOWEST = -1e4
"""Stands for padding where a maximum is taken: far below all else, and finite in half precision."""

_RELATION_STD = 0.3

_PAIRS_AT_A_TIME = 1 << 21
"""Pairs of atoms whose weights are held in memory together: 128 molecules of 128 atoms."""

_ATOMS_OF_A_SUM = 16.0
"""Sums over atoms are divided by this, so that they start at the size of the means."""


class _GraphBlock(nn.Module):
    """A sum over all atoms with a learned weight for each relation, and an MLP, each behind a layer norm.

    The weights are shared by the channels of a group: a relational graph convolution (Schlichtkrull et al., arXiv
    1703.06103, section 2.2) whose matrices of all relations are multiples of each other within a group.
    """

    def __init__(self, width: int, num_groups: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.dropout = dropout
        self.message_norm = nn.LayerNorm(width)
        self.message = nn.Linear(width, width)
        self.message_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_input = nn.Linear(width, hidden)
        self.mlp_output = nn.Linear(hidden, width)
        self.relation_weight = nn.Embedding(NUM_RELATIONS + 1, num_groups, padding_idx=_PADDING)
        nn.init.normal_(self.relation_weight.weight, std=_RELATION_STD)
        with torch.no_grad():
            self.relation_weight.weight[_PADDING].zero_()

    def _drop(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self.dropout, self.training) if self.dropout else values

    def forward(self, hidden: Tensor, relations: Tensor) -> Tensor:
        """Return new vectors (B, N, D) of atoms ``hidden`` (B, N, D) with ``relations`` (B, N, N)."""
        batch, length, width = hidden.shape
        messages = self.message(self.message_norm(hidden)).view(batch, length, self.num_groups, -1).transpose(1, 2)
        weights = self.relation_weight(relations).permute(0, 3, 1, 2).to(messages.dtype)
        received = torch.matmul(weights, messages).transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + self._drop(self.message_output(received))
        output: Tensor = hidden + self._drop(self.mlp_output(functional.gelu(self.mlp_input(self.mlp_norm(hidden)))))
        return output


class RelationalGraphNetwork(EncoderNetwork):
    """Relational graph convolutions over all pairs of atoms of a molecule.

    Padding has no influence on atoms, and atoms of padding are left out at the end. The vector of a molecule is a
    linear map of the mean, the sum and the maximum over its atoms: orbital energies are intensive, partition
    coefficients add up.

    Args:
        modality: modality whose batch keys it reads.
        width: width of the network and of its vectors (D).
        num_layers: number of blocks.
        num_groups: groups of channels, each with weights of its own for every relation; divides ``width``.
        dropout: dropout on the residual branches.
        mlp_ratio: width of a block's hidden layer over ``width``.
    """

    def __init__(
        self, modality: str, *, width: int, num_layers: int, num_groups: int, dropout: float, mlp_ratio: float
    ) -> None:
        super().__init__(modality, width)
        sizes = [size for _, size in ATOM_FEATURES]
        self.features = nn.EmbeddingBag(sum(sizes), width, mode="sum")
        nn.init.normal_(self.features.weight, std=0.3)
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor
        hidden = max(round(mlp_ratio * width), 1)
        self.blocks = nn.ModuleList(_GraphBlock(width, num_groups, hidden, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(3 * width, width)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D) of ``atoms`` (B, N, F) with ``relations`` (B, N, N) where ``mask`` (B, N) is true."""
        atoms = batch[batch_key(self.modality, "atoms")]
        relations = batch[batch_key(self.modality, "relations")]
        mask = batch[batch_key(self.modality, "mask")]
        if relations.numel() <= _PAIRS_AT_A_TIME:
            return self._vectors(atoms, relations, mask)
        order = mask.sum(dim=1).argsort(descending=True)
        parts: list[Tensor] = []
        for rows in _parts(order, mask.sum(dim=1)):
            length = max(int(mask[rows[0]].sum()), 1)
            arguments = atoms[rows, :length], relations[rows, :length, :length], mask[rows, :length]
            # What lies between is made again in the backward pass, so that one part at a time takes memory.
            parts.append(checkpoint(self._vectors, *arguments, use_reentrant=False))
        return torch.cat(parts)[order.argsort()]

    def _vectors(self, atoms: Tensor, relations: Tensor, mask: Tensor) -> Tensor:
        pairs = mask[:, :, None] & mask[:, None, :]
        padded = relations.int().masked_fill(~pairs, _PADDING)
        hidden = self.features((atoms.long() + self.offsets).flatten(0, 1)).view(*mask.shape, -1)
        for block in self.blocks:
            hidden = block(hidden, padded)
        output: Tensor = self.output(_readout(self.norm(hidden), mask))
        return output


def _parts(order: Tensor, sizes: Tensor) -> Iterator[Tensor]:
    """Yield the rows of ``order``, largest first, in parts that hold ``_PAIRS_AT_A_TIME`` pairs at most, or one row."""
    start = 0
    while start < len(order):
        largest = max(int(sizes[order[start]]), 1)
        num_rows = max(_PAIRS_AT_A_TIME // largest**2, 1)
        yield order[start : start + num_rows]
        start += num_rows


def _readout(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return mean, scaled sum and maximum (B, 3 D) over the atoms (B, N, D) where ``mask`` (B, N) is true."""
    kept = torch.where(mask[:, :, None], hidden, hidden.new_zeros(()))
    total = kept.sum(dim=1)
    mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    largest = hidden.masked_fill(~mask[:, :, None], _LOWEST).amax(dim=1)
    largest = torch.where(mask.any(dim=1, keepdim=True), largest, largest.new_zeros(()))
    return torch.cat([mean, total / _ATOMS_OF_A_SUM, largest], dim=1)
