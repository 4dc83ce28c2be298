"""The store of crystal graphs: batches of any rows are their single graphs put together."""

import numpy as np
import pytest
import torch

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.graph_arrays import GraphArrays, build_arrays, concatenate
from crystalfm.contracts import BATCH_KEYS
from crystalfm.data.crystal_features import CrystalGraphStore

SETTINGS = [
    GraphSettings(),
    GraphSettings(max_neighbors=4, as_alignn=True),
    GraphSettings("radius", cutoff_angstrom=3.3, angle_cutoff_angstrom=2.9),
]
CRYSTALS = [
    make_crystal(np.eye(3) * 3.1, [26], [[0, 0, 0]]),
    make_crystal(np.diag([3.0, 4.0, 30.0]), [6, 8], [[0.1, 0, 0], [0.5, 0.5, 0.05]]),
    make_crystal(np.eye(3) * 9.0, [2], [[0, 0, 0]]),  # without edges within a radius
    make_crystal([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
]
PRESENT = np.array([True, False, True, True, True, False])
INDEX = np.array([3, 0, 0, 2, 1, 99])


def make_store(options):
    graphs = build_arrays(CRYSTALS, options)
    return CrystalGraphStore("crystal_graph", PRESENT, graphs=graphs, index=INDEX, settings=options)


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("rows", [[0], [1], [3, 3], [4, 0, 1, 2, 3, 5], [5, 1], []])
def test_a_batch_is_its_graphs_one_after_another(options, rows):
    batch = make_store(options).batch(np.array(rows, dtype=np.int64))
    atoms = edges = triplets = 0
    for number, row in enumerate(rows):
        if not PRESENT[row]:
            assert batch["crystal_graph.num_atoms"][number] == batch["crystal_graph.num_edges"][number] == 0
            continue
        crystal = CRYSTALS[INDEX[row]]
        graph = options.build([crystal])
        first, second = options.triplets(graph.source, graph.target, graph.vector)
        expected = {
            "atomic_numbers": (crystal.atomic_numbers, atoms),
            "edge_source": (graph.source + atoms, edges),
            "edge_target": (graph.target + atoms, edges),
            "edge_vector": (graph.vector, edges),
            "triplet_first": (first + edges, triplets),
            "triplet_second": (second + edges, triplets),
        }
        for kind, (values, start) in expected.items():
            found = batch[f"crystal_graph.{kind}"][start : start + len(values)].numpy()
            np.testing.assert_array_equal(found, values, err_msg=kind)
        assert batch["crystal_graph.num_atoms"][number] == crystal.num_atoms
        assert batch["crystal_graph.num_edges"][number] == len(graph.source)
        atoms, edges, triplets = atoms + crystal.num_atoms, edges + len(graph.source), triplets + len(first)
    assert len(batch["crystal_graph.atomic_numbers"]) == atoms
    assert len(batch["crystal_graph.edge_source"]) == len(batch["crystal_graph.edge_vector"]) == edges
    assert len(batch["crystal_graph.triplet_first"]) == len(batch["crystal_graph.triplet_second"]) == triplets
    assert batch["crystal_graph.present"].tolist() == PRESENT[rows].tolist()


@pytest.mark.parametrize("options", SETTINGS)
def test_every_tensor_is_as_registered(options):
    batch = make_store(options).batch(np.arange(6))
    registered = {key.pattern: key for key in BATCH_KEYS}
    for name, tensor in batch.items():
        key = registered[name.replace("crystal_graph", "{m}")]
        assert str(tensor.dtype) == f"torch.{key.dtype}"
        assert tensor.ndim == key.shape.count(",") + (not key.shape.endswith(",)"))


@pytest.mark.parametrize("options", SETTINGS)
def test_the_cost_of_every_row_is_known_beforehand(options):
    store = make_store(options)
    for row in range(6):
        batch = store.batch(np.array([row]))
        assert store.num_atoms[row] == len(batch["crystal_graph.atomic_numbers"])
        assert store.num_edges[row] == len(batch["crystal_graph.edge_source"])
        assert store.num_triplets[row] == len(batch["crystal_graph.triplet_first"])
    assert store.lengths is None
    assert len(store) == 6


def test_gathering_leaves_the_store_as_it_was():
    store = make_store(SETTINGS[0])
    before = store.batch(np.arange(6))
    for tensor in store.batch(np.arange(6)).values():
        tensor.zero_()
    for name, tensor in store.batch(np.arange(6)).items():
        assert torch.equal(tensor, before[name])


def test_integers_are_kept_as_small_as_they_may_be():
    small = build_arrays(CRYSTALS, GraphSettings())
    assert (small.source.dtype, small.target.dtype, small.image.dtype) == (np.uint8, np.uint8, np.int8)
    far = make_crystal(CRYSTALS[0].lattice, [26], [[0, 0, 0]])
    two = make_crystal(np.eye(3) * 3.1, [26, 26], [[0, 0, 0], [200.5, 0.5, 0.5]])
    wide = build_arrays([far, two], GraphSettings())
    assert wide.image.dtype == np.int16
    assert wide.image[:, 0].max() == 201
    both = concatenate([small, wide])
    assert len(both) == 6
    np.testing.assert_array_equal(both.image[len(small.image) :], wide.image)


def test_no_crystals_are_empty_arrays():
    empty = build_arrays([], GraphSettings())
    assert {name: array.shape[0] for name, array in empty.arrays().items()} == dict.fromkeys(GraphArrays.names(), 0)
    assert empty.vector.shape == empty.image.shape == (0, 3)
