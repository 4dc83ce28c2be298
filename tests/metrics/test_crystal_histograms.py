"""Counts in bins: every crystal is in one, the bins are the same for samples and reference."""

import numpy as np
import pytest

from crystalfm.chem.crystals import make_crystal
from crystalfm.metrics.crystals.histograms import density_histogram, num_elements_histogram
from crystalfm.metrics.crystals.structures import density


def cube(edge, numbers):
    coords = np.linspace(0, 0.9, 3 * len(numbers)).reshape(-1, 3)
    return make_crystal(np.eye(3) * edge, numbers, coords)


def test_densities_beyond_the_last_bin_are_in_it():
    reference = [cube(5 + 0.01 * step, [11, 17]) for step in range(999)]
    dense = [cube(1.5, [79, 79])]
    found = density_histogram(dense, reference)
    assert len(found.edges) == 31
    assert density(dense[0]) > found.edges[-1]
    assert found.samples == [0] * 29 + [1]
    assert sum(found.reference) == 999
    assert found.as_dict()["edges"][0] == 0.0


def test_without_samples_the_reference_is_counted():
    found = density_histogram([], [cube(4.0, [11, 17])])
    assert sum(found.samples) == 0
    assert sum(found.reference) == 1
    assert sum(density_histogram([], []).reference) == 0


def test_numbers_of_elements_begin_at_one():
    found = num_elements_histogram([cube(4, [11]), cube(4, [11, 17]), cube(4, [11, 17, 8, 8])], [cube(4, [1, 1])])
    assert found.samples == [1, 1, 1]
    assert found.reference == [1, 0, 0]
    assert found.edges == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert num_elements_histogram([], []).samples == [0]
