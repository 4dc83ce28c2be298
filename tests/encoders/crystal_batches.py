"""Made-up crystal graphs and a plain ALIGNN to compare with, which the tests of ALIGNN share."""

import torch
from torch import nn
from torch.nn import functional

from crystalfm.encoders.alignn import CrystalBatch


def make_batch(num_rows, *, seed=0, num_atoms=None, dtype=torch.float32, angles_among=None):
    """Atoms at random places, each bonded with each, and all pairs of bonds that meet, or those of so many atoms."""
    generator = torch.Generator().manual_seed(seed)
    if num_atoms is None:
        num_atoms = [int(torch.randint(2, 5, (), generator=generator)) for _ in range(num_rows)]
    sizes = list(num_atoms)
    numbers, vectors, sources, targets, num_edges, start = [], [], [], [], [], 0
    angled = []
    for size in sizes:
        place = 3.0 * torch.rand(size, 3, generator=generator, dtype=torch.float64)
        source, target = (~torch.eye(size, dtype=torch.bool)).nonzero(as_tuple=True)
        order = torch.argsort(target, stable=True)
        source, target = source[order], target[order]
        numbers.append(torch.randint(1, 90, (size,), generator=generator))
        vectors.append(place[target] - place[source])
        sources.append(source + start)
        targets.append(target + start)
        num_edges.append(len(source))
        angled.append((source < (angles_among or size)) & (target < (angles_among or size)))
        start += size
    source, target = torch.cat(sources), torch.cat(targets)
    both = torch.cat(angled)[None, :] & torch.cat(angled)[:, None]
    second, first = ((target[None, :] == source[:, None]) & both).nonzero(as_tuple=True)
    return CrystalBatch(
        torch.cat(numbers), torch.tensor(sizes), source, target, torch.cat(vectors).to(dtype),
        torch.tensor(num_edges), first, second,
    )  # fmt: skip


def plain_alignn(network, batch):
    """ALIGNN's equations one by one, with the modules of ``network``: predictions and pooled states."""

    def mlp(layer, rows):
        return functional.silu(layer.layer[1](layer.layer[0](rows)))

    def convolve(layer, nodes, edges, source, target):
        gate = layer.src_gate(nodes)[source] + layer.dst_gate(nodes)[target] + layer.edge_gate(edges)
        sigma = torch.sigmoid(gate)
        zeros = torch.zeros_like(nodes)
        total = zeros.index_add(0, target, sigma * layer.dst_update(nodes)[source])
        received = total / (zeros.index_add(0, target, sigma) + 1e-6)
        nodes = nodes + functional.silu(layer.bn_nodes(layer.src_update(nodes) + received))
        return nodes, edges + functional.silu(layer.bn_edges(gate))

    def pooled(states, counts):
        return torch.stack([part.mean(dim=0) for part in states.split(counts.tolist())])

    atoms = mlp(network.atom_embedding, network.features[batch.atomic_numbers].to(batch.edge_vector.dtype))
    bonds = batch.edge_vector.norm(dim=1)
    angles = -functional.cosine_similarity(
        batch.edge_vector[batch.triplet_first], batch.edge_vector[batch.triplet_second], dim=1
    )
    states = []
    for embedding, values in ((network.edge_embedding, bonds), (network.angle_embedding, angles)):
        centers = embedding[0].centers.to(values.dtype)
        rows = torch.exp(-(len(centers) - 1) / (centers[-1] - centers[0]) * (values[:, None] - centers) ** 2)
        states.append(mlp(embedding[2], mlp(embedding[1], rows)))
    bonds, triplets = states
    for layer in network.alignn_layers:
        atoms, messages = convolve(layer.node_update, atoms, bonds, batch.edge_source, batch.edge_target)
        bonds, triplets = convolve(layer.edge_update, messages, triplets, batch.triplet_first, batch.triplet_second)
    for layer in network.gcn_layers:
        atoms, bonds = convolve(layer, atoms, bonds, batch.edge_source, batch.edge_target)
    row_of_bond = torch.arange(len(batch.num_edges)).repeat_interleave(batch.num_edges)
    num_triplets = torch.bincount(row_of_bond[batch.triplet_second], minlength=len(batch.num_edges))
    vectors = [pooled(atoms, batch.num_atoms), pooled(bonds, batch.num_edges), pooled(triplets, num_triplets)]
    return network.fc(vectors[0]), torch.cat(vectors, dim=1)


def set_running_statistics(network, seed=3):
    """Give every batch norm statistics that differ from those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
