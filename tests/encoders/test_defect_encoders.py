"""Encoders of defects: fitted on training rows alone, restored from a checkpoint, equal for equivalent rows."""

import numpy as np
import pytest
import torch

from crystalfm.chem.defects.enumeration import random_configurations
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.defect_features import DefectFeatureEncoder
from crystalfm.encoders.defect_graph import DefectGraphEncoder, node_table
from crystalfm.encoders.defect_states import KnownDefects
from crystalfm.models.classical import gather_dense

MOS2 = Supercell(HOSTS["MoS2"], (4, 4, 1))


def rows(*names, count=3, number=6, seed=0):
    found = random_configurations(MOS2, parse_rules(names), count, number, np.random.default_rng(seed))
    return [DefectRecord.of(MOS2, one).to_json() for one in found]


TRAIN = [*rows("v_S", "Se_S"), *rows("v_S", "v_Mo", count=2), *rows("Se_S", count=1, number=1)]
SMALL = {"alignn_layers": 1, "gcn_layers": 1, "hidden_features": 8, "embedding_features": 8}


@pytest.fixture
def graphs(tmp_path):
    def make(**settings):
        cache = EmbeddingCache(tmp_path / "embeddings")
        return DefectGraphEncoder(modality="defect_graph", cache=cache, **(SMALL | settings))

    return make


def fitted(**settings):
    encoder = DefectFeatureEncoder(modality="defects", **settings)
    encoder.fit(TRAIN)
    return encoder


def moved(value):
    record = DefectRecord.from_json(value)
    permutation = site_permutations(record.supercell)[91]
    return DefectRecord.of(record.supercell, record.configuration.moved(permutation)).to_json()


def vectors(encoder, values):
    return encoder.prepare(values).batch(np.arange(len(values)))["defects.embedding"]


def test_trees_see_the_numbers_themselves_and_missing_where_absent():
    encoder = fitted()
    matrix = gather_dense({"defects": encoder.prepare([TRAIN[0], None])}, np.arange(2))
    assert matrix[0, 0] == 3
    assert np.isnan(matrix[1]).all()


def test_rules_and_pairs_come_from_training_rows():
    encoder = fitted()
    encoder.prepare([*TRAIN, *rows("W_Mo", count=1, number=1)])
    assert encoder.state()["rules"] == ["Se_S", "v_Mo", "v_S"]
    assert encoder.report().notes[-1] == "rules that no training row has: W_Mo"


def test_the_network_standardises_by_the_training_rows_and_cuts():
    network = fitted(width=0).build_network().eval()
    encoder = fitted(width=0)
    batch = encoder.prepare(TRAIN).batch(np.arange(len(TRAIN)))
    found = network(batch)
    varies = found.abs().sum(dim=0) > 0
    assert varies.sum() > 30
    assert found.abs().max() <= 5
    uncut = varies & (found.abs().max(dim=0).values < 5)
    torch.testing.assert_close(found.mean(dim=0)[uncut], torch.zeros(int(uncut.sum())), atol=1e-5, rtol=0)
    assert fitted(width=16).build_network()(batch).shape == (len(TRAIN), 16)


def test_a_checkpoint_restores_the_features(tmp_path):
    encoder = fitted()
    torch.save(encoder.state(), tmp_path / "state.pt")
    restored = DefectFeatureEncoder(modality="defects")
    restored.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(vectors(restored, TRAIN), vectors(encoder, TRAIN), rtol=0, atol=0)
    network, twin = encoder.build_network(), restored.build_network()
    torch.testing.assert_close(twin.mean, network.mean)
    torch.testing.assert_close(twin.scale, network.scale)


def test_equivalent_rows_have_equal_vectors():
    encoder = fitted()
    torch.testing.assert_close(vectors(encoder, list(map(moved, TRAIN))), vectors(encoder, TRAIN), rtol=0, atol=0)


def test_another_version_of_the_vector_is_refused():
    with pytest.raises(UserError, match="version 0"):
        DefectFeatureEncoder(modality="defects").load_state(fitted().state() | {"version": 0})


def test_nodes_tell_what_was_taken_what_came_and_a_vacancy():
    table = node_table()
    vacancy, selenium, tungsten = table[16 * 128], table[16 * 128 + 34], table[42 * 128 + 74]
    width = (table.shape[1] - 1) // 2
    assert vacancy[-1] == 1
    assert selenium[-1] == tungsten[-1] == 0
    torch.testing.assert_close(vacancy[:width], selenium[:width])
    assert vacancy[width:-1].abs().sum() == 0
    assert not torch.equal(selenium[width:-1], tungsten[width:-1])


@pytest.mark.parametrize("pooling", ["atoms", "all"])
def test_graphs_of_equivalent_rows_give_equal_vectors(graphs, pooling):
    encoder = graphs(pooling=pooling)
    encoder.fit(TRAIN)
    torch.manual_seed(0)
    network = encoder.build_network().eval()
    found = [network(encoder.prepare(values).batch(np.arange(len(TRAIN)))) for values in (TRAIN, [*map(moved, TRAIN)])]
    assert found[0].shape == (len(TRAIN), 8 if pooling == "atoms" else 24)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert len(torch.unique(found[0].round(decimals=4), dim=0)) > len(TRAIN) // 2


def test_a_graph_has_a_node_a_defect_and_rows_without_one_are_absent(graphs):
    encoder = graphs()
    pristine = DefectRecord.of(MOS2, DefectRecord.from_json(TRAIN[0]).configuration.of([])).to_json()
    batch = encoder.prepare([None, TRAIN[0], pristine]).batch(np.arange(3))
    assert batch["defect_graph.present"].tolist() == [False, True, False]
    assert batch["defect_graph.num_atoms"].tolist() == [0, 3, 0]
    assert batch["defect_graph.atomic_numbers"].max() >= 16 * 128
    assert encoder.build_network().eval()(batch)[0].abs().sum() == 0


def test_a_checkpoint_restores_the_graphs_and_the_architecture(graphs, tmp_path):
    encoder = graphs(max_neighbors=4)
    encoder.fit(TRAIN)
    torch.save(encoder.state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    restored = graphs(hidden_features=16)
    restored.load_state(state)
    assert restored.state() == encoder.state()
    network = encoder.build_network()
    restored.build_network().load_state_dict(network.state_dict())


@pytest.mark.parametrize("settings", [{"max_neighbors": 0}, {"alignn_layers": 0, "gcn_layers": 0}, {"norm": "group"}])
def test_settings_out_of_range_are_refused(graphs, settings):
    with pytest.raises(UserError, match=r"encoders\.defect_graph"):
        graphs(**settings)


def test_what_a_model_knows_decides_what_it_can_be_asked():
    known = KnownDefects.of_encoders({"composition": {}, "defects": fitted().state()})
    assert known.rules == ("Se_S", "v_Mo", "v_S")
    value = DefectRecord.from_json(TRAIN[0])
    assert known.record_of(value.crystal()) == value
    tungsten = DefectRecord.from_json(rows("W_Mo", count=1, number=1)[0])
    with pytest.raises(UserError, match=r"no training row has the defect W_Mo \(they have Se_S, v_Mo, v_S\)"):
        known.record_of(tungsten.crystal())
    with pytest.raises(UserError, match="pristine MoS2"):
        known.record_of(value.configuration.of([]).crystal(MOS2))
    assert KnownDefects.of_encoders({"composition": {}}) == KnownDefects()
