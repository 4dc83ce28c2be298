"""ALIGNN against the ``alignn`` package's own classes: the same weights, the same graphs of real crystals."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from crystal_batches import set_running_statistics

from crystalfm.chem.atom_features import cgcnn_atom_features
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.graph_arrays import build_arrays
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.encoders.alignn import ALIGNN, CrystalBatch

pytest.importorskip("alignn.models.alignn_atomwise_pure", reason="needs the alignn package")

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
HEXAGONAL = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1]])
CRYSTALS = [
    make_crystal(5.64 * FCC, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),  # rock salt
    make_crystal(5.43 * FCC, [14, 14], [[0, 0, 0], [0.25, 0.25, 0.25]]),  # silicon
    make_crystal(3.905 * np.eye(3), [38, 22, 8, 8, 8], 1 - np.array([[1, 1, 1], [0.5] * 3, *(np.eye(3) + 1) / 2])),
    make_crystal(np.diag([3.21, 3.21, 5.21]) @ HEXAGONAL, [12, 12], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
    make_crystal(
        np.diag([4.59, 4.59, 2.96]), [22, 22, 8, 8, 8, 8],
        [[0, 0, 0], [0.5] * 3, [0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]],
    ),
]  # fmt: skip
"""Rock salt, silicon, strontium titanate, magnesium and rutile, with lattice constants from experiment."""

TABLE = torch.tensor(cgcnn_atom_features())
WIDTH = 64


@pytest.fixture(name="batch", scope="module")
def _batch():
    settings = GraphSettings(as_alignn=True)
    number = len(CRYSTALS)
    store = CrystalGraphStore(
        "crystal_graph", np.ones(number, dtype=bool), graphs=build_arrays(CRYSTALS, settings),
        index=np.arange(number), settings=settings,
    )  # fmt: skip
    return CrystalBatch.from_batch(store.gather(np.arange(number)))


def in_dtype(batch, dtype):
    return replace(batch, edge_vector=batch.edge_vector.to(dtype, copy=True).requires_grad_())


def dgl_graphs(batch):
    """The batch as the classic model takes it, angles by the package's own function."""
    dgl = pytest.importorskip("dgl", reason="needs dgl 1.1.3")
    from alignn.graphs import compute_bond_cosines

    graph = dgl.graph((batch.edge_source, batch.edge_target), num_nodes=len(batch.atomic_numbers))
    graph.ndata["atom_features"] = TABLE[batch.atomic_numbers].to(batch.edge_vector.dtype)
    graph.edata["r"] = batch.edge_vector
    graph.set_batch_num_nodes(batch.num_atoms)
    graph.set_batch_num_edges(batch.num_edges)
    line = dgl.graph((batch.triplet_first, batch.triplet_second), num_nodes=len(batch.edge_source))
    line.ndata["r"] = batch.edge_vector
    line.apply_edges(compute_bond_cosines)
    line.ndata.pop("r")
    return graph, line, None


def classic(norm):
    pytest.importorskip("dgl", reason="needs dgl 1.1.3")
    if norm == "batch":
        from alignn.models import alignn as peer

        return peer.ALIGNN(peer.ALIGNNConfig(name="alignn", hidden_features=WIDTH)), lambda output: output
    from alignn.models.alignn_atomwise import ALIGNNAtomWise, ALIGNNAtomWiseConfig

    config = ALIGNNAtomWiseConfig(
        name="alignn_atomwise", alignn_layers=4, gcn_layers=4, atom_input_features=92, hidden_features=WIDTH,
        gradwise_weight=0, calculate_gradient=False, use_cutoff_function=False, lg_on_fly=False,
    )  # fmt: skip
    return ALIGNNAtomWise(config), lambda output: output["out"]


def compare(network, peer, peer_output, batch, dtype, tolerance):
    """Outputs, gradients of weights and of bond vectors, and running statistics are equal."""
    network, peer = network.to(dtype), peer.to(dtype)
    mine, theirs = in_dtype(batch, dtype), in_dtype(batch, dtype)
    found, expected = network(mine).prediction[:, 0], peer_output(peer, theirs)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for output in (found, expected):
        (output * torch.arange(1.0, 6.0, dtype=dtype)).sum().backward()
    peer_gradients = {name: weight.grad for name, weight in peer.named_parameters()}
    scale = max(grad.abs().max() for grad in peer_gradients.values() if grad is not None)
    for name, weight in network.named_parameters():
        assert (weight.grad is None) == (peer_gradients[name] is None), name
        if weight.grad is not None:
            difference = (weight.grad - peer_gradients[name]).abs().max() / scale
            assert difference < tolerance, f"{name}: {difference:.1e}"
    difference = (mine.edge_vector.grad - theirs.edge_vector.grad).abs().max() / theirs.edge_vector.grad.abs().max()
    assert difference < tolerance
    theirs = {name: value for name, value in peer.state_dict().items() if not name.startswith("_")}
    torch.testing.assert_close(dict(network.state_dict()), dict(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_equal_to_the_classic_classes(batch, norm, training, dtype, tolerance):
    torch.manual_seed(0)
    peer, prediction = classic(norm)
    set_running_statistics(peer)
    network = ALIGNN(TABLE, hidden_features=WIDTH, norm=norm)
    network.load_state_dict(peer.state_dict())
    network.train(training)
    peer.train(training)
    compare(network, peer, lambda model, of: prediction(model(dgl_graphs(of))), batch, dtype, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_equal_to_the_pure_torch_class(batch, dtype, tolerance):
    from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
    from alignn.torch_graph_builder import TorchGraph

    torch.manual_seed(0)
    config = ALIGNNAtomWisePureConfig(
        name="alignn_atomwise_pure", alignn_layers=4, gcn_layers=4, atom_input_features=92, hidden_features=WIDTH,
        gradwise_weight=0, calculate_gradient=False,
    )  # fmt: skip
    peer = ALIGNNAtomWisePure(config)
    network = ALIGNN(TABLE, hidden_features=WIDTH, norm="layer")
    network.load_state_dict({name: value for name, value in peer.state_dict().items() if not name.startswith("_")})

    def output(model, of):
        features = {"atom_features": TABLE[of.atomic_numbers].to(of.edge_vector.dtype)}
        graph = TorchGraph(
            src=of.edge_source, dst=of.edge_target, num_nodes=len(of.atomic_numbers), ndata=features,
            edata={"r": of.edge_vector}, batch_num_nodes=of.num_atoms, batch_num_edges=of.num_edges,
        )  # fmt: skip
        line = TorchGraph(src=of.triplet_first, dst=of.triplet_second, num_nodes=len(of.edge_source))
        return model((graph, line, None))["out"]

    compare(network, peer, output, batch, dtype, tolerance)


def test_the_batch_is_one_of_real_size(batch):
    assert len(batch.num_atoms) == 5
    assert len(batch.triplet_first) > 3000
    assert {field.name for field in fields(batch)} >= {"triplet_second", "edge_vector"}
