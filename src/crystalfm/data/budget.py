"""Batches whose cost never exceeds a budget, equally many in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

_CLASS_RATIO = 1.1
"""Rows whose costs differ by less may take each other's place: they are booked at the largest cost of their class."""

_PLAN_STREAM = 2
"""Keeps the random numbers of the plan apart from those that order the rows of an epoch."""


def batches_within(order: Integers, costs: Integers, budget: int, max_rows: int | None = None) -> list[Integers]:
    """Cut rows, in their order, into batches whose costs sum to at most ``budget``.

    Args:
        order: (N,) rows.
        costs: (N,) cost of each of them; one beyond the budget gets a batch of its own.
        budget: largest sum of a batch.
        max_rows: largest number of rows of a batch.
    """
    starts = []
    total = num_rows = 0
    for place, cost in enumerate(costs.tolist()):
        if place == 0 or total + cost > budget or num_rows == max_rows:
            starts.append(place)
            total = num_rows = 0
        total += cost
        num_rows += 1
    return np.split(order, starts[1:]) if starts else []


def split_for(batches: list[Integers], num_replicas: int) -> list[Integers]:
    """Halve the batches of most rows until ranks can share them evenly, or no batch has two rows."""
    batches = list(batches)
    while len(batches) % num_replicas:
        longest = max(range(len(batches)), key=lambda number: len(batches[number]))
        if len(batches[longest]) == 1:
            break
        batches[longest : longest + 1] = np.array_split(batches[longest], 2)
    return batches


def never_exceeds(costs: Integers, batch_size: int, budget: int) -> bool:
    """Say whether no batch of ``batch_size`` rows can cost more than ``budget``."""
    return int(np.sort(costs)[-batch_size:].sum()) <= budget


@dataclass(frozen=True)
class BudgetPlan:
    """Batches of places, into which each epoch puts the rows anew.

    The rows are divided into classes of like cost, and a batch is planned as so many places of each class, booked at
    the largest cost of the class. In every epoch the rows of a class are dealt out to its places, so that the number
    of steps is the same, as learning-rate schedules and the position in an epoch need it, and the budget always kept.

    Attributes:
        classes: (N,) class of each row.
        steps: for each step the places of each rank's batch: numbers in 0 to N - 1, ascending with the class.
    """

    classes: Integers
    steps: list[list[Integers]]

    @classmethod
    def of(cls, costs: Integers, *, batch_size: int, budget: int, num_replicas: int, seed: int) -> BudgetPlan:
        """Plan an epoch.

        Args:
            costs: (N,) cost of each row, 0 or more.
            batch_size: largest number of rows of a batch.
            budget: largest cost of a batch; a row beyond it gets a batch of its own.
            num_replicas: ranks that share each step. If the batches cannot be shared evenly, some rows are repeated.
            seed: seed of which classes share a batch.
        """
        classes = np.ceil(np.log(np.maximum(costs, 1)) / np.log(_CLASS_RATIO)).astype(np.int64)
        classes = np.where(costs > budget, classes.max(initial=0) + 1, classes)
        by_class = np.argsort(classes, kind="stable")
        booked = _largest_of_class(costs[by_class], classes[by_class])
        order = np.random.default_rng([seed, _PLAN_STREAM]).permutation(len(costs))
        batches = split_for(batches_within(order, booked[order], budget, batch_size), num_replicas)
        # Ranks wait for each other: at the same step they get batches of like cost.
        batches.sort(key=lambda places: int(booked[places].sum()), reverse=True)
        batches += batches[-1:] * (-len(batches) % num_replicas)
        steps = [batches[start : start + num_replicas] for start in range(0, len(batches), num_replicas)]
        return cls(classes, steps)

    def draw(self, generator: np.random.Generator) -> list[list[Integers]]:
        """Return the rows, as numbers in 0 to N - 1, of each rank's batch for the steps of an epoch, shuffled."""
        rows = np.lexsort((generator.random(len(self.classes)), self.classes))
        return [[rows[places] for places in self.steps[step]] for step in generator.permutation(len(self.steps))]


def _largest_of_class(costs: Integers, classes: Integers) -> Integers:
    """Return for each row, sorted by class, the largest cost of its class."""
    if not len(costs):
        return costs
    starts = np.flatnonzero(np.diff(classes, prepend=classes[0] - 1))
    largest = np.maximum.reduceat(costs, starts)
    booked: Integers = np.repeat(largest, np.diff(starts, append=len(costs)))
    return booked
