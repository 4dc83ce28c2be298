"""Batches of bounded cost: the budget is kept, every row comes once, and every epoch has as many steps."""

import logging
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.graph_arrays import build_arrays
from crystalfm.data.budget import batches_within, never_exceeds, split_for
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.data.module import RecordDataModule
from crystalfm.data.sampler import EvalBatchSampler, ResumableBatchSampler
from crystalfm.data.splits import make_splits

PROPERTY = settings(max_examples=60, deadline=None)
ROWS = st.integers(0, 300)
FIRST = 1000


def costs_of(num_rows, spread=1.5):
    return np.exp(np.random.default_rng(num_rows).normal(3, spread, num_rows)).astype(np.int64)


def train_sampler(num_rows, budget, *, epoch=0, **more):
    rows = np.arange(FIRST, FIRST + num_rows)
    sampler = ResumableBatchSampler(
        rows, **{"batch_size": 16, "seed": 5, "costs": costs_of(num_rows), "budget": budget, **more}
    )
    sampler.set_epoch(epoch)
    return sampler


def keeps(batches, costs, budget, batch_size=16):
    return all(
        0 < len(batch) <= batch_size and (costs[np.array(batch) - FIRST].sum() <= budget or len(batch) == 1)
        for batch in batches
    )


@PROPERTY
@given(num_rows=ROWS, budget=st.integers(1, 2000), epoch=st.integers(0, 5))
def test_the_budget_is_kept_and_every_row_comes_once(num_rows, budget, epoch):
    sampler = train_sampler(num_rows, budget, epoch=epoch)
    batches = list(sampler)
    assert keeps(batches, costs_of(num_rows), budget)
    assert sorted(chain(*batches)) == list(range(FIRST, FIRST + num_rows))
    assert len(batches) == len(sampler) == len(train_sampler(num_rows, budget))


@PROPERTY
@given(
    num_rows=st.integers(1, 200), budget=st.integers(20, 900), num_replicas=st.integers(1, 5), epoch=st.integers(0, 2)
)
def test_ranks_get_equally_many_batches(num_rows, budget, num_replicas, epoch):
    ranks = []
    for rank in range(num_replicas):
        sampler = train_sampler(num_rows, budget, epoch=epoch)
        sampler.shard(num_replicas, rank)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
        assert keeps(ranks[-1], costs_of(num_rows), budget)
    drawn = list(chain(*chain(*ranks)))
    assert set(drawn) == set(range(FIRST, FIRST + num_rows))
    assert len(drawn) - num_rows < num_replicas


@pytest.mark.parametrize("start", [0, 1, 7])
def test_resuming_gives_the_rest_of_the_epoch(start):
    batches = list(train_sampler(200, 400, epoch=3))
    resumed = train_sampler(200, 400, epoch=3)
    resumed.start_batch = start
    assert list(resumed) == batches[start:]
    assert len(resumed) == len(batches) > 10


