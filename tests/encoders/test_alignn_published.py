"""Folders of the ``alignn`` package: what loads, what is left out, and what is refused with a reason."""

import json
from functools import partial

import pytest
import torch
from crystal_batches import make_batch, set_running_statistics

from crystalfm.chem.atom_features import cgcnn_atom_features
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.contracts import UserError
from crystalfm.encoders.alignn import ALIGNN
from crystalfm.encoders.alignn_published import load_published

SIZES = {
    "alignn_layers": 1, "gcn_layers": 1, "edge_input_features": 10, "triplet_input_features": 8,
    "embedding_features": 6, "hidden_features": 8, "output_features": 1,
}  # fmt: skip


def publish(folder, *, norm="batch", name="alignn", table=None, more=None, weights=None, model=None, flat=False):
    """Write a folder as the package does: flat weights, or a checkpoint with optimizer, schedule and their objects."""
    torch.manual_seed(0)
    table = torch.tensor(cgcnn_atom_features()) if table is None else table
    network = ALIGNN(table, norm=norm, **SIZES)
    set_running_statistics(network)
    folder.mkdir(exist_ok=True)
    section = {"name": name, **SIZES, "atom_input_features": table.shape[1], "link": "identity", **(model or {})}
    config = {"model": section, "max_neighbors": 12, "neighbor_strategy": "k-nearest", "cutoff": 8.0}
    (folder / "config.json").write_text(json.dumps(config))
    content = {**network.state_dict(), **(more or {})} if weights is None else weights
    if flat:
        torch.save(content, folder / "best_model.pt")
        return network.eval()
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=9)
    state = {**schedule.state_dict(), "anneal_func": torch.optim.lr_scheduler.OneCycleLR._annealing_cos}
    parts = {"model": content, "optimizer": optimizer.state_dict(), "lr_scheduler": state, "trainer": partial(int)}
    torch.save(parts, folder / "checkpoint_300.pt")
    return network.eval()


@pytest.mark.parametrize(
    ("norm", "name", "flat"),
    [("batch", "alignn", False), ("layer", "alignn_atomwise", True), ("layer", "alignn", False)],
)
def test_a_published_network_predicts_what_it_did(tmp_path, norm, name, flat):
    network = publish(tmp_path / "net", norm=norm, name=name, flat=flat)
    found = load_published(tmp_path / "net")
    batch = make_batch(3)
    assert torch.equal(found.network(batch).prediction, network(batch).prediction)
    assert not found.network.training
    assert found.settings["norm"] == norm
    assert found.graphs == GraphSettings("k_nearest", 12, as_alignn=True)
    assert (found.neighbor_strategy, found.ignored) == ("k-nearest", ())


def test_the_newest_checkpoint_counts_and_the_best_model_before_it(tmp_path):
    publish(tmp_path)
    late = publish(tmp_path, more={"fc.bias": torch.tensor([7.0])})
    (tmp_path / "checkpoint_300.pt").rename(tmp_path / "checkpoint_1000.pt")
    publish(tmp_path)
    assert load_published(tmp_path).network.fc.bias.item() == 7.0
    best = publish(tmp_path, flat=True)
    assert torch.equal(load_published(tmp_path).network.fc.bias, best.fc.bias)
    assert not torch.equal(late.fc.bias, torch.tensor([7.0]))


def test_heads_of_atoms_are_left_out_and_named(tmp_path):
    publish(tmp_path, more={"fc_atomwise.weight": torch.zeros(3, 8), "fc_atomwise.bias": torch.zeros(3)})
    assert load_published(tmp_path).ignored == ("fc_atomwise.weight", "fc_atomwise.bias")


def test_atomic_numbers_as_the_only_feature(tmp_path):
    table = torch.arange(119.0)[:, None]
    network = publish(tmp_path, table=table)
    batch = make_batch(2)
    assert torch.equal(load_published(tmp_path).network(batch).prediction, network(batch).prediction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "dense_alignn"}, "'dense_alignn' is not an ALIGNN"),
        ({"model": {"classification": True}}, "classification=True"),
        ({"model": {"use_cutoff_function": True, "extra_features": 3}}, "extra_features=3, use_cutoff_function=True"),
        ({"model": {"conv_type": "t_alignn"}}, "conv_type=t_alignn"),
        ({"model": {"hidden_features": 16}}, "do not fit config.json"),
        ({"table": torch.rand(119, 9)}, "takes 9 features"),
        ({"more": {"odd.weight": torch.zeros(1)}}, "odd.weight"),
        ({"weights": {"a": torch.zeros(1)}}, "not those of an ALIGNN"),
        ({"weights": {"a": 3}}, "holds no weights"),
        ({"weights": [torch.zeros(1)], "flat": True}, "holds no weights"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path, change, message):
    publish(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        load_published(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load_published(tmp_path)
    publish(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["gcn_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lacks gcn_layers"):
        load_published(tmp_path)
    (tmp_path / "checkpoint_300.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(UserError, match=r"checkpoint_300\.pt is not a checkpoint"):
        load_published(tmp_path)
    (tmp_path / "checkpoint_300.pt").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load_published(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="no section 'model'"):
        load_published(tmp_path)


def test_nothing_of_a_checkpoint_is_called(tmp_path):
    publish(tmp_path)
    marker = tmp_path / "called"

    class Evil:
        def __reduce__(self):
            return marker.write_text, ("x",)

    parts = torch.load(tmp_path / "checkpoint_300.pt", weights_only=False)
    torch.save({"model": parts["model"], "optimizer": Evil()}, tmp_path / "checkpoint_300.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_published(tmp_path)
    assert not marker.exists()
