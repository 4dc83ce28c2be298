"""The crystal-graph encoder: features, networks, published starts, checkpoints, and the models around it."""

import numpy as np
import pytest
import torch
from test_alignn_published import publish

from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.data.batches import RecordDataset
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.crystal_graph import CrystalGraphEncoder
from crystalfm.models.alignn_regressor import AlignnRegressor
from crystalfm.models.scaling import TargetScaling
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

SMALL = {"alignn_layers": 1, "gcn_layers": 1, "hidden_features": 8, "embedding_features": 6}
CRYSTALS = [
    make_crystal(np.eye(3) * 3.1, [26], [[0, 0, 0]]),
    make_crystal([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
]
VALUES = [CRYSTALS[0].to_json(), None, CRYSTALS[1].to_json(), CRYSTALS[0].to_json()]


@pytest.fixture(name="build")
def _build(tmp_path):
    def build(**settings):
        cache = EmbeddingCache(tmp_path / "embeddings")
        return CrystalGraphEncoder(modality="crystal_graph", cache=cache, **{**SMALL, **settings})

    return build


def batch_of(encoder, rows=(0, 1, 2, 3)):
    store = encoder.prepare(VALUES)
    return RecordDataset(np.arange(4.0)[:, None], {"crystal_graph": store}).__getitems__(list(rows))


@pytest.mark.parametrize("settings", [{}, {"strategy": "radius", "cutoff_angstrom": 4.5, "angle_cutoff_angstrom": 3.5}])
@pytest.mark.parametrize(("pooling", "width"), [("atoms", 8), ("all", 24)])
def test_vectors_of_crystals(build, settings, pooling, width):
    encoder = build(pooling=pooling, **settings)
    network = encoder.build_network().eval()
    vectors = network(batch_of(encoder))
    assert vectors.shape == (4, width)
    assert network.width == encoder.report().width == width
    assert torch.equal(vectors[1], torch.zeros(width))
    torch.testing.assert_close(vectors[0], vectors[3])
    assert not torch.allclose(vectors[0], vectors[2])
    assert encoder.report().notes == ["2 distinct crystals of up to 2 atoms"]


def test_every_weight_of_the_network_is_trained_or_frozen(build):
    for pooling in ("atoms", "all"):
        encoder = build(pooling=pooling)
        network = encoder.build_network()
        network(batch_of(encoder)).sum().backward()
        assert all((weight.grad is not None) == weight.requires_grad for weight in network.parameters())


def test_a_checkpoint_rebuilds_a_published_start_without_its_folder(build, tmp_path):
    published = publish(tmp_path / "net", norm="layer", flat=True)
    encoder = build(published=str(tmp_path / "net"), hidden_features=4)
    state = encoder.state()
    network = encoder.build_network()
    assert network.training
    assert network.width == 8
    weights = published.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in network.network.state_dict().items())
    (tmp_path / "net" / "config.json").unlink()
    again = build(published=str(tmp_path / "net"), hidden_features=4)
    again.load_state(state)
    rebuilt = again.build_network()
    rebuilt.load_state_dict(network.state_dict())
    batch = batch_of(again)
    assert torch.equal(rebuilt.eval()(batch), network.eval()(batch))


def test_graphs_made_in_another_way_are_refused(build):
    with pytest.raises(UserError, match="crystal_graph has graphs of"):
        build().load_state(build(max_neighbors=6).state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignn_layers": 0, "gcn_layers": 0}, "no layer"),
        ({"hidden_features": 0}, r"hidden_features=0 is out of range"),
        ({"edge_input_features": 1}, r"edge_input_features=1 is out of range"),
        ({"max_neighbors": 0}, r"max_neighbors=0 is out of range"),
        ({"cutoff_angstrom": 0.1}, r"cutoff_angstrom=0.1 is out of range"),
        ({"norm": "bach"}, "did you mean 'batch'"),
    ],
)
def test_settings_out_of_range(build, settings, message):
    with pytest.raises(UserError) as caught:
        build(**settings)
    assert message in str(caught.value)


def make_regressor(encoders):
    return AlignnRegressor(
        encoders=encoders,
        targets=(TargetSpec("gap", "eV"),),
        scaling=TargetScaling(np.array([1.0]), np.array([2.0])),
        optimizer=OptimizerSettings(),
        scheduler=SchedulerSettings(),
    )


def test_the_regressor_learns_from_crystals(build):
    torch.manual_seed(0)
    encoder = build(norm="layer")
    model = make_regressor({"crystal_graph": encoder.build_network()})
    batch = batch_of(encoder, rows=(0, 2))
    assert model(batch).shape == (2, 1)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss, count = model.loss(model(batch), batch)
        loss.backward()
        optimizer.step()
    assert count == 2
    assert loss < 1e-3
    torch.testing.assert_close(model.predict_step(batch)["prediction"], batch["targets"], rtol=0.1, atol=0.15)


def test_the_regressor_takes_one_modality(build):
    network = build().build_network()
    with pytest.raises(UserError, match="takes one modality, 2 given"):
        make_regressor({"crystal_graph": network, "smiles": network})