def test_epochs_differ_in_their_batches_and_in_their_order():
    first, second = (list(train_sampler(3000, 900, epoch=epoch, costs=costs_of(3000, 0.6))) for epoch in (0, 1))
    assert first != second
    beside = [{row: frozenset(batch) for batch in batches for row in batch} for batches in (first, second)]
    shared = [len(beside[0][row] & beside[1][row]) - 1 for row in beside[0]]
    assert np.mean(shared) < 0.5
    means = [np.mean(batch) for batch in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2
    assert list(train_sampler(3000, 900, seed=6, costs=costs_of(3000, 0.6))) != first


def test_batches_are_filled():
    costs = costs_of(4000, 0.6)
    batches = list(train_sampler(4000, 500, costs=costs, batch_size=64))
    filled = np.array([costs[np.array(batch) - FIRST].sum() for batch in batches])
    assert np.median(filled) > 0.85 * 500
    assert len(batches) < 1.25 * costs.sum() / 500


def test_ranks_get_batches_of_like_cost_at_the_same_step():
    costs = costs_of(2000, 0.8)
    ranks = []
    for rank in (0, 1):
        sampler = train_sampler(2000, 500, costs=costs)
        sampler.shard(2, rank)
        ranks.append([costs[np.array(batch) - FIRST].sum() for batch in sampler])
    ratio = np.maximum(*ranks) / np.minimum(*ranks)
    assert np.median(ratio) < 1.1


def test_nothing_changes_where_no_batch_could_exceed_the_budget():
    costs = costs_of(100)
    roomy = int(np.sort(costs)[-16:].sum())
    assert list(train_sampler(100, roomy)) == list(train_sampler(100, None))
    assert list(train_sampler(100, roomy - 1)) != list(train_sampler(100, None))
    assert never_exceeds(costs, 16, roomy)
    assert not never_exceeds(costs, 16, roomy - 1)


@PROPERTY
@given(num_rows=ROWS, budget=st.integers(1, 2000), num_replicas=st.integers(1, 4), bucketed=st.booleans())
def test_evaluation_keeps_the_budget(num_rows, budget, num_replicas, bucketed):
    costs = costs_of(num_rows)
    lengths = costs % 7 if bucketed else None
    ranks = [
        list(
            EvalBatchSampler(
                np.arange(FIRST, FIRST + num_rows),
                batch_size=16, lengths=lengths, costs=costs, budget=budget, num_replicas=num_replicas, rank=rank,
            )
        )
        for rank in range(num_replicas)
    ]  # fmt: skip
    drawn = list(chain(*chain(*ranks)))
    assert sorted(drawn) == list(range(FIRST, FIRST + num_rows))
    assert all(keeps(batches, costs, budget) for batches in ranks)
    if num_rows >= 16 * num_replicas and any(len(batch) > 1 for batch in chain(*ranks)):
        assert len({len(batches) for batches in ranks}) == 1


def test_cutting_and_halving():
    rows = np.arange(6)
    batches = batches_within(rows, np.array([5, 9, 1, 1, 1, 3]), 5, max_rows=2)
    assert [batch.tolist() for batch in batches] == [[0], [1], [2, 3], [4, 5]]
    assert [batch.tolist() for batch in split_for(batches, 3)] == [[0], [1], [2], [3], [4], [5]]
    assert len(split_for(batches[:2], 3)) == 2
    assert batches_within(rows[:0], rows[:0], 5) == []


def chains(sizes):
    """Return the store of simple cubes stacked to cells of so many atoms."""
    cells = [
        make_crystal(np.diag([3.0, 3.0, 3.0 * size]), [26] * size, [[0, 0, place / size] for place in range(size)])
        for size in sizes
    ]
    everything = np.arange(len(cells))
    return CrystalGraphStore(
        "crystal_graph", everything >= 0, graphs=build_arrays(cells, GraphSettings()), index=everything,
        settings=GraphSettings(),
    )  # fmt: skip


def test_loaders_of_crystals_keep_the_budget_and_name_what_exceeds_it(make_table, caplog):
    table = make_table(40)
    store = chains(np.arange(40) % 4 + 1)
    budget = int(np.sort(store.costs)[-1]) - 1
    with caplog.at_level(logging.WARNING):
        module = RecordDataModule(
            table=table, splits=make_splits(table, seed=1), stores={"crystal_graph": store}, batch_size=8,
            eval_batch_size=16, batch_budget=budget,
        )  # fmt: skip
    assert f"10 of 40 rows cost more than data.batch_budget={budget}" in caplog.text
    for loader in (module.train_dataloader(), module.predict_dataloader()):
        for batch in loader:
            rows = batch["row"].numpy()
            assert store.costs[rows].sum() <= budget or len(rows) == 1
            sizes = [len(batch[f"crystal_graph.{name}"]) for name in ("atomic_numbers", "edge_source", "triplet_first")]
            assert sum(sizes) == store.costs[rows].sum()
