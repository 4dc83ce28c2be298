"""Loaders: batches of named tensors, workers, and what Lightning does with the sampler."""

import logging
import pickle

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch

from crystalfm.contracts import BATCH_KEYS
from crystalfm.data.batches import RecordDataset, finished_batch
from crystalfm.data.features import TokenStore, VectorStore
from crystalfm.data.module import RecordDataModule, row_lengths
from crystalfm.data.splits import make_splits


def token_store(num_rows):
    lengths = np.arange(num_rows) % 5 + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(num_rows), lengths).astype(np.int32)
    return TokenStore("smiles", np.ones(num_rows, dtype=bool), tokens, offsets, pad_token_id=999)


def vector_store(num_rows):
    present = np.arange(num_rows) % 3 > 0
    vectors = np.arange(num_rows * 2, dtype=np.float32).reshape(num_rows, 2) + 1
    return VectorStore("description", present, vectors, np.arange(num_rows), "embedding")


@pytest.fixture
def make_module(make_table):
    def make(num_rows=50, **settings):
        table = make_table(num_rows)
        stores = {"smiles": token_store(num_rows), "description": vector_store(num_rows)}
        return RecordDataModule(
            table=table,
            splits=make_splits(table, seed=1),
            stores=stores,
            **{"batch_size": 8, "eval_batch_size": 16, "seed": 0, **settings},
        )

    return make


def test_batch_holds_registered_keys_with_their_types_and_shapes(make_module):
    batch = next(iter(make_module().train_dataloader()))
    types = {key.pattern: key.dtype for key in BATCH_KEYS}
    assert set(batch) == {
        "row", "targets", "target_mask", "smiles.tokens", "smiles.mask", "smiles.present",
        "description.embedding", "description.present",
    }  # fmt: skip
    for key, tensor in batch.items():
        pattern = key.replace("smiles.", "{m}.").replace("description.", "{m}.")
        assert str(tensor.dtype) == f"torch.{types[pattern]}"
        assert len(tensor) == 8


def test_values_of_a_batch_belong_to_its_rows(make_module):
    for batch in make_module().train_dataloader():
        rows = batch["row"]
        assert torch.equal(batch["targets"][:, 0], rows.float())
        assert torch.equal(batch["smiles.mask"].sum(1), rows % 5 + 1)
        assert torch.equal(batch["smiles.tokens"][:, 0], rows)
        assert torch.equal(batch["description.present"], rows % 3 > 0)
        expected = torch.where(rows % 3 > 0, rows * 2 + 1, 0).float()
        assert torch.equal(batch["description.embedding"][:, 0], expected)


def test_missing_targets_are_masked_and_zero():
    dataset = RecordDataset(np.array([[1.0, np.nan], [np.nan, 4.0]]), {})
    batch = dataset.__getitems__([1, 0])
    assert batch["targets"].tolist() == [[0.0, 4.0], [1.0, 0.0]]
    assert batch["target_mask"].tolist() == [[False, True], [True, False]]


def test_total_energies_keep_chemical_accuracy():
    energies = np.linspace(-715.0, -40.0, 1001)[:, None]
    batch = RecordDataset(energies, {}).__getitems__(list(range(1001)))
    assert np.abs(batch["targets"].double().numpy() - energies).max() < 3.1e-5


def test_single_row_is_a_batch_of_one():
    dataset = RecordDataset(np.array([[1.0], [2.0]]), {})
    assert len(dataset) == 2
    assert dataset[1]["targets"].tolist() == [[2.0]]


def test_stores_of_another_length_are_a_programming_error():
    with pytest.raises(ValueError, match="features for"):
        RecordDataset(np.zeros((3, 1)), {"smiles": token_store(4)})


def test_evaluation_loaders_cover_their_split_once(make_module):
    module = make_module()
    for loader, rows in ((module.val_dataloader(), module.splits.val), (module.test_dataloader(), module.splits.test)):
        assert sorted(torch.cat([batch["row"] for batch in loader]).tolist()) == rows.tolist()
    module.predict_rows = np.array([7, 3, 40])
    assert sorted(torch.cat([batch["row"] for batch in module.predict_dataloader()]).tolist()) == [3, 7, 40]


def test_lengths_add_up_over_token_stores():
    stores = {"a": token_store(6), "b": token_store(6), "c": vector_store(6)}
    assert row_lengths(stores).tolist() == [2, 4, 6, 8, 10, 2]
    assert row_lengths({"c": vector_store(6)}) is None


def test_buckets_can_be_switched_off(make_module):
    def order(**settings):
        return [batch["row"].tolist() for batch in make_module(num_rows=200, **settings).train_dataloader()]

    assert order(bucket_by_length=True) != order(bucket_by_length=False)


def test_loading_draws_no_global_random_number(make_module):
    before = torch.get_rng_state()
    list(make_module().train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_forked_workers_give_the_same_batches(make_module):
    expected = [batch["row"].tolist() for batch in make_module().train_dataloader()]
    assert [batch["row"].tolist() for batch in make_module(num_workers=1).train_dataloader()] == expected


def test_dataset_travels_to_spawned_workers(make_module):
    loader = make_module().train_dataloader()
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))  # noqa: S301 - as spawn does
    assert collate is finished_batch
    first, again = loader.dataset.__getitems__([4, 2]), collate(dataset.__getitems__([4, 2]))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_spawned_workers_give_the_same_batches(make_module):
    expected = [batch["row"].tolist() for batch in make_module().train_dataloader()]
    loader = make_module(num_workers=1).train_dataloader()
    loader.multiprocessing_context = "spawn"
    assert [batch["row"].tolist() for batch in loader] == expected


class Recorder(L.LightningModule):
    """Notes the rows of every training batch; the one weight gives the trainer something to do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch["row"].tolist())
        return (self.weight - batch["targets"].mean()).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module, **settings):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(recorder, datamodule=module)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_follows_the_sampler_over_epochs(make_module, num_workers):
    module = make_module(num_workers=num_workers)
    seen = fit(module, max_epochs=3)
    for epoch in range(3):
        module.train_sampler.set_epoch(epoch)
        assert seen[epoch] == list(module.train_sampler)
    assert seen[0] != seen[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_starts_where_the_sampler_says(make_module, num_workers):
    whole = list(make_module().train_sampler)
    module = make_module(num_workers=num_workers)
    module.train_sampler.start_batch = 2
    seen = fit(module, max_epochs=2)
    assert seen[0] == whole[2:]
    assert len(seen[1]) == len(whole)


@pytest.mark.filterwarnings("ignore")
def test_overfitting_repeats_the_same_batches(make_module):
    seen = fit(make_module(), max_epochs=3, overfit_batches=2)
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]
