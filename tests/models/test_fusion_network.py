import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.encoders.networks import CachedVectors
from crystalfm.models.backbones import TinyBackbone
from crystalfm.models.fusion import FusionNetwork, drop_modalities, masked_mean, sinusoidal_positions

NAMES = ("smiles", "selfies", "fingerprint")


def _network(names=NAMES, width=16, **settings):
    torch.manual_seed(0)
    widths = {"smiles": 12, "selfies": 16, "fingerprint": 9}
    encoders = {name: CachedVectors(name, widths[name]) for name in names}
    llm = TinyBackbone(width=width, num_layers=1, num_heads=2)
    return FusionNetwork(encoders=encoders, llm=llm, num_targets=2, **settings)


def test_projection_only_where_widths_differ():
    network = _network()
    assert isinstance(network.projections["smiles"], torch.nn.Linear)
    assert isinstance(network.projections["selfies"], torch.nn.Identity)


def test_output_shape_for_any_subset_of_modalities(make_batch):
    batch = make_batch(5)
    for names in (("smiles",), ("fingerprint", "smiles"), NAMES):
        assert _network(names)(batch).shape == (5, 2)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_what_an_absent_modality_holds_has_no_influence(make_batch, positions):
    network = _network(positions=positions).eval()
    batch = make_batch(64, absent=0.4)
    changed = dict(batch)
    for name in NAMES:
        vectors = batch[f"{name}.embedding"].clone()
        vectors[~batch[f"{name}.present"]] = 1e4
        changed[f"{name}.embedding"] = vectors
    assert torch.equal(network(batch), network(changed))


def test_a_missing_modality_equals_a_model_without_it(make_batch):
    """With one modality hidden, the rest is computed as if it had never been there."""
    full = _network(positions="none").eval()
    batch = make_batch(6)
    batch["selfies.present"][:] = False
    part = _network(("smiles", "fingerprint"), positions="none").eval()
    part.load_state_dict({key: value for key, value in full.state_dict().items() if "selfies" not in key})
    torch.testing.assert_close(full(batch), part(batch), rtol=1e-5, atol=1e-6)


def test_present_modalities_do_matter(make_batch):
    network = _network().eval()
    batch = make_batch(4)
    reference = network(batch)
    for name in NAMES:
        changed = dict(batch) | {f"{name}.embedding": batch[f"{name}.embedding"].flip(0)}
        assert not torch.allclose(network(changed), reference)


def test_rows_are_independent_and_follow_a_permutation(make_batch):
    network = _network().eval()
    batch = make_batch(16, absent=0.3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shuffled = {key: value[order] for key, value in batch.items()}
    torch.testing.assert_close(network(shuffled), network(batch)[order], rtol=1e-5, atol=1e-6)
    alone = {key: value[3:4] for key, value in batch.items()}
    torch.testing.assert_close(network(alone), network(batch)[3:4], rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_parameter_and_stay_finite_without_any_modality(make_batch):
    network = _network()
    batch = make_batch(8, absent=0.5)
    for name in NAMES:
        batch[f"{name}.present"][0] = False
        batch[f"{name}.present"][1] = True
    output = network(batch)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in network.named_parameters() if "query_key_value.bias" not in name)


def test_positions_tell_equal_modalities_apart(make_batch):
    batch = make_batch(3, widths={"smiles": 16, "selfies": 16})
    swapped = dict(batch)
    swapped["smiles.embedding"], swapped["selfies.embedding"] = batch["selfies.embedding"], batch["smiles.embedding"]

    def build(positions):
        torch.manual_seed(0)
        encoders = {name: CachedVectors(name, 16) for name in ("smiles", "selfies")}
        llm = TinyBackbone(width=16, num_layers=1, num_heads=2)
        return FusionNetwork(
            encoders=encoders, llm=llm, num_targets=1, positions=positions, normalize_inputs=False
        ).eval()

    torch.testing.assert_close(build("none")(batch), build("none")(swapped), rtol=1e-5, atol=1e-6)
    for positions in ("learned", "sinusoidal"):
        network = build(positions)
        assert not torch.allclose(network(batch), network(swapped), atol=1e-4)


def test_sinusoidal_table_is_the_published_one_and_does_not_train():
    table = sinusoidal_positions(4, 6)
    assert table.shape == (4, 6)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(table[3, 2], torch.tensor(3.0 / 10000 ** (2 / 6)).sin())
    assert sinusoidal_positions(3, 5).shape == (3, 5)
    assert not _network(positions="sinusoidal").positions.weight.requires_grad


def test_masked_mean_ignores_what_is_masked_even_infinities():
    hidden = torch.tensor([[[1.0], [3.0], [float("inf")]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(hidden, mask).tolist() == [[2.0], [0.0]]


def test_modality_dropout_hides_at_its_rate_but_never_the_last():
    torch.manual_seed(0)
    present = torch.rand(20_000, 3) < 0.6
    kept = drop_modalities(present, 0.5)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(dim=1), present.any(dim=1))
    full = drop_modalities(torch.ones(20_000, 3, dtype=torch.bool), 0.5)
    # 3 * 0.5 kept on average, and one more in the eighth of rows that would have lost all three
    assert full.sum(dim=1).float().mean().item() == pytest.approx(1.5 + 1 / 8, abs=0.03)
    assert drop_modalities(present, 0.999).sum(dim=1).max() <= 2


def test_modality_dropout_only_in_training(make_batch):
    network = _network(modality_dropout=0.5)
    batch = make_batch(64)
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"positions": "learnt"}, "did you mean 'learned'"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"modality_dropout": -0.1}, "model.modality_dropout"),
        ({"names": ()}, "at least one modality"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises(UserError, match=match):
        _network(**settings)


def test_attention_is_over_the_modalities_that_a_row_has(make_batch):
    network = _network().eval()
    batch = make_batch(32, absent=0.4)
    weights, allowed, present = network.attention(batch)
    assert weights.shape == (32, 1, 3, 3)
    assert torch.equal(present, torch.stack([batch[f"{name}.present"] for name in NAMES], dim=1))
    assert weights[:, 0][~allowed].eq(0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(32, 1, 3))
    heads = network.llm.attention(network.embed(batch, present), present)
    torch.testing.assert_close(weights, heads.mean(dim=2))
