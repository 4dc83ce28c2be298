"""Counts of samples and of reference crystals by density and by number of elements, in the same bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.metrics.crystals.structures import density, num_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal

_MAX_DENSITY_QUANTILE = 0.995
_NUM_BINS = 30


@dataclass(frozen=True)
class Histogram:
    """Counts of two sets of crystals in the same B bins.

    Attributes:
        edges: B + 1 borders of the bins.
        samples: samples in each bin.
        reference: reference crystals in each bin.
    """

    edges: Sequence[float]
    samples: Sequence[int]
    reference: Sequence[int]

    def as_dict(self) -> dict[str, Any]:
        """Return borders and counts as plain values."""
        return {"edges": list(self.edges), "samples": list(self.samples), "reference": list(self.reference)}


def counts_in_bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many of the values are in each of B bins with B + 1 edges; the last holds what is above, too."""
    return np.histogram(np.minimum(values, edges[-1]), edges)[0]


def density_histogram(samples: Sequence[Crystal], reference: Sequence[Crystal]) -> Histogram:
    """Return how many crystals have which density in g/cm^3; the last bin holds the half per cent above it, too."""
    ours, theirs = (np.array([density(crystal) for crystal in crystals]) for crystals in (samples, reference))
    both = np.concatenate([ours, theirs])
    edges = np.linspace(0, float(np.quantile(both, _MAX_DENSITY_QUANTILE)) if len(both) else 1.0, _NUM_BINS + 1)
    counts = [counts_in_bins(values, edges).tolist() for values in (ours, theirs)]
    return Histogram(edges.tolist(), *counts)


def num_elements_histogram(samples: Sequence[Crystal], reference: Sequence[Crystal]) -> Histogram:
    """Return how many crystals have which number of different elements, from 1 to the largest."""
    found = [[num_elements(crystal) for crystal in crystals] for crystals in (samples, reference)]
    most = max((number for numbers in found for number in numbers), default=1)
    counts = [np.bincount(np.array(numbers, dtype=np.int64), minlength=most + 1)[1:].tolist() for numbers in found]
    return Histogram([place + 0.5 for place in range(most + 1)], *counts)
