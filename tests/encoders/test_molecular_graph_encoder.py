"""The molecular-graph encoder: features of rows, its network, and its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crystalfm.chem.molecular_graph import ATOM_FEATURES, molecular_graph
from crystalfm.chem.molecules import random_smiles
from crystalfm.contracts import UserError
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.molecular_graph import MolecularGraphEncoder

VALUES = ["CCO", None, "c1ccccc1", "C", "CCO", "CC(=O)O.[Na+]"]


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "embeddings")


def build(cache: EmbeddingCache, num_layers: int = 2) -> MolecularGraphEncoder:
    return MolecularGraphEncoder(modality="molecular_graph", cache=cache, width=16, num_layers=num_layers, num_groups=4)


def test_a_batch_holds_the_graphs_of_its_rows(cache: EmbeddingCache) -> None:
    store = build(cache).prepare(VALUES)
    rows = np.array([5, 1, 0, 4])
    batch = store.batch(rows)
    atoms, relations, mask = (batch[f"molecular_graph.{kind}"] for kind in ("atoms", "relations", "mask"))
    assert batch["molecular_graph.present"].tolist() == [True, False, True, True]
    assert atoms.shape == (4, 5, len(ATOM_FEATURES))
    assert relations.shape == (4, 5, 5)
    assert mask.sum(dim=1).tolist() == [5, 0, 3, 3]
    for place, row in enumerate(rows):
        value = VALUES[row]
        if value is not None:
            graph, size = molecular_graph(value), int(mask[place].sum())
            assert np.array_equal(atoms[place, :size], graph.atoms)
            assert np.array_equal(relations[place, :size, :size], graph.relations)
    assert store.lengths.tolist() == [3, 0, 6, 1, 3, 5]


def test_a_batch_without_any_molecule_is_finite(cache: EmbeddingCache) -> None:
    encoder = build(cache)
    batch = encoder.prepare(VALUES).batch(np.array([1, 1]))
    assert torch.isfinite(encoder.build_network()(batch)).all()


def test_vectors_do_not_depend_on_the_batch_or_on_how_the_molecule_is_written(cache: EmbeddingCache) -> None:
    smiles = "CC(=O)Nc1ccc(O)cc1"
    values = [*VALUES, smiles, *random_smiles(smiles, num=3)]
    encoder = build(cache)
    store, network = encoder.prepare(values), encoder.build_network().eval()
    alone = network(store.batch(np.array([6])))
    together = network(store.batch(np.arange(len(values))))
    torch.testing.assert_close(together[6:], alone.expand(4, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[0], together[4])
    assert not torch.allclose(together[0], together[2], atol=1e-3)


def test_an_atom_far_away_reaches_the_vector_in_one_layer(cache: EmbeddingCache) -> None:
    encoder = build(cache, num_layers=1)
    store, network = encoder.prepare(["C" * 9 + "O", "C" * 9 + "N"]), encoder.build_network().eval()
    first, second = network(store.batch(np.array([0, 1])))
    assert not torch.allclose(first, second, atol=1e-4)


def test_every_weight_learns_and_padding_stays_without_weight(cache: EmbeddingCache) -> None:
    encoder = build(cache)
    network = encoder.build_network()
    batch = encoder.prepare(VALUES).batch(np.arange(len(VALUES)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
    weights = [parameter for name, parameter in network.named_parameters() if name.endswith("relation_weight.weight")]
    assert len(weights) == 2
    assert all((weight[-1] == 0).all() and (weight[:-1] != 0).all() for weight in weights)


def test_graphs_are_read_from_the_cache_the_second_time(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(cache).prepare(VALUES).batch(np.arange(6))
    monkeypatch.setattr("crystalfm.encoders.molecular_graph.molecular_graph", None)
    second = build(cache).prepare(VALUES).batch(np.arange(6))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_molecules_that_are_too_large_take_part_without_the_modality(cache: EmbeddingCache) -> None:
    encoder = MolecularGraphEncoder(modality="molecular_graph", cache=cache, max_atoms=5)
    store = encoder.prepare(VALUES)
    assert store.present.tolist() == [True, False, False, True, True, True]
    assert store.batch(np.array([2, 0]))["molecular_graph.mask"].sum(dim=1).tolist() == [0, 3]
    assert encoder.report().notes[-1] == "1 rows without it: more than 5 atoms"


def test_a_large_batch_is_worked_through_in_parts(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(cache)
    store, network = encoder.prepare([*VALUES, "C" * 20]), encoder.build_network()
    batch = store.batch(np.arange(7))
    gradients = []
    for limit in (1 << 21, 30):
        monkeypatch.setattr("crystalfm.encoders.graph_network._PAIRS_AT_A_TIME", limit)
        network.zero_grad()
        vectors = network(batch)
        vectors.square().sum().backward()
        gradients.append([vectors.detach(), *(weight.grad.clone() for weight in network.parameters())])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"width": 10}, "does not divide"), ({"num_layers": 0}, "out of range"), ({"dropout": 1.0}, "out of range")],
)
def test_settings_out_of_range_are_refused(cache: EmbeddingCache, settings: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        MolecularGraphEncoder(modality="molecular_graph", cache=cache, **settings)


def test_a_state_of_another_version_is_refused(cache: EmbeddingCache) -> None:
    encoder = build(cache)
    encoder.load_state(encoder.state())
    with pytest.raises(UserError, match="version 0"):
        encoder.load_state({"version": 0})
