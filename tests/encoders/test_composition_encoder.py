"""The composition encoder: fitted on training rows alone, restored from a checkpoint, serves every kind of model."""

import numpy as np
import pytest
import torch

from crystalfm.chem.compositions import NUM_FEATURES
from crystalfm.chem.crystals import SYMBOLS, make_crystal
from crystalfm.contracts import UserError
from crystalfm.encoders.composition import CompositionEncoder
from crystalfm.models.classical import gather_dense


def crystal_of(*symbols):
    numbers = [SYMBOLS.index(symbol) + 1 for symbol in symbols]
    return make_crystal(np.eye(3) * 9, numbers, [[place / len(symbols)] * 3 for place in range(len(symbols))]).to_json()


TRAIN = [crystal_of(*formula) for formula in (("Na", "Cl"), ("Fe", "O"), ("Mg", "O"), ("Si",), ("K", "Cl", "O"))]
ROWS = np.arange(len(TRAIN))


def fitted(values=TRAIN, **settings):
    encoder = CompositionEncoder(modality="composition", **settings)
    encoder.fit(values)
    return encoder


def vectors(encoder, values):
    store = encoder.prepare(values)
    return store.batch(np.arange(len(values)))["composition.embedding"]


def test_training_rows_are_standardised():
    found = vectors(fitted(), TRAIN).double()
    varies = found.std(dim=0, unbiased=False) > 0
    assert varies.sum() > 80
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(NUM_FEATURES).double(), atol=1e-5, rtol=0)
    spread = found[:, varies].std(dim=0, unbiased=False)
    torch.testing.assert_close(spread, torch.ones(len(spread)).double(), atol=1e-5, rtol=0)


def test_other_rows_do_not_change_the_scale():
    encoder = fitted()
    alone = vectors(encoder, TRAIN)
    together = vectors(encoder, [*TRAIN, crystal_of("U"), crystal_of("H", "He")])[: len(TRAIN)]
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_an_element_that_training_never_saw_is_no_noise():
    found = vectors(fitted(), [crystal_of("Og", "Cl")])[0]
    assert found[SYMBOLS.index("Og")] == 0
    assert found[SYMBOLS.index("Cl")] > 0
    assert found.abs().max() <= 5


def test_rows_without_a_crystal():
    store = fitted().prepare([None, TRAIN[0], None, TRAIN[1]])
    batch = store.batch(np.arange(4))
    assert batch["composition.present"].tolist() == [False, True, False, True]
    torch.testing.assert_close(batch["composition.embedding"][[1, 3]], vectors(fitted(), TRAIN[:2]))
    assert batch["composition.embedding"][[0, 2]].abs().sum() == 0


def test_trees_see_the_vector_and_missing_where_it_is_absent():
    encoder = fitted()
    matrix = gather_dense({"composition": encoder.prepare([TRAIN[0], None])}, np.arange(2))
    assert matrix.shape == (2, NUM_FEATURES)
    assert np.isnan(matrix[1]).all()


def test_a_checkpoint_restores_it_without_pymatgen(monkeypatch):
    encoder = fitted()
    state = encoder.state()
    restored = CompositionEncoder(modality="composition")
    restored.load_state(state)
    monkeypatch.setattr("crystalfm.encoders.composition.element_table", pytest.fail)
    torch.testing.assert_close(vectors(restored, TRAIN), vectors(encoder, TRAIN), rtol=0, atol=0)


def test_the_state_survives_a_safe_load(tmp_path):
    torch.save(fitted().state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    restored = CompositionEncoder(modality="composition")
    restored.load_state(state)
    torch.testing.assert_close(vectors(restored, TRAIN), vectors(fitted(), TRAIN), rtol=0, atol=0)


def test_a_vector_of_another_version_is_refused():
    state = fitted().state()
    for change in ({"version": 0}, {"properties": ["Z"]}):
        with pytest.raises(UserError, match="composition is version"):
            CompositionEncoder(modality="composition").load_state(state | change)


@pytest.mark.parametrize(("width", "wanted"), [(16, 16), (0, NUM_FEATURES)])
def test_the_network_gives_vectors_of_its_width(width, wanted):
    encoder = fitted(width=width)
    network = encoder.build_network()
    batch = encoder.prepare(TRAIN).batch(ROWS)
    assert network.width == wanted == encoder.report().width
    assert network(batch).shape == (len(TRAIN), wanted)
    if not width:
        torch.testing.assert_close(network(batch), batch["composition.embedding"])


def test_dropout_acts_in_training_alone():
    encoder = fitted(width=0, dropout=0.5)
    network, batch = encoder.build_network(), encoder.prepare(TRAIN).batch(ROWS)
    assert not torch.equal(network.train()(batch), network(batch))
    torch.testing.assert_close(network.eval()(batch), batch["composition.embedding"])


@pytest.mark.parametrize("settings", [{"width": -1}, {"dropout": 1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=r"encoders\.composition"):
        CompositionEncoder(modality="composition", **settings)
