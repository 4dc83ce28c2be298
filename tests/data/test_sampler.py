"""Batch samplers: every row once, an order from seed and epoch alone, resuming gives the rest."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.data.sampler import EvalBatchSampler, ResumableBatchSampler

PROPERTY = settings(max_examples=80, deadline=None)

ROWS = st.integers(0, 400)
SIZES = st.integers(1, 33)


def train_sampler(num_rows=100, *, bucketed=False, first_row=1000, **settings_):
    rows = np.arange(first_row, first_row + num_rows)
    lengths = np.random.default_rng(0).integers(1, 60, num_rows) if bucketed else None
    return ResumableBatchSampler(rows, lengths=lengths, **{"batch_size": 8, "seed": 3, **settings_})


@PROPERTY
@given(num_rows=ROWS, batch_size=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(0, 9), bucketed=st.booleans())
def test_every_row_comes_exactly_once_an_epoch(num_rows, batch_size, seed, epoch, bucketed):
    sampler = train_sampler(num_rows, batch_size=batch_size, seed=seed, bucketed=bucketed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(chain(*batches)) == list(range(1000, 1000 + num_rows))
    assert len(batches) == len(sampler)
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


@PROPERTY
@given(num_rows=st.integers(1, 300), batch_size=SIZES, start=st.integers(0, 400), bucketed=st.booleans())
def test_resuming_gives_the_rest_of_the_epoch(num_rows, batch_size, start, bucketed):
    whole = train_sampler(num_rows, batch_size=batch_size, bucketed=bucketed)
    whole.set_epoch(2)
    batches = list(whole)
    start = min(start, len(batches))
    resumed = train_sampler(num_rows, batch_size=batch_size, bucketed=bucketed)
    resumed.set_epoch(2)
    resumed.start_batch = start
    assert list(resumed) == batches[start:]
    assert len(resumed) == len(batches)
    resumed.set_epoch(3)
    whole.set_epoch(3)
    assert list(resumed) == list(whole)


@PROPERTY
@given(num_rows=ROWS, batch_size=SIZES, num_replicas=st.integers(1, 6), epoch=st.integers(0, 3), bucketed=st.booleans())
def test_ranks_share_the_rows_in_equally_many_batches(num_rows, batch_size, num_replicas, epoch, bucketed):
    ranks = []
    for rank in range(num_replicas):
        sampler = train_sampler(num_rows, batch_size=batch_size, bucketed=bucketed)
        sampler.shard(num_replicas, rank)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    assert len({len(batches) for batches in ranks}) == 1
    assert all(0 < len(batch) <= batch_size for batches in ranks for batch in batches)
    drawn = list(chain(*chain(*ranks)))
    assert set(drawn) == set(range(1000, 1000 + num_rows))
    assert len(drawn) - num_rows < num_replicas


@pytest.mark.parametrize("bucketed", [False, True])
def test_order_depends_on_seed_and_epoch_alone(bucketed):
    sampler = train_sampler(bucketed=bucketed)
    first = list(sampler)
    np.random.default_rng().random(5)
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    assert list(train_sampler(bucketed=bucketed, seed=4)) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_order_does_not_depend_on_lightnings_or_torchs_random_state():
    import torch

    torch.manual_seed(0)
    first = list(train_sampler())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert list(train_sampler()) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_really_shuffled():
    drawn = list(chain(*train_sampler(500)))
    assert drawn != sorted(drawn)
    assert abs(np.corrcoef(drawn, np.arange(500))[0, 1]) < 0.2


def test_buckets_cut_padding():
    def padded(bucketed):
        lengths = np.random.default_rng(0).integers(1, 60, 4000)
        sampler = ResumableBatchSampler(np.arange(4000), batch_size=32, seed=0, lengths=lengths if bucketed else None)
        return sum(len(batch) * lengths[batch].max() for batch in sampler) / lengths.sum()

    assert padded(bucketed=True) < 1.1
    assert padded(bucketed=False) > 1.6


def test_bucketed_batches_come_in_no_order_of_length():
    lengths = np.arange(2000)
    sampler = ResumableBatchSampler(np.arange(2000), batch_size=20, seed=0, lengths=lengths)
    means = [lengths[batch].mean() for batch in sampler]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_ranks_get_similar_lengths_at_the_same_step():
    lengths = np.random.default_rng(0).integers(1, 100, 3200)
    ranks = []
    for rank in range(2):
        sampler = ResumableBatchSampler(np.arange(3200), batch_size=16, seed=0, lengths=lengths)
        sampler.shard(2, rank)
        ranks.append([lengths[batch].mean() for batch in sampler])
    assert np.abs(np.subtract(*ranks)).max() < 5


def test_iterator_follows_the_epoch_set_before_its_first_batch():
    sampler = train_sampler()
    iterator = iter(sampler)
    sampler.set_epoch(5)
    expected = train_sampler()
    expected.set_epoch(5)
    assert list(iterator) == list(expected)


def test_start_is_forgotten_when_another_epoch_begins():
    sampler = train_sampler()
    sampler.set_epoch(1)
    sampler.start_batch = 4
    sampler.set_epoch(1)
    assert sampler.start_batch == 4
    sampler.set_epoch(2)
    assert sampler.start_batch == 0


def test_fixed_order_for_overfitting():
    sampler = train_sampler(reshuffle=False)
    first = list(sampler)
    sampler.set_epoch(7)
    assert list(sampler) == first
    assert sampler.epoch == 7


def test_lightning_finds_the_epoch_setter():
    sampler = train_sampler()
    assert sampler.sampler is sampler


@pytest.mark.parametrize("start", [-1, 14])
def test_start_outside_the_epoch(start):
    with pytest.raises(ValueError, match="start_batch"):
        train_sampler().start_batch = start


def test_programming_errors():
    with pytest.raises(ValueError, match="batch_size"):
        train_sampler(batch_size=0)
    with pytest.raises(ValueError, match="lengths"):
        ResumableBatchSampler(np.arange(3), batch_size=1, seed=0, lengths=np.ones(2, dtype=np.int64))
    with pytest.raises(ValueError, match="rank"):
        train_sampler().shard(2, 2)
    with pytest.raises(ValueError, match="batch_size"):
        EvalBatchSampler(np.arange(3), batch_size=0)
    with pytest.raises(ValueError, match="rank"):
        EvalBatchSampler(np.arange(3), batch_size=1, num_replicas=1, rank=1)


@PROPERTY
@given(num_rows=ROWS, batch_size=SIZES, num_replicas=st.integers(1, 6), bucketed=st.booleans())
def test_evaluation_sees_every_row_exactly_once_over_all_ranks(num_rows, batch_size, num_replicas, bucketed):
    rows = np.arange(num_rows) * 2
    lengths = np.random.default_rng(1).integers(1, 9, num_rows) if bucketed else None
    samplers = [
        EvalBatchSampler(rows, batch_size=batch_size, lengths=lengths, num_replicas=num_replicas, rank=rank)
        for rank in range(num_replicas)
    ]
    drawn = [list(sampler) for sampler in samplers]
    assert sorted(chain(*chain(*drawn))) == rows.tolist()
    assert [len(batches) for batches in drawn] == [len(sampler) for sampler in samplers]
    assert all(0 < len(batch) <= batch_size for batches in drawn for batch in batches)
    if num_rows >= num_replicas * -(-num_rows // (batch_size * num_replicas)):
        assert len({len(batches) for batches in drawn}) == 1


def test_evaluation_keeps_the_order_without_lengths_and_sorts_with_them():
    assert list(EvalBatchSampler(np.array([5, 3, 9]), batch_size=2)) == [[5, 3], [9]]
    lengths = np.array([1, 7, 4])
    assert list(EvalBatchSampler(np.array([5, 3, 9]), batch_size=2, lengths=lengths)) == [[3, 9], [5]]
