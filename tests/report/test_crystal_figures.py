"""Figures of judged crystals are drawn for ordinary and for empty sets."""

import numpy as np
import pytest
from matplotlib.image import imread

from crystalfm.chem.crystals import make_crystal
from crystalfm.metrics.crystals.counts import Share
from crystalfm.metrics.crystals.symmetry import symmetry_histogram
from crystalfm.report.crystal_figures import distributions_plot, hull_plot, shares_plot


def cubes(numbers):
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    return [make_crystal(np.eye(3) * (3.5 + 0.1 * step), [11, number], coords) for step, number in enumerate(numbers)]


def drawn(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[..., :3].min(axis=2) < 0.95).mean())


def test_shares(tmp_path):
    groups = [{"valid": Share(9, 10), "unique": Share(1, 10)}, {"novel": Share(0, 0)}]
    path = shares_plot(groups, tmp_path / "shares.png", title="ten")
    fuller = shares_plot([{"valid": Share(10, 10), "unique": Share(10, 10)}, groups[1]], tmp_path / "full.png")
    assert 0.01 < drawn(path) < drawn(fuller)


@pytest.mark.parametrize("num_samples", [0, 1, 12])
def test_distributions(tmp_path, num_samples):
    samples, reference = cubes([17] * num_samples), cubes([17, 35, 53, 11])
    symmetry = symmetry_histogram([225] * num_samples)
    path = distributions_plot(samples, reference, symmetry, symmetry_histogram([1, 2, 62, 225]), tmp_path / "d.png")
    assert drawn(path) > 0.01


@pytest.mark.parametrize("energies", [[], [-5.0, -0.01, 0.0, 0.05, 0.3, 9.0]])
def test_energies_above_the_hull(tmp_path, energies):
    assert drawn(hull_plot(energies, 10, tmp_path / "hull.png", title="ten")) > 0.005
