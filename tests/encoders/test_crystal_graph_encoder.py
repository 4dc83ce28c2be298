"""The crystal-graph encoder: features, networks, pretrained starts, checkpoints, and the models around it."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from test_alignn_published import publish

from crystalfm.assets.store import AssetStore
from crystalfm.chem.crystal_graph import GraphSettings
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
        cache = EmbeddingCache(tmp_path / "cache" / "embeddings")
        store = AssetStore(tmp_path / "cache", mirror=tmp_path / "mirror", offline=True)
        return CrystalGraphEncoder(modality="crystal_graph", store=store, cache=cache, **{**SMALL, **settings})

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


def test_a_checkpoint_rebuilds_a_pretrained_start_without_its_folder(build, tmp_path):
    published = publish(tmp_path / "net", norm="layer", flat=True)
    encoder = build(weights=str(tmp_path / "net"), hidden_features=4)
    state = encoder.state()
    network = encoder.build_network()
    assert network.training
    assert network.width == 8
    weights = published.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in network.network.state_dict().items())
    batch = batch_of(encoder)
    assert encoder.report().notes[0] == (
        f"weights of {tmp_path / 'net'}, whose graphs are 12 nearest neighbours, as alignn makes them"
    )
    shutil.rmtree(tmp_path / "net")
    again = build(weights=str(tmp_path / "net"), hidden_features=4)
    again.load_state(state)
    rebuilt = again.build_network()
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt.eval()(batch_of(again)), network.eval()(batch))


@pytest.mark.parametrize("pooling", ["atoms", "all"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_frozen_vectors_are_those_of_the_network(build, tmp_path, pooling, norm):
    publish(tmp_path / "net", norm=norm)
    trained = build(weights=str(tmp_path / "net"), pooling=pooling)
    with torch.no_grad():
        expected = trained.build_network().eval()(batch_of(trained))
    encoder = build(weights=str(tmp_path / "net"), pooling=pooling, frozen=True)
    batch = batch_of(encoder)
    torch.testing.assert_close(encoder.build_network()(batch), expected, rtol=1e-5, atol=1e-6)
    assert not list(encoder.build_network().parameters())
    report = encoder.report()
    assert (report.frozen, report.width, report.cache_hits, report.cache_misses) == (True, expected.shape[1], 0, 2)


def test_frozen_vectors_come_from_the_cache_until_weights_or_pooling_change(build, tmp_path, monkeypatch):
    publish(tmp_path / "net")
    settings = {"weights": str(tmp_path / "net"), "frozen": True}
    first = batch_of(build(**settings))["crystal_graph.embedding"]
    publish(tmp_path / "other", more={"atom_embedding.layer.0.bias": torch.ones(8)})
    other = build(weights=str(tmp_path / "other"), frozen=True)
    assert not torch.allclose(batch_of(other)["crystal_graph.embedding"], first)
    assert build(**settings, pooling="all").identity() != build(**settings).identity()
    monkeypatch.setattr(CrystalGraphEncoder, "_encode", None)
    again = build(**settings)
    assert torch.equal(batch_of(again)["crystal_graph.embedding"], first)
    assert (again.report().cache_hits, again.report().cache_misses) == (2, 0)


def test_frozen_vectors_do_not_depend_on_the_crystals_beside(build, tmp_path, monkeypatch):
    publish(tmp_path / "net")
    settings = {"weights": str(tmp_path / "net"), "frozen": True}
    together = batch_of(build(**settings))["crystal_graph.embedding"]
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("crystalfm.encoders.crystal_graph._STATES_AT_ONCE", 1)
    torch.testing.assert_close(batch_of(build(**settings))["crystal_graph.embedding"], together, rtol=1e-5, atol=1e-6)


def test_a_frozen_encoder_is_restored_from_its_checkpoint_alone(build, tmp_path):
    publish(tmp_path / "net")
    encoder = build(weights=str(tmp_path / "net"), frozen=True)
    vectors = batch_of(encoder)["crystal_graph.embedding"]
    stream = io.BytesIO()
    torch.save(encoder.state(), stream)
    stream.seek(0)
    shutil.rmtree(tmp_path / "net")
    shutil.rmtree(tmp_path / "cache")
    again = build(weights=str(tmp_path / "net"), frozen=True)
    again.load_state(torch.load(stream, weights_only=True))
    torch.testing.assert_close(batch_of(again)["crystal_graph.embedding"], vectors)
    assert again.build_network().width == 8
    assert again.report().cache_misses == 2
    with pytest.raises(UserError, match="frozen=False, the checkpoint was made with True"):
        build().load_state(encoder.state())


def test_weights_from_a_zip_and_from_an_asset_that_holds_one(build, tmp_path):
    publish(tmp_path / "net")
    folder = tmp_path / "mirror" / "alignn_mp_e_form"
    folder.mkdir(parents=True)
    archive = folder / "mp_e_form_alignn.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for file in (tmp_path / "net").iterdir():
            writer.write(file, f"mp_e_form_alignn/{file.name}")
    expected = build(weights=str(tmp_path / "net")).build_network().state_dict()
    for weights in (str(archive), "alignn_mp_e_form"):
        found = build(weights=weights).build_network().state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_ways_of_the_source_are_taken_over(build, tmp_path):
    publish(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config |= {"neighbor_strategy": "pure_torch", "cutoff": 4.0, "three_body_cutoff": 3.5}
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    encoder = build(weights=str(tmp_path / "net"))
    assert encoder.state()["graphs"] == {
        **GraphSettings("radius", 12, 4.0, 3.5, as_alignn=True).identity(),
    }
    config["neighbor_strategy"] = "voronoi"
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="neighbor_strategy=voronoi is a way to make graphs that is unknown"):
        build(weights=str(tmp_path / "net")).state()


def test_graphs_of_a_checkpoint_are_taken_over_unless_this_release_makes_others(build):
    state = build(max_neighbors=6).state()
    encoder = build()
    encoder.load_state(state)
    assert encoder.state() == state
    with pytest.raises(UserError, match="the checkpoint has crystal graphs of"):
        build().load_state({**state, "graphs": {**state["graphs"], "version": 0}})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("alignn_mp_e_from", "did you mean 'alignn_mp_e_form'"),
        ("runs/nowhere", "no such file or folder"),
        ("{tmp}/empty", "the folder holds no checkpoint"),
        ("{tmp}/text.pt", "cannot be read as a checkpoint"),
    ],
)
def test_weights_that_are_none(build, tmp_path, weights, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError) as caught:
        build(weights=weights.format(tmp=tmp_path)).build_network()
    assert message in str(caught.value) or message in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignn_layers": 0, "gcn_layers": 0}, "no layer"),
        ({"hidden_features": 0}, r"hidden_features=0 is out of range"),
        ({"edge_input_features": 1}, r"edge_input_features=1 is out of range"),
        ({"max_neighbors": 0}, r"max_neighbors=0 is out of range"),
        ({"cutoff_angstrom": 0.1}, r"cutoff_angstrom=0.1 is out of range"),
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"frozen": True}, "frozen=true needs weights"),
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
