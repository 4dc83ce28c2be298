"""ALIGNN: equal to its equations written plainly, in values, gradients and running statistics; invariant; it learns."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from crystal_batches import make_batch, plain_alignn, set_running_statistics

from crystalfm.chem.atom_features import cgcnn_atom_features
from crystalfm.encoders import alignn_kernels
from crystalfm.encoders.alignn import ALIGNN, CrystalBatch
from crystalfm.encoders.alignn_layers import EdgeEnds

TABLE = torch.tensor(cgcnn_atom_features())
SMALL = {
    "alignn_layers": 2, "gcn_layers": 2, "edge_input_features": 10, "triplet_input_features": 8,
    "embedding_features": 6, "hidden_features": 8,
}  # fmt: skip


def make_network(*, dtype=torch.float32, seed=0, **settings):
    torch.manual_seed(seed)
    network = ALIGNN(TABLE, **{**SMALL, **settings})
    set_running_statistics(network)
    return network.to(dtype)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


@pytest.fixture(params=[1 << 18, 64], ids=["one chunk", "many chunks"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(alignn_kernels, "_CHUNK_ELEMENTS", request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("angles_among", [None, 2], ids=["all bonds have angles", "two bonds of twelve have"])
def test_values_gradients_and_statistics_equal_the_plain_equations(angles_among, norm, training):
    network = make_network(dtype=torch.float64, norm=norm).train(training)
    plain = copy.deepcopy(network)
    num_atoms = None if angles_among is None else [4] * 5
    batch = make_batch(5, num_atoms=num_atoms, dtype=torch.float64, angles_among=angles_among)
    mine, theirs = (replace(batch, edge_vector=batch.edge_vector.clone().requires_grad_()) for _ in range(2))
    output = network(mine, pool_all=True)
    prediction, pooled = plain_alignn(plain, theirs)
    torch.testing.assert_close(output.prediction, prediction, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.embedding(), pooled, rtol=1e-9, atol=1e-9)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = gradients(network, (output.embedding() * weights).sum() + output.prediction.square().sum())
    expected = gradients(plain, (pooled * weights).sum() + prediction.square().sum())
    assert all(grad is not None for grad in found.values())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(mine.edge_vector.grad, theirs.edge_vector.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-9)


def test_bonds_without_an_angle_are_left_out_where_they_are_many():
    first, second = torch.tensor([1, 5]), torch.tensor([5, 1])
    few = EdgeEnds.of_connected(first, second, num_nodes=6)
    assert few.connected.tolist() == [1, 5]
    assert few.source.tolist() == [0, 1]
    assert few.target.tolist() == [1, 0]
    assert EdgeEnds.of_connected(few.source, few.target, num_nodes=2).connected is None
    assert EdgeEnds.of_connected(first[:0], first[:0], num_nodes=4).connected.tolist() == []


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_leaving_out_what_only_pooling_needs_changes_nothing_else(norm):
    network, whole = make_network(norm=norm), make_network(norm=norm)
    batch = make_batch(4)
    short, full = network(batch), whole(batch, pool_all=True)
    assert torch.equal(short.prediction, full.prediction)
    assert torch.equal(short.atoms, full.atoms)
    with pytest.raises(ValueError, match="pool_all"):
        short.embedding()
    found, expected = gradients(network, short.prediction.sum()), gradients(whole, full.prediction.sum())
    idle = {name for name, grad in found.items() if grad is None}
    assert idle == {
        f"{part}.bn_edges.{kind}"
        for part in ("alignn_layers.1.edge_update", "gcn_layers.1")
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(grad, expected[name]) for name, grad in found.items() if grad is not None)
    torch.testing.assert_close(network.state_dict(), whole.state_dict(), rtol=0, atol=0)
    network.freeze_what_only_pooling_needs()
    assert {name for name, weight in network.named_parameters() if not weight.requires_grad} == idle


@pytest.mark.parametrize("layers", [(0, 2), (2, 0), (1, 1)])
def test_frozen_weights_are_those_without_a_gradient(layers):
    network = make_network(alignn_layers=layers[0], gcn_layers=layers[1])
    found = gradients(network, network(make_batch(4)).prediction.sum())
    network.freeze_what_only_pooling_needs()
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    without = {name for name, grad in found.items() if grad is None or not grad.any()}
    if layers[0] == 0:
        without -= {name for name in without if name.startswith("angle_embedding")}
    assert frozen >= {name for name, grad in found.items() if grad is None and not name.startswith("angle_embedding")}
    assert frozen <= without


def test_rows_do_not_see_each_other_in_evaluation():
    network = make_network().eval()
    batch = make_batch(3, num_atoms=[3, 2, 4], seed=5)
    alone = make_batch(1, num_atoms=[3], seed=5)
    assert torch.equal(batch.edge_vector[:6], alone.edge_vector)
    torch.testing.assert_close(network(batch).prediction[:1], network(alone).prediction, rtol=1e-5, atol=1e-6)


def test_rotation_and_order_of_atoms_bonds_and_triplets_do_not_matter():
    network = make_network(dtype=torch.float64).eval()
    batch = make_batch(1, num_atoms=[5], dtype=torch.float64)
    expected = network(batch, pool_all=True)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    generator = torch.Generator().manual_seed(4)
    atoms, bonds, triplets = (
        torch.randperm(len(rows), generator=generator)
        for rows in (batch.atomic_numbers, batch.edge_source, batch.triplet_first)
    )
    new_atom, new_bond = atoms.argsort(), bonds.argsort()
    moved = CrystalBatch(
        batch.atomic_numbers[atoms], batch.num_atoms, new_atom[batch.edge_source[bonds]],
        new_atom[batch.edge_target[bonds]], batch.edge_vector[bonds] @ rotation, batch.num_edges,
        new_bond[batch.triplet_first[triplets]], new_bond[batch.triplet_second[triplets]],
    )  # fmt: skip
    found = network(moved, pool_all=True)
    torch.testing.assert_close(found.prediction, expected.prediction, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.embedding(), expected.embedding(), rtol=1e-9, atol=1e-9)
    stretched = replace(batch, edge_vector=1.1 * batch.edge_vector)
    assert not torch.allclose(network(stretched).prediction, expected.prediction)


@pytest.mark.parametrize("training", [True, False])
def test_rows_without_a_crystal_and_crystals_without_triplets_are_finite(training):
    network = make_network().train(training)
    whole = make_batch(2)
    batch = replace(
        whole, num_atoms=torch.cat([whole.num_atoms, torch.tensor([0])]),
        num_edges=torch.cat([whole.num_edges, torch.tensor([0])]),
    )  # fmt: skip
    output = network(batch, pool_all=True)
    assert torch.equal(output.embedding()[2], torch.zeros(24))
    empty = torch.empty(0, dtype=torch.int64)
    bare = replace(whole, triplet_first=empty, triplet_second=empty)
    nothing = CrystalBatch(empty, torch.tensor([0]), empty, empty, torch.empty(0, 3), torch.tensor([0]), empty, empty)
    for unusual in (bare, nothing):
        prediction = network(unusual, pool_all=True).prediction
        assert prediction.isfinite().all()
        assert all(grad is None or grad.isfinite().all() for grad in gradients(network, prediction.sum()).values())
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_autocast_rounds_but_stays_near(norm):
    network = make_network(norm=norm, hidden_features=32)
    batch = make_batch(6)
    exact = network(batch)
    expected = gradients(network, exact.prediction.sum())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(batch)
    found = gradients(network, rounded.prediction.float().sum())
    torch.testing.assert_close(rounded.prediction.float(), exact.prediction, rtol=0.05, atol=0.05)
    kept = [name for name, grad in expected.items() if grad is not None]
    cosine = torch.nn.functional.cosine_similarity(
        *(torch.cat([grads[name].flatten() for name in kept]) for grads in (found, expected)), dim=0
    )
    assert cosine > 0.98
    assert not torch.equal(rounded.prediction.float(), exact.prediction)


def test_links_and_the_start_of_the_log_link():
    batch = make_batch(2)
    raw = make_network().eval()(batch).prediction
    assert make_network(link="log").fc.bias.exp().item() == pytest.approx(0.7)
    for link, function in (("log", torch.exp), ("logit", torch.sigmoid)):
        network = make_network(link=link).eval()
        network.load_state_dict(make_network().state_dict())
        torch.testing.assert_close(network(batch).prediction, function(raw))


def test_a_network_without_head_predicts_nothing():
    network = make_network(output_features=0)
    assert network(make_batch(3)).prediction.shape == (3, 0)
    assert not any(name.startswith("fc") for name in network.state_dict())


def test_kernels_have_the_right_gradients():
    torch.manual_seed(0)
    source, target = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0, 0, 1, 2, 2])
    shapes = [(5, 3), (3, 6), (3, 3), (3, 3), (3,), (3,)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    nothing = torch.empty(0)
    running = (torch.randn(3, dtype=torch.float64), 0.5 + torch.rand(3, dtype=torch.float64))
    for norm in (
        alignn_kernels.NormCall("batch", 1e-5, None),
        alignn_kernels.NormCall("batch", 1e-5, running),
        alignn_kernels.NormCall("layer", 1e-5, (nothing, nothing)),
    ):
        for update in (True, False):

            def gated(*values, norm=norm, update=update):
                return alignn_kernels.gated_edges(*values, (source, target), norm, update=update)[: 1 + update]

            assert torch.autograd.gradcheck(gated, inputs)
        rows = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(4, 2), (3, 2), 3, 3, 3]]
        assert torch.autograd.gradcheck(lambda *v, n=norm: alignn_kernels.linear_norm_silu(*v, n)[0], rows)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_predictions_without_gradients_are_the_same(norm, training):
    batch = make_batch(4)
    expected = make_network(norm=norm).train(training)(batch, pool_all=True).embedding()
    with torch.inference_mode():
        found = make_network(norm=norm).train(training)(batch, pool_all=True).embedding()
    assert torch.equal(found, expected)


def test_large_arrays_are_aligned():
    like = torch.empty(0, dtype=torch.bfloat16)
    found = alignn_kernels._empty(7, 3, like)
    assert found.shape == (7, 3)
    assert found.dtype == torch.bfloat16
    assert found.data_ptr() % 64 == 0


def test_batch_takes_its_tensors_by_name():
    batch = make_batch(2)
    tensors = {f"crystal_graph.{field.name}": getattr(batch, field.name) for field in fields(batch)}
    assert CrystalBatch.from_batch(tensors) == batch


def test_overfits_sixteen_crystals():
    network = make_network(hidden_features=32, embedding_features=16)
    batch = make_batch(16)
    target = torch.randn(16, generator=torch.Generator().manual_seed(7))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network(batch).prediction[:, 0] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
